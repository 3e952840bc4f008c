"""adapter_config.json merges by what it means, and into PEFT's own form."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from soup_git.core.configmerge import merge_configs

PEFT = {
    "alpha_pattern": {}, "base_model_name_or_path": "models/base", "exclude_modules": None,
    "inference_mode": True, "lora_alpha": 8, "lora_dropout": 0.0, "modules_to_save": None,
    "peft_type": "LORA", "peft_version": "0.20.0", "r": 4, "rank_pattern": {},
    "target_modules": ["v_proj", "q_proj"], "task_type": "CAUSAL_LM",
}  # fmt: skip


def merged(ours: dict[str, Any], theirs: dict[str, Any], origin: Any = PEFT) -> dict[str, Any]:
    """The result where there is no conflict; the same for either order of the sides."""
    found = merge_configs(origin, [{**PEFT, **ours}, {**PEFT, **theirs}])
    assert found.conflicts == []
    assert found.sides[0] == found.sides[1]
    back = merge_configs(origin, [{**PEFT, **theirs}, {**PEFT, **ours}])
    assert back.sides[0] == found.sides[0]
    result = json.loads(found.sides[0])
    assert found.sides[0].decode() == json.dumps(result, indent=2, sort_keys=True)
    return result


@pytest.mark.parametrize(
    "key",
    ["target_modules", "target_parameters", "modules_to_save", "exclude_modules", "layers_pattern"],
)
def test_the_order_of_a_set_is_no_change(key: str) -> None:
    orders = list(itertools.permutations(["a", "c", "b"]))
    for one, two in itertools.product(orders, repeat=2):
        assert merged({key: list(one)}, {key: list(two)})[key] == ["a", "b", "c"]


def test_what_each_side_added_to_a_set_and_took_from_it() -> None:
    ours, theirs = (
        {"target_modules": ["q_proj", "k_proj"]},
        {"target_modules": ["q_proj", "v_proj", "o"]},
    )
    assert merged(ours, theirs)["target_modules"] == ["k_proj", "o", "q_proj"]


@pytest.mark.parametrize("value", [[0, 10, 9], [9, 0, 10]])
def test_layers_are_a_set_of_numbers(value: list[int]) -> None:
    assert merged({"layers_to_transform": value}, {"layers_to_transform": [10, 9, 0]})[
        "layers_to_transform"
    ] == [0, 9, 10]


@pytest.mark.parametrize(
    ("one", "two", "newest"),
    [("0.21.2", "0.9.0", "0.21.2"), ("0.20.1", "0.20.0", "0.20.1"), ("1.0", "0.99.9", "1.0")],
)
def test_the_newest_peft_wrote_it(one: str, two: str, newest: str) -> None:
    assert merged({"peft_version": one}, {"peft_version": two})["peft_version"] == newest


def test_a_scalar_that_one_side_changed() -> None:
    found = merged({"lora_dropout": 0.1, "lora_alpha": 8.0}, {"r": 8})
    assert (found["lora_dropout"], found["r"], found["lora_alpha"]) == (0.1, 8, 8)


def test_keys_that_a_newer_peft_writes_with_nothing_in_them() -> None:
    found = merged({"use_bdlora": None, "arrow_config": None}, {"arrow_config": None, "x": {}})
    assert found["use_bdlora"] is None and found["x"] == {}


def test_what_a_config_does_not_say_is_not_made_up() -> None:
    """False is not the same as no word: PEFT's default may be another."""
    origin = {k: v for k, v in PEFT.items() if k != "inference_mode"}
    assert merged({"init_lora_weights": False}, {})["init_lora_weights"] is False
    assert "init_lora_weights" not in merged({"r": 8}, {"lora_alpha": 16}, origin)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"lora_dropout": 0.1}, {"lora_dropout": 0.2}),
        ({"base_model_name_or_path": "a"}, {"base_model_name_or_path": "b"}),
        ({"target_modules": ["k"]}, {"target_modules": ".*proj"}),
        ({"target_modules": [["k"]]}, {"target_modules": ["o"]}),
        ({"rank_pattern": {"a": 1, "b": 2}}, {"rank_pattern": {"b": 2, "a": 1}}),
        ({"trainable_token_indices": [1, 2]}, {"trainable_token_indices": [2, 1]}),
    ],
)
def test_what_both_changed_is_a_conflict_with_the_rest_agreed(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    found = merge_configs(
        PEFT, [{**PEFT, **ours, "r": 16}, {**PEFT, **theirs, "peft_version": "9"}]
    )
    assert found.conflicts == list(ours)
    one, two = (json.loads(side) for side in found.sides)
    assert json.dumps([one[k] for k in ours]) != json.dumps([two[k] for k in ours])
    assert one["r"] == two["r"] == 16 and one["peft_version"] == two["peft_version"] == "9"
    assert json.loads(found.origin)["r"] == 16


def test_a_pattern_keeps_its_order_as_the_first_match_wins() -> None:
    pattern = {"z.*": 2, "a": 4}
    found = merge_configs(PEFT, [{**PEFT, "rank_pattern": pattern}, {**PEFT, "r": 8}])
    assert list(json.loads(found.sides[0])["rank_pattern"]) == ["z.*", "a"]


def test_both_added_it() -> None:
    assert (
        merge_configs(None, [PEFT, {**PEFT, "target_modules": ["q_proj", "v_proj"]}]).conflicts
        == []
    )
    assert merge_configs(None, [PEFT, {**PEFT, "r": 8}]).conflicts == ["r"]
