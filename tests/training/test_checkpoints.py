"""The state folder of an interrupted run."""

from __future__ import annotations

from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training import checkpoints


def test_checkpoints_that_nobody_knows_the_inputs_of_are_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    checkpoints.agree(tmp_path, {"lr": 1})
    assert checkpoints.complete(tmp_path) == []
    assert (tmp_path / "run.json").is_file()


def test_another_value_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints.agree(tmp_path, {"lr": 1, "seed": 0})
    (tmp_path / "checkpoint-3").mkdir()
    checkpoints.agree(tmp_path, {"lr": 1, "seed": 0})
    with pytest.raises(FatalError, match="lr: 1 -> 2"):
        checkpoints.agree(tmp_path, {"lr": 2, "seed": 0})
    assert len(checkpoints.complete(tmp_path)) == 1
