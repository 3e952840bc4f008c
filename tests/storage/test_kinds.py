"""PEFT's own list of adapters, walked: each is added, shown, compared and merged, or refused with a reason.

`OUTCOMES` is literal, so that a new PEFT shows what it brought: these tests fail and name it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from soup_git.commands.add import add
from soup_git.commands.diff import compare
from soup_git.commands.merge import MergeRequest, merge
from soup_git.commands.show import show
from soup_git.core.kinds import KEYS, KINDS, NO_PRODUCT
from soup_git.errors import FatalError
from soup_git.storage.workspace import Workspace

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
mapping = pytest.importorskip("peft.mapping")

UPDATE, TENSORS = "update", "tensors"
"""How a diff compares: by the updates of modules, or tensor by tensor, with a note."""
EMPTY = "holds no tensor"
"""PEFT saves nothing of it (X-LoRA's router is not in its state dict), and `add` says so."""
MERGED, REFUSED = "merged", "refused"

OUTCOMES = {
    "LORA": (UPDATE, MERGED),
    **dict.fromkeys(("ADALORA", "LOHA", "LOKR", "VBLORA"), (UPDATE, REFUSED)),
    **dict.fromkeys(
        (
            "ADAMSS", "ADAPTION_PROMPT", "BEFT", "BOFT", "C3A", "CARTRIDGE", "CPT", "DEFT", "DELORA",
            "FOURIERFT", "FROD", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "MISS",
            "MULTITASK_PROMPT_TUNING", "OFT", "OSF", "PEANUT", "POLY", "PREFIX_TUNING",
            "PROMPT_TUNING", "PSOFT", "PVERA", "P_TUNING", "RANDLORA", "ROAD", "SHADOW", "SHIRA",
            "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VERA", "WAVEFT",
        ),
        (TENSORS, REFUSED),
    ),
    "XLORA": (EMPTY, REFUSED),
}  # fmt: skip
HOW: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10, "init_r": 4, "target_r": 2},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 1, "target_modules": None},
    "C3A": {"block_size": 8},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "LOHA": {"r": 4, "alpha": 6, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "LOKR": {"r": 2, "alpha": 6, "rank_pattern": {"v_proj": 1}, "alpha_pattern": {"q_proj": 3}},
    "LORA": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 3}},
    "MISS": {"r": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"token_indices": [1, 2], "target_modules": ["embed_tokens"]},
    "VBLORA": {"num_vectors": 12, "vector_length": 8},
    "WAVEFT": {"n_frequency": 50},
}
VARIANTS = {
    "use_dora": True,
    "use_rslora": True,
    "use_qalora": True,
    "alora_invocation_tokens": [1, 2],
    "kasa_config": {},
    "monteclora_config": {},
    "velora_config": {},
    "use_bdlora": {"target_modules_bd_a": ["v_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def base():
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=16, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=32, use_cache=False,
        )
    )  # fmt: skip


def made(base, kind: str, seed: int, folder: str, **how: Any) -> dict[str, Any]:
    """An adapter of this kind with trained numbers, saved by PEFT: module -> its update."""
    config_class = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    known = {field.name for field in dataclasses.fields(config_class)}
    common = {
        "target_modules": ["q_proj", "v_proj"],
        "num_virtual_tokens": 2,
        "task_type": "CAUSAL_LM",
    }
    if kind == "XLORA":
        made(base, "LORA", 9, "expert", r=2)
        how |= {"hidden_size": 32, "adapters": {"0": "expert"}}
    given = {k: v for k, v in common.items() if k in known} | HOW.get(kind, {}) | how
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = config_class(base_model_name_or_path="tiny", **given)
        model = peft.get_peft_model(copy.deepcopy(base), config)
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.is_floating_point() and "ranknum" not in name:
                parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(folder)
        return {
            name: module.get_delta_weight("default").detach().double()
            for name, module in model.base_model.named_modules()
            if name.endswith(("q_proj", "v_proj"))
            and OUTCOMES[kind][0] == UPDATE
            and not NO_PRODUCT.keys() & how.keys()
        }


def loaded(base, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder)


def test_every_kind_of_peft_has_an_outcome_here_and_a_row_in_our_table():
    """Run this after an update of PEFT: what it names is new, or gone."""
    kinds = {kind.value for kind in peft.PeftType}
    assert kinds == set(mapping.PEFT_TYPE_TO_CONFIG_MAPPING)
    assert kinds == set(OUTCOMES), "give the new kind an outcome"
    assert kinds == set(KINDS), "give the new kind a row in core/kinds.py"


@pytest.mark.parametrize("kind", KINDS)
def test_the_keys_of_each_config_are_pefts(kind: str) -> None:
    """A key that PEFT has and we do not is named as ignored, so the table must not be behind."""
    config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    known = {field.name for field in dataclasses.fields(config)}
    row = KINDS[kind]
    assert KEYS | set(row.keys.split()) == known
    assert set(row.meaning.split()) <= known
    if kind == "LORA":
        assert set(NO_PRODUCT) <= known


@pytest.mark.parametrize("kind", OUTCOMES)
def test_each_is_added_shown_compared_and_merged_or_refused(repo, base, kind: str) -> None:
    compared, merging = OUTCOMES[kind]
    updates = [made(base, kind, seed, name) for seed, name in enumerate("ab", start=1)]
    workspace = Workspace.open()
    if compared == EMPTY:
        with pytest.raises(FatalError, match=EMPTY) as caught:
            add(workspace, [Path("a")])
        assert caught.value.hint
        return
    assert [one.change for one in add(workspace, [Path("a"), Path("b")]).adapters] == ["new"] * 2
    shown = show(workspace, "./a", None)
    assert shown.peft_type == kind
    assert shown.tensors > 0
    report = compare(workspace.adapter("./a"), workspace.adapter("./b"))
    rows = {row.module: row for row in report.layers}
    modules = {name for name, _ in base.named_modules()}
    if compared == UPDATE:
        judge_updates(rows, *updates)
    else:
        # A module's name would say that the number is its update's.
        assert not rows.keys() & modules
        assert "compared as numbers, not as an update of the base" in report.summary.notes[0]
    assert report.summary.changed > 0

    def outcome() -> Any:
        return merge(workspace, MergeRequest(["./a", "./b"], Path("out")))

    if merging == REFUSED:
        with pytest.raises(FatalError, match=f"is {kind}; only LoRA adapters are merged") as caught:
            outcome()
        assert caught.value.hint
    else:
        outcome()
        found = loaded(base, "out")
        for name, update in updates[0].items():
            merged = found.base_model.get_submodule(name).get_delta_weight("default").double()
            assert float((merged - (update + updates[1][name]) / 2).norm()) < 1e-5


def judge_updates(rows, one, two) -> None:
    assert one
    for name, update in one.items():
        row = rows[name.removeprefix("model.")]
        assert row.frobenius == pytest.approx(float((two[name] - update).norm()), rel=1e-4)
        assert row.relative_drift == pytest.approx(row.frobenius / float(update.norm()), rel=1e-4)


@pytest.mark.parametrize("key", VARIANTS)
def test_each_variant_of_lora_is_compared_by_its_update_or_as_tensors(repo, base, key: str) -> None:
    config_class = {
        "kasa_config": "KasaConfig", "velora_config": "VeloraConfig", "use_bdlora": "BdLoraConfig",
        "monteclora_config": "MontecloraConfig",
    }.get(key)  # fmt: skip
    value = VARIANTS[key]
    if config_class:
        value = getattr(__import__("peft.tuners.lora.config", fromlist=["x"]), config_class)(
            **value
        )
    how = {"r": 4, "lora_alpha": 6, key: value}
    updates = [made(base, "LORA", seed, name, **how) for seed, name in enumerate("ab", start=1)]
    workspace = Workspace.open()
    add(workspace, [Path("a"), Path("b")])
    report = compare(workspace.adapter("./a"), workspace.adapter("./b"))
    rows = {row.module: row for row in report.layers}
    if key in NO_PRODUCT:
        assert not rows.keys() & {name for name, _ in base.named_modules()}
        assert any(key in note and NO_PRODUCT[key] in note for note in report.summary.notes)
        return
    if key == "use_dora":
        assert any("DoRA" in note for note in report.summary.notes)
    judge_updates(rows, *updates)


def test_an_adalora_that_lost_ranks_is_divided_by_the_rank_it_began_with(repo, base) -> None:
    from safetensors.torch import load_file, save_file

    made(base, "ADALORA", 1, "a")
    config = json.loads(Path("a/adapter_config.json").read_text())
    tensors = load_file("a/adapter_model.safetensors")
    mask = [True, False, True, False]
    pattern = {}
    for name, values in tensors.items():
        if ".lora_" in name:
            tensors[name] = (values[:, mask] if ".lora_B" in name else values[mask]).contiguous()
            if ".lora_E" in name:
                pattern[name.removeprefix("base_model.model.")] = mask
    save_file(tensors, "a/adapter_model.safetensors")
    config["rank_pattern"] = pattern
    Path("a/adapter_config.json").write_text(json.dumps(config))
    Path("zero").mkdir()
    Path("zero/adapter_config.json").write_text(json.dumps(config))
    save_file(
        {k: v * 0 if ".lora_B" in k else v for k, v in tensors.items()},
        "zero/adapter_model.safetensors",
    )
    model = loaded(base, "a")
    workspace = Workspace.open()
    rows = {
        r.module: r for r in compare(workspace.adapter("./zero"), workspace.adapter("./a")).layers
    }
    name = "model.layers.0.self_attn.q_proj"
    update = model.base_model.model.get_submodule(name).get_delta_weight("default").detach()
    assert rows[name].frobenius == pytest.approx(float(update.norm()), rel=1e-4)
    assert rows[name].rank_b == 2


def test_keys_of_a_newer_peft_are_named_with_its_version(repo, base, soup) -> None:
    made(base, "LORA", 1, "a")
    made(base, "LORA", 2, "b")
    for name, value in (("a", True), ("b", True)):
        file = Path(name, "adapter_config.json")
        raw = json.loads(file.read_text())
        raw |= {"peft_version": "9.1.0", "use_quora": value, "new_default": None, "new_off": False}
        file.write_text(json.dumps(raw))
    said = "has use_quora in its config, of PEFT 9.1.0; git-soup knows no such key and ignores it"
    assert soup("add", "a", "b").stderr.count(said) == 2
    assert f"./a {said}" in soup("diff", "./a", "./b").stdout
    assert f"note: ./b {said}" in soup("merge", "./a", "./b", "-o", "out").stdout
    raw = json.loads(Path("b/adapter_config.json").read_text())
    Path("b/adapter_config.json").write_text(json.dumps(raw | {"use_quora": False}))
    done = soup("merge", "./a", "./b", "-o", "other", check=False)
    assert done.returncode == 128
    assert "./a and ./b differ in use_quora: True and False" in done.stderr


def test_a_method_that_nobody_knows_is_said_to_be_one(repo, base, soup) -> None:
    for seed, name in enumerate("ab"):
        made(base, "LORA", seed, name)
        file = Path(name, "adapter_config.json")
        raw = json.loads(file.read_text()) | {"peft_type": "QUORA", "peft_version": "9.1.0"}
        file.write_text(json.dumps(raw))
    said = "is QUORA, a method of PEFT 9.1.0 that this git-soup does not know"
    assert said in soup("add", "a", "b").stderr
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    assert all(".lora_" in row["module"] for row in report["layers"])
    assert f"./a {said}" in report["summary"]["notes"]
    assert (
        "only LoRA adapters are merged"
        in soup("merge", "./a", "./b", "-o", "c", check=False).stderr
    )
