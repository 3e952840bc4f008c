"""Which datasets a revision names, and where their bytes are: git, DVC's cache, the work tree."""

from __future__ import annotations

import contextlib
import io
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from soup_git.core.digests import sha256_hex
from soup_git.core.lock import is_repository_path
from soup_git.core.trainconfig import ConfigPins, parse_config_pins
from soup_git.errors import FatalError
from soup_git.storage.lockdrift import config_path, lock_of
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

ROLES = ("train", "validation")
_HELD = 16 << 20
"""Bytes of a blob that are held in memory; a larger one goes through a temporary file."""


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset, wherever its bytes are."""

    name: str
    """As it is shown: its path from the top."""
    open: Callable[[], AbstractContextManager[BinaryIO]]
    identity: str
    """Equal for equal bytes of one kind of place: a blob's id, an md5; "" where not known."""

    @property
    def suffix(self) -> str:
        return posixpath.splitext(self.name)[1]


@dataclass(frozen=True)
class DataSource:
    """The files of rows that a dataset consists of, in the order that training reads them."""

    path: str | None
    kind: str
    """`git`, `dvc`, `git and dvc`, `work tree`; `none` for a dataset that is not there."""
    files: tuple[DataFile, ...] = ()

    def is_same_as(self, other: DataSource) -> bool:
        """Whether the files are known to hold the same bytes, without a look at them."""
        mine, others = ([f.identity for f in s.files] for s in (self, other))
        suffixes = [f.suffix for f in self.files] == [f.suffix for f in other.files]
        return mine == others and all(mine) and suffixes


NOWHERE = DataSource(None, "none")


@dataclass(frozen=True)
class DataPlace:
    """Where a dataset is, before its bytes are looked at."""

    path: str
    blobs: Mapping[str, str] = field(default_factory=dict)
    """Path -> blob id of the files that git has."""
    objects: Mapping[str, str] = field(default_factory=dict)
    """Path -> md5 of what DVC has; `….dir` for a folder, which may lie above `path`."""
    on_disk: Path | None = None


def place_of(workspace: Workspace, snapshot: Snapshot, path: str) -> DataPlace | None:
    """Where a snapshot has the file or folder `path`: on disk, in git, in DVC; None if nowhere."""
    if snapshot.is_on_disk and (workspace.root / path).exists():
        return DataPlace(path, on_disk=workspace.root / path)
    inside = f"{path}/"
    # What was deleted from the work tree is not in it, whatever the index still has.
    entries = {} if snapshot.is_on_disk else snapshot.entries
    blobs = {p: oid for p, oid in entries.items() if p == path or p.startswith(inside)}
    outputs = snapshot.outputs
    objects = {p: o.md5 for p, o in outputs.items() if p == path or p.startswith(inside)}
    if not blobs and not objects:
        objects = {p: o.md5 for p, o in outputs.items() if o.is_folder and path.startswith(f"{p}/")}
    return DataPlace(path, blobs, objects) if blobs or objects else None


def source_of(
    workspace: Workspace, place: DataPlace, suffixes: tuple[str, ...], stack: ExitStack
) -> DataSource:
    """The files of a place whose objects are all in the cache, and sound.

    A folder has the files with these `suffixes`, in order; a file is taken whatever its
    name. What is opened for longer than a call closes with `stack`.
    """
    if place.on_disk is not None:
        return DataSource(place.path, "work tree", tuple(_on_disk(place, suffixes)))
    files = {
        path: DataFile(path, _Blob(workspace, oid, stack).open, oid)
        for path, oid in place.blobs.items()
    }
    for path, md5 in place.objects.items():
        listing = workspace.dvc.folder_files(md5) if md5.endswith(".dir") else {"": md5}
        for name, inner in listing.items():
            file = f"{path}/{name}" if name else path
            where = workspace.dvc.object_path(inner)
            files[file] = DataFile(file, partial(_open_path, where), f"md5:{inner}")
    if place.path in files:
        chosen = [files[place.path]]
    else:
        chosen = [
            file
            for path, file in sorted(files.items(), key=lambda item: item[0].split("/"))
            if path.startswith(f"{place.path}/") and file.suffix in suffixes
        ]
    kind = " and ".join(n for n, has in (("git", place.blobs), ("dvc", place.objects)) if has)
    return DataSource(place.path, kind, tuple(chosen))


def _on_disk(place: DataPlace, suffixes: tuple[str, ...]) -> Iterator[DataFile]:
    top = place.on_disk
    if top is None:
        return
    is_folder = top.is_dir()
    paths = sorted(p for p in top.rglob("*") if p.suffix in suffixes) if is_folder else [top]
    for path in paths:
        if path.is_file():  # a pipe or a device would be read for ever
            name = f"{place.path}/{path.relative_to(top).as_posix()}" if is_folder else place.path
            yield DataFile(name, partial(_open_path, path), "")


def _open_path(path: Path) -> AbstractContextManager[BinaryIO]:
    return path.open("rb")


class _Blob:
    """A blob that can be read several times; a large one is written out once."""

    def __init__(self, workspace: Workspace, oid: str, stack: ExitStack) -> None:
        self._workspace, self._oid, self._stack = workspace, oid, stack
        self._staged: BinaryIO | None = None

    def open(self) -> AbstractContextManager[BinaryIO]:
        git = self._workspace.git
        if self._staged is None:
            size = git.blob_ids([self._oid])[0]
            if size is None:
                hint = "git fsck, then git fetch --refetch"
                raise FatalError(f"object {self._oid} is missing", hint=hint)
            if size[1] <= _HELD:
                return io.BytesIO(git.blob(self._oid) or b"")
            self._staged = self._stack.enter_context(_staged(self._workspace))
            git.blob_into(self._oid, self._staged)
        self._staged.seek(0)
        return contextlib.nullcontext(self._staged)


def _staged(workspace: Workspace) -> AbstractContextManager[BinaryIO]:
    """A file without a name on the repository's own disk: gone with the process, however it ends."""
    return tempfile.TemporaryFile(dir=workspace.git.common_dir)


def dataset_paths(snapshot: Snapshot) -> dict[str, str]:
    """Role -> path of the datasets that a revision names inside the repository."""
    found = {role: repository_path(named) for role, named in named_datasets(snapshot).items()}
    return {role: path for role, path in found.items() if path is not None}


def named_datasets(snapshot: Snapshot) -> dict[str, str]:
    """Role -> dataset as it is written: `train` and `validation`, where they are named at all.

    For `train` the lock is believed (`git soup branch --dataset` pins what no config says),
    unless the config was edited since.
    """
    lock, _ = lock_of(snapshot)
    path = config_path(snapshot)
    data = snapshot.read(path)
    try:
        names = ConfigPins() if data is None else parse_config_pins(data, snapshot.where(path))
    except FatalError:
        names = ConfigPins()  # what cannot be read names nothing; the config diff says so
    train = names.dataset
    if lock is not None and lock.dataset_path is not None:
        is_current = data is not None and sha256_hex(data) == lock.config_sha
        train = lock.dataset_path if is_current or train is None else train
    named = {"train": train, "validation": names.validation}
    return {role: value for role, value in named.items() if value is not None}


def repository_path(named: str) -> str | None:
    """A path from a config as git writes it; None where it leads out of the repository."""
    path = posixpath.normpath(named)
    return path if is_repository_path(path) else None
