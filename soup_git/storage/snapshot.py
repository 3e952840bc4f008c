"""A snapshot: the versioned content at one place (a revision, the index, the work tree).

A command reads all three alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.lock import LOCK, Lock, parse_lock
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest, parse_manifest
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import POINTER_SUFFIX, Output, parse_dvc_lock, parse_pointer
from soup_git.storage.files import bytes_of

if TYPE_CHECKING:
    from soup_git.storage.workspace import Workspace

DVC_LOCK = "dvc.lock"


class Snapshot:
    """What is versioned at one place: path -> bytes, and what these texts say."""

    def __init__(
        self, workspace: Workspace, label: str, entries: Mapping[str, str], *, on_disk: bool = False
    ) -> None:
        self._workspace = workspace
        self.label = label
        self.entries = entries
        """Path -> blob id."""
        self.is_on_disk = on_disk

    def where(self, path: str) -> str:
        return f"{self.label}:{path}" if self.label else path

    def read(self, path: str) -> bytes | None:
        return next(iter(self.read_all([path])))

    def read_all(self, paths: Iterable[str]) -> Iterable[bytes | None]:
        if self.is_on_disk:
            return (bytes_of(self._workspace.root / path) for path in paths)
        ids = [self.entries.get(path) for path in paths]
        found = iter(self._workspace.git.blobs(oid for oid in ids if oid is not None))
        return [None if oid is None else _data(next(found)) for oid in ids]

    def require(self, path: str) -> bytes:
        data = self.read(path)
        if data is None:
            raise FatalError(
                f"{self.where(path)} is not there",
                hint=f"git checkout -- {path}, or git log -- {path}",
            )
        return data

    @cached_property
    def adapters(self) -> list[str]:
        """The folders that hold a manifest, sorted; `.` is the top."""
        return sorted(
            path.rpartition("/")[0] or "."
            for path in self.entries
            if path == MANIFEST or path.endswith(f"/{MANIFEST}")
        )

    @cached_property
    def outputs(self) -> dict[str, Output]:
        """Path -> what DVC holds there, from every pointer and every `dvc.lock`."""
        pointers = [path for path in self.entries if path.endswith(POINTER_SUFFIX)]
        found: dict[str, Output] = {}
        for path, data in zip(pointers, self.read_all(pointers), strict=True):
            if data is not None:
                found.update((output.path, output) for output in parse_pointer(data, path))
        for outputs in self.stages.values():
            # Metrics and plots (`cache: false`) are git's to hold, not the cache's.
            found.update((o.path, o) for o in outputs if o.path not in self.entries)
        return found

    @cached_property
    def stages(self) -> dict[tuple[str, str], list[Output]]:
        """(`dvc.lock`, stage) -> its outputs, git's and DVC's."""
        locks = [path for path in self.entries if is_dvc_lock(path)]
        found = {}
        for path, data in zip(locks, self.read_all(locks), strict=True):
            if data is not None:
                pipeline = f"{path.removesuffix('.lock')}.yaml"
                text = self.read(pipeline) if pipeline in self.entries else None
                for stage, outputs in parse_dvc_lock(data, path, text).items():
                    found[path, stage] = outputs
        return found

    @cached_property
    def lock(self) -> Lock | None:
        data = self.read(LOCK) if LOCK in self.entries or self.is_on_disk else None
        return None if data is None else parse_lock(data, self.where(LOCK))

    def manifest(self, folder: str) -> Manifest:
        path = inside_folder(folder, MANIFEST)
        return parse_manifest(self.require(path), self.where(path))

    def config(self, folder: str) -> AdapterConfig:
        path = inside_folder(folder, CONFIG)
        return parse_adapter_config(self.require(path), self.where(path))

    def weights(self, folder: str) -> Output | None:
        return self.outputs.get(inside_folder(folder, WEIGHTS))


def is_dvc_lock(path: str) -> bool:
    return path == DVC_LOCK or path.endswith(f"/{DVC_LOCK}")


def is_weights(path: str) -> bool:
    """Whether a path is that of an adapter's weights."""
    return path == WEIGHTS or path.endswith(f"/{WEIGHTS}")


def inside_folder(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _data(found: tuple[str, bytes] | None) -> bytes | None:
    return None if found is None else found[1]
