"""PEFT as the judge: it loads what we write, and its forward is the sum of its forwards.

The model's layers stand side by side, so its output is linear in the updates:
f(merged) − f(base) = Σ w·(f(adapter) − f(base)), exactly what an exact merge promises.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest

from soup_git.commands.diff import compare
from soup_git.commands.merge import MergeRequest, merge
from soup_git.errors import FatalError
from soup_git.storage.workspace import Workspace

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("safetensors.torch")

WEIGHTS = (0.7, -0.4, 0.9)


class Experts(torch.nn.Module):
    """Three matrices in one parameter, as mixture-of-experts layers hold them."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 12, 20) / 4)

    def forward(self, x):
        return torch.einsum("bi,eio->beo", x, self.weight)


class Branches(torch.nn.Module):
    """Layers of every kind that LoRA knows, none behind another."""

    def __init__(self):
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.q_proj = torch.nn.Linear(12, 20)
        self.v_proj = torch.nn.Linear(12, 16, bias=False)
        self.emb = torch.nn.Embedding(30, 10)
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.pointwise = torch.nn.Conv2d(3, 8, 1)
        self.c_attn = Conv1D(18, 12)
        self.head = torch.nn.Linear(12, 5)
        self.experts = Experts()

    def forward(self, x, tokens, image):
        found = [self.q_proj(x), self.v_proj(x), self.emb(tokens), self.conv(image)]
        found += [self.pointwise(image), self.c_attn(x), self.head(x), self.experts(x)]
        return torch.cat([y.reshape(-1) for y in found])


