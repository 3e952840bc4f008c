"""Factors of raw parameters (`target_parameters`), with PEFT's own get_delta_weight as the judge.

PEFT matches patterns of such a LoRA against MODULE.PARAMETER, and nests the parameters of one
module: the first that the class defines is `MODULE.base_layer`, the last is `MODULE`.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path

import pytest

from soup_git.commands.diff import compare
from soup_git.commands.merge import MergeRequest, merge
from soup_git.core.manifest import parse_manifest
from soup_git.storage.workspace import Workspace

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

ADAPTER = "adapters/moe"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


class Experts(torch.nn.Module):
    """Four experts in two parameters, as transformers' mixtures define them."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = torch.nn.Parameter(torch.randn(4, 12, 10))
        self.down_proj = torch.nn.Parameter(torch.randn(4, 10, 6))


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Linear(10, 10)
        self.v_proj = torch.nn.Linear(10, 10)
        self.mlp = torch.nn.ModuleDict({"experts": Experts()})


class Mixture(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(), Layer()])


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    return Mixture()


def wrapped(base, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**how))


def save(base, folder, seed, **how):
    """An adapter with random weights as PEFT saves it: module -> its update."""
    how.setdefault("target_modules", ["q_proj"])
    model = wrapped(base, base_model_name_or_path="tiny", **how)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    return updates(model)


def updates(model):
    return {
        name: module.get_delta_weight("default").detach().double()
        for name, module in model.base_model.model.named_modules()
        if getattr(module, "lora_A", None)
    }


def load(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # missing keys
        # PEFT 0.21 looks for them among the modules' names alone, and warns of all it then applies.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        return updates(peft.PeftModel.from_pretrained(copy.deepcopy(base), folder))


def far(x, y):
    return float((x - y).norm() / y.norm())


VARIANTS = {
    "no pattern": {"target_parameters": EXPERTS},
    "as PEFT writes it for all-linear": {
        "target_parameters": ["down_proj", "gate_up_proj"],
        "rank_pattern": {r".*\.gate_up_proj": 4}, "alpha_pattern": {r".*\.gate_up_proj": 16},
    },
    "rank": {"target_parameters": EXPERTS, "rank_pattern": {"experts.down_proj": 1}},
    "alpha": {"target_parameters": EXPERTS, "alpha_pattern": {"experts.down_proj": 3}},
    "layers": {
        "target_parameters": EXPERTS, "use_rslora": True,
        "rank_pattern": {r"layers\.1\.mlp\.experts\.gate_up_proj": 3, "q_proj": 5},
    },
    "one of two": {"target_parameters": ["gate_up_proj"], "rank_pattern": {"gate_up_proj": 3}},
    "a linear layer's weight": {
        "target_parameters": ["v_proj.weight"], "rank_pattern": {"v_proj.weight": 1},
        "alpha_pattern": {"v_proj.weight": 7},
    },
    "parameters alone": {"target_modules": [], "target_parameters": EXPERTS},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_diff_and_merge_are_of_pefts_updates(repo, base, variant):
    how = {"r": 2, "lora_alpha": 8, **VARIANTS[variant]}
    a, b = save(base, "a", 1, **how), save(base, "b", 2, **how)
    opened = [Workspace.open().adapter(f"./{name}") for name in "ab"]
    rows = {row.module: row for row in compare(*opened).layers}
    assert rows.keys() == a.keys()
    for name, update in a.items():
        moved = float((b[name] - update).norm())
        assert rows[name].frobenius == pytest.approx(moved, rel=1e-5)
        assert rows[name].relative_drift == pytest.approx(moved / float(update.norm()), rel=1e-5)
    for folder, more in (("exact", {}), ("svd", {"strategy": "svd", "rank": "10"})):
        merge(Workspace.open(), MergeRequest(["./a", "./b"], Path(folder), **more))
        found = load(base, folder)
        assert found.keys() == a.keys()
        assert max(far(found[name], (a[name] + b[name]) / 2) for name in a) < 1e-5


def test_a_merge_of_other_layers_names_parameters_and_no_experts(repo, base):
    """PEFT refuses `target_modules` that name a module of which it wraps parameters."""
    how = {"r": 2, "target_parameters": EXPERTS, "rank_pattern": {"down_proj": 1}}
    a, b = save(base, "a", 1, **how), save(base, "b", 2, target_modules=["v_proj"], **how)
    merge(Workspace.open(), MergeRequest(["./a", "./b"], Path("out")))
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert not any("experts" in name for name in config["target_modules"])
    found = load(base, "out")
    assert found.keys() == a.keys() | b.keys()
    for name, update in found.items():
        there = [side[name] for side in (a, b) if name in side]
        assert far(update, sum(there) / 2) < 1e-5


def test_the_manifest_names_each_parameter_with_its_own_rank(repo, base, soup):
    how = VARIANTS["as PEFT writes it for all-linear"]
    save(base, ADAPTER, 1, r=2, lora_alpha=8, **how)
    soup("add", ADAPTER)
    manifest = parse_manifest(Path(ADAPTER, "adapter.manifest").read_bytes(), "m")
    lines = [value.split() for key, value in manifest.header if key == "module"]
    assert lines[:3] == [
        ["layers.0.mlp.experts.base_layer", "rank=4", "alpha=16", "parameter=gate_up_proj", "matrices=4"],
        ["layers.0.mlp.experts", "rank=2", "alpha=8", "parameter=down_proj", "matrices=4"],
        ["layers.0.q_proj", "rank=2", "alpha=8"],
    ]  # fmt: skip
    report = json.loads(soup("show", f"./{ADAPTER}", "--json").stdout)
    assert [module["rank"] for module in report["modules"]] == [4, 2, 2] * 2


def test_git_merges_experts_whose_parameters_are_listed_in_another_order(repo, base, git, soup):
    """`target_parameters` is a set in PEFT: its order differs from process to process."""
    how = {"r": 2, "lora_alpha": 8, "rank_pattern": {"experts.down_proj": 6}}

    def commit(seed, parameters):
        shutil.rmtree(ADAPTER, ignore_errors=True)
        found = save(base, ADAPTER, seed, target_parameters=parameters, **how)
        config = Path(ADAPTER, "adapter_config.json")
        raw = json.loads(config.read_text())
        config.write_text(json.dumps(raw | {"target_parameters": parameters}, indent=2))
        soup("add", ADAPTER)
        git("commit", "-qam", f"seed {seed}")
        return found

    commit(1, EXPERTS)
    git("checkout", "-qb", "politer")
    theirs = commit(2, EXPERTS)
    git("checkout", "-q", "main")
    soup("checkout")
    ours = commit(3, EXPERTS[::-1])
    # The config's own lines are another driver's business; here they conflict or not.
    git("merge", "politer", check=False)
    git("checkout", "--ours", f"{ADAPTER}/adapter_config.json", check=False)
    assert "<<<<" not in Path(ADAPTER, "adapter.manifest").read_text()
    soup("checkout")
    found = load(base, ADAPTER)
    for name in ours:
        mean = (ours[name] + theirs[name]) / 2
        flat = mean if mean.dim() == 3 else mean[None]
        u, s, v = torch.linalg.svd(flat)
        rank = 6 if name.endswith("experts") else 2
        best = (u[:, :, :rank] * s[:, None, :rank]) @ v[:, :rank]
        assert far(found[name].reshape(best.shape), best) < 1e-5
