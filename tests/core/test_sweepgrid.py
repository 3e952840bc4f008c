from __future__ import annotations

import pytest

from soup_git.core import yamllines
from soup_git.core.sweepgrid import (
    Axis,
    experiment_name,
    grid,
    hydra_override,
    parse_axis,
    with_values,
    yaml_override,
)
from soup_git.errors import ExitCode, FatalError


def test_values_are_yaml() -> None:
    assert parse_axis("training.lr=1e-5, 2e-5") == Axis("training.lr", (1e-5, 2e-5))
    lists = parse_axis("training.lora.target_modules=[q_proj,v_proj],all-linear")
    assert lists.values == (["q_proj", "v_proj"], "all-linear")
    assert parse_axis("a=true,null,'x,y'").values == (True, None, "x,y")


@pytest.mark.parametrize("text", ["lr", "=1", "a b=1", "lr=", "lr=[1", "lr=a: b: c", "lr=&x 1"])
def test_what_is_no_axis_is_a_usage_error(text: str) -> None:
    with pytest.raises(FatalError) as error:
        parse_axis(text)
    assert error.value.code == ExitCode.USAGE


def test_the_grid_is_every_combination_and_bounded() -> None:
    assert grid([Axis("a", (1, 2)), Axis("b", ("x", "y"))]) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    with pytest.raises(FatalError, match="17 x 16 values are 272 experiments"):
        grid([Axis("a", tuple(range(17))), Axis("b", tuple(range(16)))])
    for other in ("a", "a.b"):
        with pytest.raises(FatalError, match="twice"):
            grid([Axis("a", (1,)), Axis(other, (1,))])


def test_dvc_and_the_schema_are_given_the_same_value() -> None:
    value = {"q_proj": 8, "layers.0": [1.5e-05, True, None]}
    assert hydra_override("a.b", value) == "++a.b={q_proj:8,layers.0:[1.5e-05,true,null]}"
    assert hydra_override("a", "it's") == "++a='it\\'s'"
    key, _, text = yaml_override("a.b", value).partition("=")
    assert key == "a.b"
    assert yamllines.read(text)[0] == value
    for unable in ("${base}", "a\\b", {"a b": 1}):
        with pytest.raises(FatalError, match="DVC cannot set"):
            hydra_override("a", unable)


def test_an_experiment_is_named_by_its_commit_and_config() -> None:
    config = {"training": {"lr": 1e-4, "lora": {"r": 8}}}
    one = with_values(config, {"training.lr": 2e-5, "training.lora.r": 16})
    other = with_values(config, {"training.lora.r": 16, "training.lr": 0.00002})
    assert one == {"training": {"lr": 2e-5, "lora": {"r": 16}}}
    assert experiment_name("c" * 40, one) == experiment_name("c" * 40, other)
    assert experiment_name("d" * 40, one) != experiment_name("c" * 40, one)
    assert with_values({"base": "x"}, {"training.lr": 1})["training"] == {"lr": 1}
