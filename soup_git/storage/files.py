"""Files written so that a kill leaves the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from soup_git.errors import FatalError

_FICLONE = 0x40049409  # linux/fs.h: share the extents of another file (btrfs, xfs, bcachefs)


def bytes_of(path: Path) -> bytes | None:
    """A file's bytes; None when none is there."""
    # A link to a device or a pipe would be read for ever.
    return path.read_bytes() if path.is_file() else None


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write beside, fsync, rename over; into what is no file, a device or a pipe, just write."""
    if path.is_dir():
        raise FatalError(f"{path} is a folder", hint=f"name a file, as in {path / 'FILE'}")
    if _is_stream(path):
        with path.open("wb") as stream:
            stream.write(data)
        return
    with beside(path, mode=mode) as temporary:
        temporary.write_bytes(data)


def _is_stream(path: Path) -> bool:
    """`-o /dev/null` or `/dev/stdout`, named pipes: a rename would put a file in their place."""
    if path.is_symlink() and path.readlink().is_relative_to("/proc"):
        return True
    if path.parent.resolve().is_relative_to("/proc"):
        return True  # /dev/fd/63, as the shell's >(…) names it
    return path.exists() and not path.is_file()


TEMPORARY = ".soup-*.tmp"
"""What a killed command may leave beside a file; git, DVC and our own walks pass over it."""
REPLACED = ".old.tmp"
"""The end of a name under which a folder waits while another takes its place (`folders`)."""
_OLD_SECONDS = 3600


def _sweep(folder: Path) -> None:
    """Remove what commands killed long ago left here; nothing is being written for an hour."""
    for path in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError):
            if path.name.endswith(REPLACED) or time.time() - path.lstat().st_mtime < _OLD_SECONDS:
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def temporary_in(folder: Path) -> Iterator[Path]:
    """A new empty file in `folder` that is gone when the block ends, unless it was moved."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    descriptor, name = tempfile.mkstemp(prefix=".soup-", suffix=".tmp", dir=folder)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path, *, mode: int) -> None:
    """Give a finished file its name: durable first, then visible."""
    temporary.chmod(mode & ~umask())
    fsync(temporary)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(path)
    fsync(path.parent)


@contextlib.contextmanager
def beside(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """A temporary file in `path`'s folder that replaces `path` when the block ends well."""
    with temporary_in(path.parent) as temporary:
        yield temporary
        move_into_place(temporary, path, mode=mode)


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for the processes that are inside a block over the same file, then keep others out.

    The system ends a turn with the process that had it, so a kill leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    current = os.umask(0o022)
    os.umask(current)
    return current


def copy_bytes(source: Path, target: Path) -> None:
    """Copy by reflink where the file system can (no time, no space), else byte for byte."""
    with source.open("rb") as reader, target.open("wb") as writer:
        if not _clone(reader, writer):
            shutil.copyfileobj(reader, writer, 1 << 20)


def reflink(source: Path, target: Path) -> bool:
    """Let `target` share `source`'s extents; False where the file system cannot."""
    with source.open("rb") as reader, target.open("wb") as writer:
        return _clone(reader, writer)


def _clone(reader: BinaryIO, writer: BinaryIO) -> bool:
    try:
        fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
    except OSError:
        return False
    return True


def inside(root: Path, path: Path) -> str:
    """`path` relative to `root` with `/`; raises when it lies outside, links followed."""
    root = root.resolve()
    resolved = path.resolve()
    if not resolved.is_relative_to(root) or resolved == root:
        raise FatalError(
            f"{path} is outside the repository {root}",
            hint=f"move it into {root}, then name it there",
        )
    relative = resolved.relative_to(root)
    if ".git" in relative.parts:
        raise FatalError(f"{path} is inside git's own folder", hint="move it into the work tree")
    return relative.as_posix()


def target_inside(
    root: Path, relative: str, *, replaces: Callable[[Path], bool] = lambda _: False
) -> Path:
    """Where a path that git or DVC names may be written: below `root`, through no link.

    A revision from somewhere else can hold a symbolic link where a folder is expected;
    writing through it would leave the repository. A link at the path itself for which
    `replaces` answers yes is one that the caller replaces or removes, and never writes through.
    """
    parts = relative.split("/")
    # `.GIT` is git's own folder too where the file system ignores case.
    if "\0" in relative or any(part.lower() in {"", ".", "..", ".git"} for part in parts):
        raise FatalError(f"{relative!r} is not a path inside the repository")
    here = root
    for part in parts:
        here = here / part
        if here.is_symlink() and not (here == root / relative and replaces(here)):
            raise FatalError(
                f"{relative}: {here.relative_to(root)} is a symbolic link; nothing is written through it",
                hint=f"rm {here.relative_to(root)} and check where it came from with git log",
            )
    return here
