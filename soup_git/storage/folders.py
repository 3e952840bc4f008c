"""A folder written beside its place and moved there whole."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from soup_git.storage.files import REPLACED, fsync, umask

_IN_USE_SECONDS = 2.0


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` when the block ends well; else nothing is left of it.

    What `target` held and the block did not write is kept. A folder cannot replace another
    in one step: a kill in between leaves the old one beside it, and the next call puts it back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _put_back(target)
    made = Path(tempfile.mkdtemp(prefix=".soup-", suffix=".tmp", dir=target.parent))
    try:
        yield made
        for file in made.iterdir():
            fsync(file)
        made.chmod(0o777 & ~umask())
        _move(made, target)
        fsync(target.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_back(target: Path) -> None:
    """Undo what a killed `_move` left: the old folder waits under a name of ours."""
    for left in target.parent.glob(f".soup-*{REPLACED}"):
        if time.time() - left.stat().st_mtime < _IN_USE_SECONDS:
            continue
        old = left / target.name
        if old.is_dir() and not target.exists():
            old.rename(target)
        shutil.rmtree(left, ignore_errors=True)


def _move(made: Path, target: Path) -> None:
    if not target.exists():
        made.rename(target)
        return
    for kept in target.iterdir():
        if not (made / kept.name).exists():
            if kept.is_dir() and not kept.is_symlink():
                shutil.copytree(kept, made / kept.name, symlinks=True)
            else:
                shutil.copy2(kept, made / kept.name, follow_symlinks=False)
    old = Path(tempfile.mkdtemp(prefix=".soup-", suffix=REPLACED, dir=target.parent))
    target.rename(old / target.name)
    made.rename(target)
    shutil.rmtree(old)
