from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest

from tests.training import tiny_model as tiny


@pytest.fixture(autouse=True)
def _light_heap() -> None:
    """Each training ends in a full collection, and half of its time went into TRL's own objects."""
    if "trl" in sys.modules and not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def workspace(tmp_path: Path, base_folder: Path) -> Path:
    """A folder with the base, twenty-four conversations and a soup.yaml; not a git repository."""
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "base").symlink_to(base_folder)
    tiny.write_rows(root / "data" / "train.jsonl", [tiny.conversation(n) for n in range(24)])
    (root / "soup.yaml").write_text(tiny.CONFIG)
    return root