LINEAR = ["q_proj", "v_proj"]
VARIANTS = {
    "plain": {"target_modules": LINEAR, "r": 4, "lora_alpha": 8},
    "rank 1": {"target_modules": LINEAR, "r": 1, "lora_alpha": 3},
    "rslora": {"target_modules": LINEAR, "r": 4, "use_rslora": True},
    "patterns": {
        "target_modules": LINEAR, "r": 4, "lora_alpha": 8,
        "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 12},
    },
    "patterns with rslora": {
        "target_modules": LINEAR, "r": 4, "use_rslora": True,
        "rank_pattern": {"q_.*": 3}, "alpha_pattern": {"v_proj": 5},
    },
    "embedding": {"target_modules": ["emb", "q_proj"], "r": 3},
    "convolution": {"target_modules": ["conv", "pointwise"], "r": 2},
    "fan_in_fan_out": {"target_modules": ["c_attn"], "r": 4, "fan_in_fan_out": True},
    "lora_bias": {"target_modules": LINEAR, "r": 4, "lora_bias": True},
    "bias": {"target_modules": LINEAR, "r": 4, "bias": "all"},
    "modules_to_save": {"target_modules": LINEAR, "r": 4, "modules_to_save": ["head"]},
    "experts": {"target_parameters": ["experts.weight"], "target_modules": [], "r": 2},
    "tokens": {"target_modules": LINEAR, "r": 2, "trainable_token_indices": {"emb": [1, 4]}},
    "dora": {"target_modules": LINEAR, "r": 4, "use_dora": True},
    "gaussian": {"target_modules": LINEAR, "r": 4, "init_lora_weights": "gaussian"},
}  # fmt: skip
NEEDS_BASE = {"dora", "bias", "modules_to_save", "tokens"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = Branches().double()
    folder = tmp_path_factory.mktemp("base")
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    return model, folder


def wrapped(base, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(base), config)


def saved(base, folder, seed, **how):
    """An adapter with random weights, as PEFT saves it, and its forward."""
    config = peft.LoraConfig(**how)
    config.base_model_name_or_path = "tiny"
    model = wrapped(base, config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return output(model)


def output(model):
    torch.manual_seed(99)
    x, image = torch.randn(2, 12).double(), torch.randn(1, 3, 5, 5).double()
    with torch.no_grad():
        return model.eval()(x, torch.arange(8), image).numpy()


def loaded(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "missing adapter keys" is a warning
        warnings.filterwarnings("ignore", message="`lora_bias=True` was passed but")
        return output(peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).double())


def merged(specs, output="out", **how):
    return merge(Workspace.open(), MergeRequest([f"./{s}" for s in specs], Path(output), **how))


def relative(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_merge_of_three_is_the_sum_of_their_forwards(repo, base, variant):
    model, folder = base
    names, plain = ["a", "b", "c"], output(model)
    forwards = [saved(model, n, seed, **VARIANTS[variant]) for seed, n in enumerate(names)]
    wanted = sum(w * (f - plain) for w, f in zip(WEIGHTS, forwards, strict=True))
    how = {"base": folder} if variant in NEEDS_BASE else {}
    report = merged(names, weights="0.7,-0.4,0.9", **how)
    assert relative(loaded(model, "out") - plain, wanted) < 1e-6
    assert report.residual == 0.0
    if variant not in {"dora", "tokens", "bias", "modules_to_save"}:
        low = merged(names, "low", weights="0.7,-0.4,0.9", strategy="svd", rank="12")
        assert relative(loaded(model, "low") - plain, wanted) < 1e-6
        assert low.residual < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("strategy", ["linear", "svd"])
def test_one_adapter_with_weight_one_stays_what_it_was(repo, base, variant, strategy):
    model, _ = base
    wanted = saved(model, "a", 1, **VARIANTS[variant])
    merged(["a"], strategy=strategy)
    assert relative(loaded(model, "out"), wanted) < 1e-12
    assert compare(*[Workspace.open().adapter(s) for s in ("./a", "./out")]).summary.equal


@pytest.mark.parametrize("variant", ["patterns", "lora_bias", "dora", "modules_to_save"])
def test_a_kept_module_answers_as_its_adapter_alone_and_the_rest_is_merged(repo, base, variant):
    model, folder = base
    forwards = [saved(model, n, seed, **VARIANTS[variant]) for seed, n in enumerate("ab")]
    merged(["a", "b"], weights="0.3,0.7", keep=["./b:q_proj"], base=folder)
    found, of_q = loaded(model, "out"), 2 * 20
    assert relative(found[:of_q], forwards[1][:of_q]) < 1e-6
    assert relative(found[of_q:], (0.3 * forwards[0] + 0.7 * forwards[1])[of_q:]) < 1e-6
    gone = ["v_proj", "head"] if variant == "modules_to_save" else ["v_proj"]
    merged(["a", "b"], "less", weights="0.3,0.7", without=gone, base=folder)
    found, plain, of_v = loaded(model, "less"), output(model), 2 * 16
    assert relative(found[:of_q], (0.3 * forwards[0] + 0.7 * forwards[1])[:of_q]) < 1e-6
    assert (found[of_q : of_q + of_v] == plain[of_q : of_q + of_v]).all()


def test_adapters_of_different_kinds_and_ranks_add_up(repo, base):
    model, _ = base
    plain = output(model)
    forwards = [
        saved(model, "a", 1, target_modules=LINEAR, r=4, use_rslora=True),
        saved(model, "b", 2, target_modules=LINEAR, r=7, lora_alpha=2, rank_pattern={"v_proj": 1}),
        saved(model, "c", 3, target_modules=["q_proj"], r=3, lora_bias=True),
    ]
    wanted = sum(w * (f - plain) for w, f in zip(WEIGHTS, forwards, strict=True))
    merged(["a", "b", "c"], weights="0.7,-0.4,0.9")
    assert relative(loaded(model, "out") - plain, wanted) < 1e-6


def test_dora_and_lora_add_up(repo, base):
    model, folder = base
    plain = output(model)
    forwards = [
        saved(model, "a", 1, target_modules=["q_proj"], r=4, use_dora=True),
        saved(model, "b", 2, target_modules=LINEAR, r=3, use_rslora=True),
    ]
    wanted = 0.8 * (forwards[0] - plain) + 0.3 * (forwards[1] - plain)
    merged(["a", "b"], weights="0.8,0.3", base=folder)
    assert relative(loaded(model, "out") - plain, wanted) < 1e-6
    with pytest.raises(FatalError, match="linear only"):
        merged(["a", "b"], "other", strategy="ties", base=folder)


def test_half_of_an_adapter_twice_is_the_adapter(repo, base):
    model, _ = base
    wanted = saved(model, "a", 1, **VARIANTS["patterns with rslora"])
    report = merged(["a", "a"])
    assert relative(loaded(model, "out"), wanted) < 1e-12
    assert report.rank == 4


def test_the_merge_is_what_merge_and_unload_adds_to_the_base(repo, base):
    model, _ = base
    for seed, name in enumerate(["a", "b"]):
        saved(model, name, seed, **VARIANTS["patterns"])

    def delta(folder):
        found = peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).double()
        return found.merge_and_unload().v_proj.weight.detach() - model.v_proj.weight.detach()

    merged(["a", "b"], expression="a - 0.5*b")
    wanted = delta("a") - 0.5 * delta("b")
    assert relative(delta("out").numpy(), wanted.numpy()) < 1e-6
    merged(["a", "b"], "low", expression="a - 0.5*b", strategy="svd", rank="2")
    u, s, v = torch.linalg.svd(wanted)
    assert relative(delta("low").numpy(), ((u[:, :2] * s[:2]) @ v[:2]).numpy()) < 1e-6


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("ties", "ties"), ("magnitude_prune", "magnitude_prune")]
)  # fmt: skip
@pytest.mark.parametrize("weights", [(0.5, 0.25, 0.25), (0.8, -0.3, 0.5)])
def test_factor_space_gives_pefts_numbers(repo, base, ours, theirs, weights):
    from safetensors.torch import load_file

    model, _ = base
    for seed, name in enumerate("abc"):
        saved(model, name, seed, **VARIANTS["plain"])
    both = peft.PeftModel.from_pretrained(copy.deepcopy(model), "a", adapter_name="a")
    for name in "bc":
        both.load_adapter(name, name)
    # Ours go in the order of their digests, so that permuting them changes no byte.
    density = {} if theirs == "linear" else {"density": 0.43}
    both.add_weighted_adapter(list("abc"), list(weights), "m", combination_type=theirs, **density)
    merged(
        list("abc"), weights=",".join(map(str, weights)), strategy=ours, space="factors", **density
    )
    ours_file = load_file("out/adapter_model.safetensors")
    for name in LINEAR:
        layer = getattr(both.base_model.model, name)
        for part in ("lora_A", "lora_B"):
            wanted = getattr(layer, part)["m"].weight.detach().float().numpy()
            got = ours_file[f"base_model.model.{name}.{part}.weight"].float().numpy()
            assert np.abs(got - wanted).max() < 1e-6 * np.abs(wanted).max()


