"""Files that should hold text or weights, and hold what a clone or a download left instead."""

from __future__ import annotations

from pathlib import Path

from soup_git.core.foreignbytes import HEAD_BYTES, Foreign, page, pointer
from soup_git.errors import FatalError
from soup_git.storage.filenames import from_top, typed


def instead(path: Path, *, may_be_page: bool = False) -> Foreign | None:
    """The pointer, or the server's page, that lies at `path`; None for anything else."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    found = pointer(head, typed(path), from_top(path))
    return found if found is not None or may_be_page else page(head)


def refuse_pointer(path: Path, shown: str, *, may_be_page: bool = False) -> None:
    """Raise `FatalError` where `instead` finds something."""
    found = instead(path, may_be_page=may_be_page)
    if found is not None:
        raise FatalError(f"{shown} {found.what}", hint=found.hint)
