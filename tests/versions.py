"""Two versions of one adapter, as two people retrain it: nudged modules on each side."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import runner

WEIGHTS = "adapter_model.safetensors"
ADAPTER = "adapters/support"
Tensors = dict[str, np.ndarray[Any, Any]]


def nudge(
    folder: Path | str, seed: int, modules: Sequence[str] = ("",), scale: float = 0.1
) -> Path:
    """Move the factors of the modules whose names hold one of `modules`, as training would."""
    path = Path(folder) / WEIGHTS
    tensors = load_file(path)
    draws = np.random.default_rng(seed)
    for name in sorted(tensors):
        step = draws.standard_normal(tensors[name].shape) * scale
        if any(part in name for part in modules):
            tensors[name] = (tensors[name] + step).astype(tensors[name].dtype)
    return write(folder, tensors)


def write(folder: Path | str, tensors: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    path = Path(folder) / WEIGHTS
    path.unlink(missing_ok=True)
    save_file(dict(tensors), path, {"format": "pt"})
    return Path(folder)


def updates(folder: Path | str, config: Mapping[str, Any] | None = None) -> Tensors:
    """Module -> its dense update s·B·A in float64, by safetensors' own reader."""
    folder = Path(folder)
    config = config or json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / WEIGHTS)
    scale = config["lora_alpha"] / config["r"]
    return {
        name.removesuffix(".lora_A.weight"): scale
        * tensors[name.replace("lora_A", "lora_B")].astype(np.float64)
        @ a.astype(np.float64)
        for name, a in tensors.items()
        if name.endswith(".lora_A.weight")
    }


def best_of_rank(matrix: np.ndarray[Any, Any], rank: int) -> np.ndarray[Any, Any]:
    u, s, vt = np.linalg.svd(matrix)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])


def digests(folder: Path | str) -> dict[str, str]:
    """Tensor -> its manifest line, of the manifest in a folder."""
    lines = (Path(folder) / "adapter.manifest").read_text().partition("\n\n")[2].splitlines()
    return {line.split(" ", 1)[0]: line for line in lines}


Change = Callable[[], object]


def commit_change(git: Any, soup: Any, change: Change, message: str) -> None:
    """One person's change to the adapter, tracked and committed."""
    change()
    soup("add", ADAPTER)
    soup("lock", "write", "--base-sha", "a" * 64)
    git("add", "--all")
    git("commit", "-qm", message)


def two_sides(
    git: Any, soup: Any, make_adapter: Any, ours: Change, theirs: Change, **config: Any
) -> None:
    """`main` and `politer`, each with a change since the commit they share; on `main`."""
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=1, **config), "Train support")
    git("switch", "-qc", "politer")
    commit_change(git, soup, theirs, "Train politer")
    git("switch", "-q", "main")
    commit_change(git, soup, ours, "Train support again")


OURS, THEIRS = ["layers.0", "layers.1.self_attn"], ["layers.1"]
"""Ours changes layer 0 and an attention; theirs layer 1: one module is changed by both."""
BOTH = "layers.1.self_attn.q_proj"


@pytest.fixture(scope="session")
def _sides_template(repo_template: Path, tmp_path_factory, make_adapter) -> Path:
    root = tmp_path_factory.mktemp("sides") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    with contextlib.chdir(root):
        two_sides(
            runner("git"), runner("git", "soup"), make_adapter,
            lambda: nudge(ADAPTER, 2, OURS), lambda: nudge(ADAPTER, 3, THEIRS),
        )  # fmt: skip
    return root


@pytest.fixture
def sides(_sides_template: Path, in_tmp_path: Path, git, monkeypatch) -> Path:
    """`main` and `politer` after each was retrained; on `main`."""
    root = in_tmp_path / "repo"
    shutil.copytree(_sides_template, root, symlinks=True)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root
