"""A folder written beside its place and moved there whole."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from soup_git.storage.files import fsync


@contextlib.contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new folder that becomes `target` when the block ends well; else nothing is left of it.

    What `target` held and the block did not write is kept. A folder cannot replace another
    in one step, so a kill in between leaves the old one under a name that starts `.soup-`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".soup-", suffix=".tmp", dir=target.parent))
    try:
        yield made
        for file in made.iterdir():
            fsync(file)
        made.chmod(0o777 & ~_umask())
        _move(made, target)
        fsync(target.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


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
    old = Path(tempfile.mkdtemp(prefix=".soup-", suffix=".old", dir=target.parent))
    target.rename(old / target.name)
    made.rename(target)
    shutil.rmtree(old)


def _umask() -> int:
    import os

    current = os.umask(0o022)
    os.umask(current)
    return current
