"""Memory that is not enough: told apart from other errors, and what to lower, cheapest first."""

from __future__ import annotations

from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training import memory
from soup_git.training.config import load_config


def test_a_tensor_that_no_machine_holds_names_what_to_lower(workspace: Path) -> None:
    import torch

    config = load_config(workspace / "soup.yaml")
    with pytest.raises(FatalError, match=r"^out of memory: ") as caught, memory.named(config):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert caught.value.hint.startswith("training.batch_size: 2, with training.gradient_acc")
    assert "training.gradient_checkpointing: true" in caught.value.hint
    assert "git soup profile" in caught.value.hint


def test_other_errors_stay_what_they_are(workspace: Path) -> None:
    config = load_config(workspace / "soup.yaml")
    with pytest.raises(RuntimeError, match="shapes"), memory.named(config):
        raise RuntimeError("shapes")
    with pytest.raises(FileNotFoundError), memory.named(config):
        Path("/nowhere/at/all").read_bytes()
