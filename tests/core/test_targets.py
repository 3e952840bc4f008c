"""What a pair of factors adapts, known from names, ranks and the config alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.manifest import Manifest, Tensor, agrees, make_manifest, parse_manifest
from soup_git.core.targets import NoTargetError, targets_of
from soup_git.errors import FatalError

EXPERTS = "model.layers.0.mlp.experts"


def lora(**keys: Any) -> AdapterConfig:
    raw = {"peft_type": "LORA", "base_model_name_or_path": "b", "r": 2, "lora_alpha": 8, **keys}
    return parse_adapter_config(json.dumps(raw).encode(), "c")


def pair(module: str, rank: int) -> list[Tensor]:
    names = f"base_model.model.{module}.lora_A.weight", f"base_model.model.{module}.lora_B.weight"
    shapes = (rank, 10), (12, rank)
    return [Tensor(n, "F32", s, "0" * 64, 1.0) for n, s in zip(names, shapes, strict=True)]


def made(config: AdapterConfig, tensors: list[Tensor]) -> Manifest:
    return make_manifest(config, tensors, weights_md5="a" * 32, weights_size=1)


def test_a_bare_name_means_only_modules_whose_rank_is_not_a_modules() -> None:
    """For all-linear PEFT writes `down_proj`, which could be a parameter of any module."""
    config = lora(target_parameters=["down_proj"], rank_pattern={"experts.down_proj": 1})
    found = targets_of(config, [*pair(EXPERTS, 4), *pair("model.layers.0.self_attn.q_proj", 2)])
    assert found[EXPERTS].parameter == "down_proj"
    assert (found[EXPERTS].rank, found[EXPERTS].matrices) == (1, 4)
    assert found["model.layers.0.self_attn.q_proj"].parameter is None


@pytest.mark.parametrize(
    ("keys", "ranks", "message"),
    [
        ({"rank_pattern": {"gate_up_proj": 3}}, (8, 8), "rank 3 for .*gate_up_proj, 2 for .*down_proj, but"),
        ({}, (8, 6), "but its weights have rank 6 and 8 in all"),
        ({"rank_pattern": {"b1": 4}, "target_parameters": ["experts.b1", "experts.b2"]}, (8, 16), None),
        ({"alpha_pattern": {"b1": 4}, "target_parameters": ["experts.b1", "experts.b2"]}, (8, 8), "not which of b1 and b2"),
    ],
)  # fmt: skip
def test_nested_parameters_are_told_apart_by_their_ranks_or_refused(
    keys: dict[str, Any], ranks: tuple[int, int], message: str | None
) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = lora(**{"target_parameters": parameters, **keys})
    tensors = [*pair(EXPERTS, ranks[0]), *pair(f"{EXPERTS}.base_layer", ranks[1])]
    if message is None:
        found = targets_of(config, tensors)
        assert found[f"{EXPERTS}.base_layer"].parameter == "b1"
        assert {target.matrices for target in found.values()} == {4}
        return
    with pytest.raises(NoTargetError, match=message):
        targets_of(config, tensors)
    with pytest.raises(FatalError, match=r"adapter_config\.json says"):
        made(config, tensors)


def test_the_ranks_of_a_module_beside_the_experts_are_checked() -> None:
    config = lora(target_parameters=["mlp.experts.down_proj"])
    made(config, [*pair(EXPERTS, 8), *pair("q_proj", 2)])
    with pytest.raises(FatalError, match="rank 2 for q_proj, but its weights have rank 4"):
        made(config, [*pair(EXPERTS, 8), *pair("q_proj", 4)])


@pytest.mark.parametrize(
    ("config", "tensors", "new", "old"),
    [
        (
            lora(target_parameters=["e.down_proj", "e.gate_up_proj"], rank_pattern={"down_proj": 1}),
            [*pair("e", 4), *pair("e.base_layer", 8)],
            ('["e.down_proj","e.gate_up_proj"]', "rank=1 alpha=8 parameter=down_proj matrices=4",
             "rank=2 alpha=8 parameter=gate_up_proj matrices=4"),
            ('["e.gate_up_proj","e.down_proj"]', "rank=2 alpha=8", "rank=2 alpha=8"),
        ),
        (
            parse_adapter_config(b'{"peft_type": "LOHA", "r": 4, "alpha": 16}', "c"),
            [Tensor("base_model.model.q.hada_w1_a", "F32", (8, 4), "0" * 64, 1.0)],
            ("alpha 16\n",), ("",),
        ),
    ],
)  # fmt: skip
def test_a_manifest_of_an_earlier_version_still_agrees(
    config: AdapterConfig, tensors: list[Tensor], new: tuple[str, ...], old: tuple[str, ...]
) -> None:
    text = made(config, tensors).text()
    for now, before in zip(new, old, strict=True):
        assert now in text
        text = text.replace(now, before, 1)
    manifest = parse_manifest(text.encode(), "m")
    assert agrees(manifest, config)
    wrong = parse_manifest(
        text.replace("rank 2", "rank 3").replace("rank 4", "rank 5").encode(), "m"
    )
    assert not agrees(wrong, config)


def test_another_scaling_of_equal_tensors_is_another_adapter() -> None:
    tensors = [Tensor("base_model.model.q.hada_w1_a", "F32", (8, 4), "0" * 64, 1.0)]
    digests = {
        made(parse_adapter_config(b'{"peft_type": "LOHA", "r": 4, "alpha": %d}' % alpha, "c"), tensors).digest()
        for alpha in (4, 8)
    }  # fmt: skip
    assert len(digests) == 2
