"""Files that decide what is learnt beside the data: inside the workspace, and by their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from soup_git.training.schema import SoupConfig


def inside(config: SoupConfig, key: str, root: Path, name: str) -> Path:
    """The path `name` of the workspace. Raises FatalError, blaming `key`, if it leads outside."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise config.refuse(key, f"{name} is outside the workspace")
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
