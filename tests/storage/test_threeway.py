"""Merges with an origin as numbers: what both changed, against dense arithmetic and PEFT."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from soup_git.arithmetic.strategies import STRATEGIES
from soup_git.core.adapter import parse_adapter_config
from soup_git.core.manifest import Manifest, make_manifest
from soup_git.core.threeway import Combination, ConflictError
from soup_git.errors import FatalError
from soup_git.storage.threeway import Merger, rebuild
from soup_git.storage.workspace import Workspace
from tests.versions import best_of_rank, nudge, updates

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def stored(workspace: Workspace, folder: Path | str) -> Manifest:
    """An adapter's manifest, its weights in the cache."""
    config = parse_adapter_config(Path(folder, CONFIG).read_bytes(), CONFIG)
    found = workspace.store_weights(Path(folder, WEIGHTS), WEIGHTS)
    return make_manifest(config, found.tensors, weights_md5=found.md5, weights_size=found.size)


SUM = Combination(weights="1")


def merger(workspace: Workspace, how: Combination = SUM) -> Merger:
    """By default the sum of the steps; all weights are in the cache, so nothing is fetched."""
    return Merger(workspace, lambda _workspace, _md5s: None, how)


def restored(workspace: Workspace, manifest: Manifest, folder: str, like: str = "o") -> Path:
    """A folder with the weights that a manifest names, and the config of another."""
    Path(folder).mkdir(exist_ok=True)
    workspace.dvc.restore_file(manifest.weights_md5, Path(folder, WEIGHTS))
    Path(folder, CONFIG).write_bytes(Path(like, CONFIG).read_bytes())
    return Path(folder)


@pytest.fixture
def three(repo, make_adapter) -> Callable[..., tuple[Workspace, list[Manifest]]]:
    """`three(**config)`: the folders o, a, b: an origin and two sides, all modules moved."""

    def make(step: float = 0.1, **config) -> tuple[Workspace, list[Manifest]]:
        workspace = Workspace.open()
        for seed, name in ((1, "o"), (1, "a"), (1, "b")):
            make_adapter(name, seed=seed, **config)
        nudge("a", 2, scale=step)
        nudge("b", 3, scale=step)
        return workspace, [stored(workspace, name) for name in "oab"]

    return make