def test_dare_in_factor_space_is_a_rescaled_part_of_the_sum(repo, base):
    from safetensors.torch import load_file

    model, _ = base
    saved(model, "a", 1, **VARIANTS["plain"])
    merged(["a"], strategy="dare", space="factors", density=0.25, weights="0.5")
    got = load_file("out/adapter_model.safetensors")
    kept = []
    for name, values in load_file("a/adapter_model.safetensors").items():
        share = (got[name] / values / (0.5 * 2) ** 0.5).double().numpy()
        assert np.all((np.abs(share) < 1e-12) | (np.abs(share - 4) < 1e-5))
        kept.append(share != 0)
    assert np.concatenate([k.reshape(-1) for k in kept]).mean() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("strategy", ["ties", "dare", "dare_ties", "della", "breadcrumbs", "knots", "iso_c", "tsv_m", "slerp"])  # fmt: skip
def test_peft_loads_what_every_strategy_writes(repo, base, strategy):
    model, _ = base
    for seed, name in enumerate("ab"):
        saved(model, name, seed, **VARIANTS["patterns"])
    report = merged(["a", "b"], strategy=strategy)
    assert np.isfinite(loaded(model, "out")).all()
    assert report.rank == 4
    assert {m.rank for m in report.layers} == {4, 2}


@pytest.mark.parametrize("variant", ["dora", "modules_to_save", "bias", "tokens"])
def test_what_needs_the_base_is_refused_without_it(repo, base, variant):
    model, _ = base
    for seed, name in enumerate("ab"):
        saved(model, name, seed, **VARIANTS[variant])
    with pytest.raises(FatalError, match="base") as caught:
        merged(["a", "b"], weights="1,1")
    assert "--base" in caught.value.hint
    assert not Path("out").exists()


def test_whole_tensors_need_no_base_when_the_weights_add_up_to_one(repo, base):
    model, _ = base
    forwards = [saved(model, n, s, **VARIANTS["modules_to_save"]) for s, n in enumerate("ab")]
    report = merged(["a", "b"], weights="0.3,0.7")
    wanted = 0.3 * forwards[0] + 0.7 * forwards[1]
    assert relative(loaded(model, "out"), wanted) < 1e-6
    assert any("whole tensor" in note for note in report.notes)


def test_an_initialisation_that_changed_the_base_is_refused(repo, base):
    model, _ = base
    saved(model, "b", 2, target_modules=["v_proj"], r=2)
    saved(model, "a", 2, target_modules=["v_proj"], r=2)
    config = Path("a/adapter_config.json")
    config.write_text(
        config.read_text().replace('"init_lora_weights": true', '"init_lora_weights": "pissa"')
    )
    with pytest.raises(FatalError, match="pissa"):
        merged(["a", "b"])


@pytest.mark.parametrize(
    "kind", ["LoHaConfig", "LoKrConfig", "AdaLoraConfig", "IA3Config", "VeraConfig"]
)
def test_other_methods_are_compared_by_their_own_update_or_as_numbers(repo, base, kind):
    model, _ = base
    how = {"target_modules": ["q_proj"]}
    how |= {"feedforward_modules": []} if kind == "IA3Config" else {"r": 2}
    if kind == "AdaLoraConfig":
        how = {"target_modules": ["q_proj"], "init_r": 3, "total_step": 10}
    if kind == "VeraConfig":
        how["target_modules"] = ["v_proj"]
    changes = []
    for seed, name in enumerate("ab"):
        config = getattr(peft, kind)(**how)
        config.base_model_name_or_path = "tiny"
        found = wrapped(model, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for key, parameter in found.named_parameters():
                if parameter.requires_grad and "ranknum" not in key:  # not saved
                    parameter.add_(0.3 * torch.randn_like(parameter))
        found.save_pretrained(name)
        if kind in {"LoHaConfig", "LoKrConfig", "AdaLoraConfig"}:
            layer = found.base_model.model.q_proj
            changes.append(layer.get_delta_weight("default").detach().numpy())
    workspace = Workspace.open()
    report = compare(workspace.adapter("./a"), workspace.adapter("./b"))
    assert report.summary.changed > 0
    if changes:
        row = next(x for x in report.layers if x.module == "q_proj")
        assert row.frobenius == pytest.approx(np.linalg.norm(changes[1] - changes[0]), rel=1e-5)
        assert row.relative_drift == pytest.approx(
            row.frobenius / np.linalg.norm(changes[0]), rel=1e-5
        )
    else:
        assert "compared as numbers" in report.summary.notes[0]
    with pytest.raises(FatalError, match="only LoRA"):
        merged(["a", "b"])
    merged(["a"])  # one adapter as it is: any method
