"""How a file is named in a command that a user is told to type."""

from __future__ import annotations

import os
from pathlib import Path


def typed(path: Path) -> str:
    """The file's name from the current folder, absolute where it lies elsewhere."""
    whole = os.path.normpath(path.absolute())
    name = os.path.relpath(whole)
    return whole if name.startswith("..") else name


def from_top(path: Path) -> str:
    """The file's name from the top of the repository that it lies in, as git's patterns take it.

    A link is followed to where its folder lies; the bare name where there is no repository.
    """
    whole = Path(os.path.realpath(path.parent), path.name)
    for folder in whole.parents:
        if (folder / ".git").exists():
            return whole.relative_to(folder).as_posix()
    return path.name