def relative(found, wanted) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(
    ("weights", "coefficients"),
    [
        ("1", (-1, 1, 1)),
        ("mean", (0, 0.5, 0.5)),
        ("0.7,0.2", (0.1, 0.7, 0.2)),
        ("0.3", (0.4, 0.3, 0.3)),
    ],
)
@pytest.mark.parametrize("strategy", ["linear", "svd"])
def test_linear_is_task_arithmetic_at_the_rank_of_ours(three, strategy, weights, coefficients):
    workspace, (o, a, b) = three()
    merged = merger(workspace, Combination(strategy, weights)).adapters(o, [a, b])
    found = updates(restored(workspace, merged.manifest, "m"))
    dense = [updates(name) for name in "oab"]
    lost = norm = 0.0
    for module, value in found.items():
        exact = sum(c * x[module] for c, x in zip(coefficients, dense, strict=True))
        assert relative(value, best_of_rank(exact, 8)) < 1e-6
        lost += np.linalg.norm(exact - best_of_rank(exact, 8)) ** 2
        norm += np.linalg.norm(exact) ** 2
    assert merged.residual == pytest.approx((lost / norm) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("strategy", sorted(s for s in STRATEGIES if not STRATEGIES[s].searches))
def test_every_strategy_merges_task_vectors_and_is_made_again(three, strategy):
    workspace, (o, a, b) = three()
    how = Combination(strategy, "0.5", density=0.6, seed=3)
    merged = merger(workspace, how).adapters(o, [a, b]).manifest
    assert merger(workspace, how).adapters(o, [b, a]).manifest.text() == merged.text()
    # No step on one side: its task vector is nothing, whatever joins them.
    assert merger(workspace, how).adapters(o, [o, b]).manifest.tensors == b.tensors
    found, before = updates(restored(workspace, merged, "m")), updates("o")
    steps = [updates(name) for name in "ab"]
    for module, value in found.items():
        longest = max(np.linalg.norm(s[module] - before[module]) for s in steps)
        assert np.linalg.norm(value - before[module]) < 4 * longest


def test_a_step_of_nothing_keeps_even_a_lossy_strategy_exact(three):
    workspace, (o, a, _) = three()
    merged = merger(workspace, Combination("ties")).adapters(o, [a, a]).manifest
    assert merged.weights_md5 == a.weights_md5


@pytest.mark.parametrize("dtype", ["F64", "BF16", "F16"])
def test_the_dtype_stays(repo, make_adapter, dtype):
    workspace = Workspace.open()
    sides = []
    for seed in (1, 2, 3):
        make_adapter("o", seed=seed, dtype=dtype, scale=0.1)
        sides.append(stored(workspace, "o"))
    merged = merger(workspace).adapters(sides[0], sides[1:]).manifest
    assert {tensor.dtype for tensor in merged.tensors} == {dtype}
    if dtype == "F16":
        with pytest.raises(FatalError, match="too large for F16, the dtype of both sides"):
            merger(workspace, Combination(weights="1e12")).adapters(sides[0], sides[1:])


def test_other_ranks_in_origin_and_sides(repo, make_adapter):
    """Both sides went from rank 4 to rank 8: the origin's update is one of rank 4."""
    workspace = Workspace.open()
    for name, rank, seed in (("o", 4, 1), ("a", 8, 2), ("b", 8, 3)):
        make_adapter(name, seed=seed, rank=rank)
    o, a, b = (stored(workspace, name) for name in "oab")
    for strategy in ("linear", "ties"):
        merged = merger(workspace, Combination(strategy, "1")).adapters(o, [a, b]).manifest
        assert merged.get("rank") == "8"
        found = updates(restored(workspace, merged, "m", like="a"))
        if strategy == "linear":
            dense = [updates(name) for name in "oab"]
            for module, value in found.items():
                wanted = best_of_rank(dense[1][module] + dense[2][module] - dense[0][module], 8)
                assert relative(value, wanted) < 1e-6


def test_many_sides_are_one_sum(three):
    workspace, (o, a, b) = three()
    shutil.copytree("a", "c")
    nudge("c", 5)
    c = stored(workspace, "c")
    found = [
        merger(workspace).adapters(o, order).manifest for order in ([a, b, c], [c, a, b], [b, a, c])
    ]
    assert len({manifest.weights_md5 for manifest in found}) == 1
    merged = updates(restored(workspace, found[0], "m"))
    dense = [updates(name) for name in "oabc"]
    for module, value in merged.items():
        exact = sum(x[module] for x in dense[1:]) - 2 * dense[0][module]
        assert relative(value, best_of_rank(exact, 8)) < 1e-6
    twice = merger(workspace).adapters(o, [a, a, b]).manifest
    assert twice.weights_md5 == merger(workspace).adapters(o, [a, b]).manifest.weights_md5


def test_whole_tensors_and_biases_are_merged_entry_by_entry(repo, make_adapter):
    names = (
        "base_model.model.score.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
    )
    workspace = Workspace.open()
    versions, values = [], []
    for seed in (1, 2, 3):
        draws = np.random.default_rng(seed)
        extra = {names[0]: draws.standard_normal((3, 64)), names[1]: draws.standard_normal(64)}
        make_adapter("o", seed=seed, extra_tensors=extra, lora_bias=True, modules_to_save=["score"])
        versions.append(stored(workspace, "o"))
        values.append(load_file(Path("o", WEIGHTS)))
    for strategy in ("linear", "ties"):
        merged = merger(workspace, Combination(strategy, "0.5")).adapters(versions[0], versions[1:])
        found = load_file(restored(workspace, merged.manifest, "m") / WEIGHTS)
        for name in names:
            base, one, two = (v[name].astype(np.float64) for v in values)
            assert np.allclose(
                found[name], base + 0.5 * (one - base) + 0.5 * (two - base), atol=1e-6
            )


def test_a_second_merge_computes_nothing_and_a_lost_result_is_computed_again(three, monkeypatch):
    workspace, (o, a, b) = three()
    first = merger(workspace).adapters(o, [a, b])
    place = workspace.dvc.object_path(first.manifest.weights_md5)
    written = place.stat().st_mtime_ns
    assert merger(workspace).adapters(o, [b, a]) == merger(workspace).adapters(o, [b, a])
    assert place.stat().st_mtime_ns == written
    place.unlink()
    assert merger(workspace).adapters(o, [a, b]).manifest == first.manifest
    assert place.is_file()
    other = merger(workspace, Combination(weights="0.5")).adapters(o, [a, b])
    assert other.manifest.weights_md5 != first.manifest.weights_md5


def test_a_recipe_and_the_cache_make_the_weights_again(three):
    workspace, (o, a, b) = three()
    merged = merger(workspace, Combination("dare", "0.4,0.8", 0.7, 5)).adapters(o, [a, b]).manifest
    Path("m").mkdir()
    rebuild(workspace, merged, Path("m", WEIGHTS), "m")
    assert workspace.md5(Path("m", WEIGHTS)) == merged.weights_md5


def test_what_clashes_and_what_is_missing(three, make_adapter):
    workspace, (o, a, b) = three()
    with pytest.raises(ConflictError, match="no common version"):
        merger(workspace).adapters(None, [a, b])
    with pytest.raises(FatalError, match="takes 2 versions, not 3"):
        nudge("a", 8)
        merger(workspace, Combination("slerp")).adapters(o, [a, b, stored(workspace, "a")])
    workspace.dvc.object_path(o.weights_md5).unlink()
    with pytest.raises(FatalError, match=r"merge base .* not in the DVC cache"):
        merger(workspace, Combination(weights="0.9")).adapters(o, [a, b])


# -- PEFT as the judge ------------------------------------------------------------------------


def test_peft_loads_the_result_and_its_forward_is_base_plus_both_steps(repo):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

    class Branches(torch.nn.Module):
        """Layers side by side: the output is linear in the updates."""

        def __init__(self):
            super().__init__()
            self.q_proj, self.v_proj = torch.nn.Linear(12, 20), torch.nn.Linear(12, 16)
            self.emb = torch.nn.Embedding(30, 10)
            self.conv = torch.nn.Conv2d(3, 8, 3)
            self.head = torch.nn.Linear(12, 5)

        def forward(self, x, tokens, image):
            found = [
                self.q_proj(x),
                self.v_proj(x),
                self.emb(tokens),
                self.conv(image),
                self.head(x),
            ]
            return torch.cat([y.reshape(-1) for y in found])

    torch.manual_seed(0)
    base = Branches().double()
    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj", "emb", "conv"], r=6, lora_alpha=12, use_rslora=True,
        rank_pattern={"v_proj": 4}, modules_to_save=["head"],
    )  # fmt: skip

    def output(model):
        draws = torch.Generator().manual_seed(5)
        x, image = torch.randn(2, 12, generator=draws), torch.randn(1, 3, 5, 5, generator=draws)
        with torch.no_grad():
            return model.eval()(x.double(), torch.arange(8), image.double()).numpy()

    # One direction of each factor moves on one side, so that rank 6 holds the sum exactly.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(copy.deepcopy(base), config).double()
    workspace, forwards, versions = Workspace.open(), [], []
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) / 4)
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for number, name in enumerate("oab"):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for n, p in model.named_parameters():
                if n in start:
                    p.copy_(start[n])
                    if number and (
                        ".lora_B." in n or "lora_embedding_B" in n or "modules_to_save" in n
                    ):
                        p.add_(torch.randn_like(p) / 4)
            model.save_pretrained(name)
        forwards.append(output(model))
        versions.append(stored(workspace, name))
    merged = merger(workspace).adapters(versions[0], versions[1:])
    assert merged.residual is not None and merged.residual < 1e-6
    restored(workspace, merged.manifest, "m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = output(peft.PeftModel.from_pretrained(copy.deepcopy(base), "m").double())
    wanted = forwards[1] + forwards[2] - forwards[0]
    assert relative(found, wanted) < 1e-6
