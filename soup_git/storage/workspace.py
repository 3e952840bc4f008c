"""The workspace: a repository, its DVC cache, and what is versioned in them.

The first argument of every command. A `Snapshot` is the versioned content at one place
(a revision, the index, the work tree), so that a command reads all three alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.digests import MD5_HEX, SHA256_HEX, folder_sha256, sha256_hex
from soup_git.core.lock import LOCK, Lock, parse_lock
from soup_git.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    make_manifest,
    parse_manifest,
)
from soup_git.core.spec import FolderSpec, Reading, RevisionSpec, RunSpec, readings
from soup_git.errors import FatalError
from soup_git.storage.dvcrepo import (
    POINTER_SUFFIX,
    DvcRepo,
    Output,
    folder_md5_of,
    md5_of_file,
    parse_dvc_lock,
    parse_pointer,
    walk,
)
from soup_git.storage.facts import Facts, file_key
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.weights import CONVERT, Fingerprint, fingerprint

DVC_LOCK = "dvc.lock"
_PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin", "adapter.pkl")


@dataclass(frozen=True)
class Adapter:
    """One adapter, wherever it came from."""

    spec: str
    origin: str
    """Where it was found, in words: a folder, or a commit and a path."""
    path: str
    commit: str | None
    config_data: bytes
    config: AdapterConfig
    manifest: Manifest
    weights: Path | None
    """A local file with the bytes; None when neither work tree nor cache has them."""


class Snapshot:
    """What is versioned at one place: path -> bytes, and what these texts say."""

    def __init__(
        self, workspace: Workspace, label: str, entries: Mapping[str, str], *, on_disk: bool = False
    ) -> None:
        self._workspace = workspace
        self.label = label
        self.entries = entries
        """Path -> blob id."""
        self._on_disk = on_disk

    def where(self, path: str) -> str:
        return f"{self.label}:{path}" if self.label else path

    def read(self, path: str) -> bytes | None:
        return next(iter(self.read_all([path])))

    def read_all(self, paths: Iterable[str]) -> Iterable[bytes | None]:
        if self._on_disk:
            return (_bytes_of(self._workspace.root / path) for path in paths)
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
        """Path -> what DVC holds there, from every pointer and the top's `dvc.lock`."""
        pointers = [path for path in self.entries if path.endswith(POINTER_SUFFIX)]
        found: dict[str, Output] = {}
        for path, data in zip(pointers, self.read_all(pointers), strict=True):
            if data is not None:
                found.update((output.path, output) for output in parse_pointer(data, path))
        lock = self.read(DVC_LOCK) if DVC_LOCK in self.entries else None
        if lock is not None:
            for outputs in parse_dvc_lock(lock, DVC_LOCK).values():
                # Metrics and plots (`cache: false`) are git's to hold, not the cache's.
                found.update((o.path, o) for o in outputs if o.path not in self.entries)
        return found

    @cached_property
    def lock(self) -> Lock | None:
        data = self.read(LOCK) if LOCK in self.entries or self._on_disk else None
        return None if data is None else parse_lock(data, self.where(LOCK))

    def manifest(self, folder: str) -> Manifest:
        path = inside_folder(folder, MANIFEST)
        return parse_manifest(self.require(path), self.where(path))

    def config(self, folder: str) -> AdapterConfig:
        path = inside_folder(folder, CONFIG)
        return parse_adapter_config(self.require(path), self.where(path))

    def weights(self, folder: str) -> Output | None:
        return self.outputs.get(inside_folder(folder, WEIGHTS))


def inside_folder(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _bytes_of(path: Path) -> bytes | None:
    # A link to a device or a pipe would be read for ever.
    return path.read_bytes() if path.is_file() else None


def _data(found: tuple[str, bytes] | None) -> bytes | None:
    return None if found is None else found[1]


@dataclass(frozen=True)
class DataDigests:
    """Digests of a dataset: ours over its bytes, DVC's for comparisons at git speed."""

    sha256: str
    md5: str
    size: int
    is_folder: bool = False


class Workspace:
    """A repository in which `git soup init` has run."""

    def __init__(self, git: GitRepo) -> None:
        self.git = git
        self.root = git.root

    @classmethod
    def open(cls, start: Path | None = None) -> Workspace:
        """The workspace around `start` (the current folder)."""
        workspace = cls(GitRepo.discover(start or Path.cwd()))
        if not workspace.dvc.exists:
            raise FatalError(
                f"{workspace.root} is not a git-soup workspace: it has no .dvc/config",
                hint="git soup init",
            )
        return workspace

    @cached_property
    def dvc(self) -> DvcRepo:
        main = self.git.main_work_tree if self.git.is_linked_work_tree else self.root
        return DvcRepo(self.root, main, self.git.common_dir)

    @cached_property
    def facts(self) -> Facts:
        return Facts(self.git.common_dir / "soup" / "facts")

    def work_tree_bytes(self, path: str) -> bytes | None:
        """A file of the work tree, tracked or not; None when it is not there."""
        return _bytes_of(self.root / path)

    def training_state(self, adapter: str) -> Path:
        """Where an interrupted training of the adapter at a path waits to be resumed."""
        place = sha256_hex(f"{self.root}\0{adapter}".encode())[:16]
        return self.git.common_dir / "soup" / "training" / place

    # -- snapshots --------------------------------------------------------------------------

    def at(self, revision: str, label: str | None = None) -> Snapshot:
        commit = self.git.commit(revision)
        entries = {entry.path: entry.oid for entry in self.git.tree(commit)}
        return Snapshot(self, label if label is not None else revision, entries)

    @cached_property
    def staged(self) -> Snapshot:
        return Snapshot(self, "", {entry.path: entry.oid for entry in self.git.index()})

    @cached_property
    def work_tree(self) -> Snapshot:
        """The tracked paths as they are on disk now."""
        return Snapshot(self, "", self.staged.entries, on_disk=True)

    # -- digests, computed once -------------------------------------------------------------

    def md5(self, path: Path) -> str:
        return self._file_fact("md5", path, md5_of_file, MD5_HEX.fullmatch)

    def sha256(self, path: Path) -> str:
        def compute(file: Path) -> str:
            import hashlib

            with file.open("rb") as reader:
                return hashlib.file_digest(reader, "sha256").hexdigest()

        return self._file_fact("sha256", path, compute, SHA256_HEX.fullmatch)

    def _file_fact(self, kind: str, path: Path, compute, is_valid) -> str:  # type: ignore[no-untyped-def]
        key = file_key(kind, path)
        known = self.facts.get(key) if key else None
        if known is not None and is_valid(known):
            return known
        value: str = compute(path)
        # The file may have changed while it was read: only what is still true is kept.
        if key is not None and file_key(kind, path) == key:
            self.facts.put(key, value)
        return value

    def blob_sha256(self, oid: str) -> str:
        known = self.facts.get(f"blob:{oid}")
        if known is not None and SHA256_HEX.fullmatch(known):
            return known
        data = self.git.blob(oid)
        if data is None:
            raise FatalError(f"object {oid} is missing", hint="git fsck, then git fetch --refetch")
        digest = sha256_hex(data)
        self.facts.put(f"blob:{oid}", digest)
        return digest

    def object_sha256(self, md5: str) -> str:
        """sha256 of a cache object's content: of a folder, over its files."""
        if not md5.endswith(".dir"):
            return self.sha256(self.dvc.object_path(md5))
        files = self.dvc.folder_files(md5)
        return folder_sha256(
            (path, self.sha256(self.dvc.object_path(digest))) for path, digest in files.items()
        )

    def object_is_sound(self, md5: str) -> bool:
        """Whether the object is here and its bytes have the digest that names them."""
        return self.dvc.has(md5) and not self.damaged_objects(md5)

    def damaged_objects(self, md5: str) -> list[str]:
        """Of an object, and of a folder's files: those that are here with other bytes."""
        place = self.dvc.object_path(md5)
        if not place.is_file():
            return []
        if self.md5(place) != md5.removesuffix(".dir"):
            return [md5]
        if not md5.endswith(".dir"):
            return []
        inner = sorted(set(self.dvc.folder_files(md5).values()))
        return [bad for digest in inner for bad in self.damaged_objects(digest)]

    def path_md5(self, path: Path) -> str | None:
        """DVC's digest of a file or folder on disk; None when there is none."""
        if path.is_dir():
            return folder_md5_of(path, self.md5)
        return self.md5(path) if path.is_file() else None

    def data_digests(self, path: Path) -> DataDigests:
        """Digests of a dataset on disk."""
        if not path.is_dir():
            return DataDigests(self.sha256(path), self.md5(path), path.stat().st_size)
        files = list(walk(path))
        return DataDigests(
            sha256=folder_sha256((f.relative_to(path).as_posix(), self.sha256(f)) for f in files),
            md5=folder_md5_of(path, self.md5),
            size=sum(f.stat().st_size for f in files),
            is_folder=True,
        )

    def fingerprint(self, path: Path, shown: str | None = None) -> Fingerprint:
        found = fingerprint(path, shown=shown)
        self.remember_weights(path, found)
        return found

    def store_weights(self, file: Path, shown: str, *, keep: bool = False) -> Fingerprint:
        """Put weights into the cache; digests and norms come of the same pass over the copy.

        `keep` as in `DvcRepo.store_file`.
        """

        def inspect(copy: Path) -> tuple[str, Fingerprint]:
            found = fingerprint(copy, shown=shown)
            return found.md5, found

        found: Fingerprint = self.dvc.store_file(file, inspect, keep=keep)[1]
        return found

    def remember_md5(self, path: Path, md5: str) -> None:
        """Note the digest of a file that was just written from bytes of that digest."""
        self._remember("md5", path, md5)

    def remember_weights(self, path: Path, found: Fingerprint) -> None:
        self._remember("md5", path, found.md5)
        self._remember("tensors", path, _tensors_digest(found.tensors))

    def _remember(self, kind: str, path: Path, value: str) -> None:
        key = file_key(kind, path, wait=True)
        if key is not None:
            self.facts.put(key, value)

    def weights_match(self, manifest: Manifest, path: Path) -> str | None:
        """None when the bytes at `path` are what the manifest describes, else what differs."""
        md5 = self.md5(path)
        if md5 != manifest.weights_md5:
            return f"md5:{md5}"
        wanted = _tensors_digest(manifest.tensors)
        actual = self._file_fact(
            "tensors", path, lambda p: _tensors_digest(fingerprint(p).tensors), SHA256_HEX.fullmatch
        )
        return None if actual == wanted else f"tensors sha256:{actual}"

    # -- the one resolver -------------------------------------------------------------------

    def adapter(self, spec: str, path: str | None = None) -> Adapter:
        """The adapter that `spec` names; `path` picks one where a revision has several."""
        found = [r for r in readings(spec) if self._exists(r)]
        if not found:
            raise self._unknown(spec)
        if len(found) > 1:
            ways = ", ".join(reading.forced() for reading in found)
            raise FatalError(
                f"{spec!r} is ambiguous: it can mean {' or '.join(map(_in_words, found))}",
                hint=f"write it as one of: {ways}",
            )
        return self._resolve(spec, found[0], path)

    def _exists(self, reading: Reading) -> bool:
        match reading:
            case FolderSpec(path):
                folder = Path(path)
                names = (CONFIG, MANIFEST, WEIGHTS, *_PICKLES)
                return folder.is_dir() and any((folder / name).is_file() for name in names)
            case RevisionSpec(revision, _):
                return self.git.resolve(revision) is not None
            case RunSpec():
                return self.git.resolve(reading.ref) is not None

    def _unknown(self, spec: str) -> FatalError:
        if Path(spec).is_dir():
            return FatalError(
                f"{spec} is a folder without an {CONFIG}: no adapter",
                hint="git soup status lists the adapters here",
            )
        return FatalError(
            f"{spec!r} names no adapter: no such folder, revision or run",
            hint="git soup status lists the adapters here, git soup branches the others",
        )

    def _resolve(self, spec: str, reading: Reading, path: str | None) -> Adapter:
        match reading:
            case FolderSpec(folder):
                return self.adapter_in_folder(Path(folder), spec)
            case RunSpec(run, step):
                commit = self._checkpoint(run, step)
                path = path or self._trailer(commit, "Soup-Adapter")
                return self._adapter_at(spec, commit, path)
            case RevisionSpec(revision, inner):
                return self._adapter_at(spec, self.git.commit(revision), inner or path)

    def _adapter_at(self, spec: str, commit: str, path: str | None) -> Adapter:
        snapshot = self.at(commit, label=commit[:10])
        folder = os.path.normpath(path) if path else None
        if folder is None:
            if len(snapshot.adapters) != 1:
                listed = ", ".join(snapshot.adapters) or "none"
                raise FatalError(
                    f"{spec!r} has {len(snapshot.adapters)} adapters: {listed}",
                    hint=f"name one: {spec}:PATH" if snapshot.adapters else "git soup branches",
                )
            folder = snapshot.adapters[0]
        elif folder not in snapshot.adapters:
            listed = ", ".join(snapshot.adapters) or "none"
            raise FatalError(
                f"{spec!r}: there is no adapter at {folder} in {commit[:10]}; it has {listed}",
                hint=f"git ls-tree -r --name-only {commit[:10]}",
            )
        manifest = snapshot.manifest(folder)
        data = snapshot.require(inside_folder(folder, CONFIG))
        return Adapter(
            spec=spec,
            origin=f"commit {commit[:10]}, {folder}",
            path=folder,
            commit=commit,
            config_data=data,
            config=snapshot.config(folder),
            manifest=manifest,
            weights=self.local_weights(manifest.weights_md5, folder),
        )

    def local_weights(self, md5: str, folder: str) -> Path | None:
        """A file with these bytes: the cache's object, else the work tree's file at `folder`."""
        cached = self.dvc.object_path(md5)
        if cached.is_file():
            return cached
        path = self.root / inside_folder(folder, WEIGHTS)
        return path if path.is_file() and self.md5(path) == md5 else None

    def adapter_in_folder(self, folder: Path, spec: str | None = None) -> Adapter:
        """The adapter whose files lie in `folder` now, its manifest made from its bytes."""
        shown = spec or str(folder)
        weights, data = folder / WEIGHTS, _bytes_of(folder / CONFIG)
        if data is None:
            raise FatalError(
                f"{shown} has no {CONFIG}: no adapter",
                hint=f"ls {shown}; an adapter is what PEFT's model.save_pretrained(DIR) writes",
            )
        config = parse_adapter_config(data, f"{shown}/{CONFIG}")
        written = _bytes_of(folder / MANIFEST)
        before = parse_manifest(written, f"{shown}/{MANIFEST}") if written is not None else None
        if not weights.is_file():
            pickled = [name for name in _PICKLES if (folder / name).is_file()]
            if pickled:
                raise FatalError(
                    f"{shown}/{pickled[0]} is a pickle, which can run code when it is read; only"
                    " safetensors files are",
                    hint=CONVERT,
                )
            if before is None:
                raise FatalError(
                    f"{shown} has no {WEIGHTS}",
                    hint="git soup checkout brings tracked weights back",
                )
            return self._described(shown, folder, data, config, before, None)
        if before is not None and self.weights_match(before, weights) is None:
            return self._described(shown, folder, data, config, before, weights)
        found = self.fingerprint(weights, f"{shown}/{WEIGHTS}")
        manifest = make_manifest(
            config,
            found.tensors,
            weights_md5=found.md5,
            weights_size=found.size,
            where=f"{shown}/{CONFIG}",
        )
        return self._described(shown, folder, data, config, manifest, weights)

    def _described(
        self,
        spec: str,
        folder: Path,
        data: bytes,
        config: AdapterConfig,
        manifest: Manifest,
        weights: Path | None,
    ) -> Adapter:
        return Adapter(spec, f"folder {spec}", str(folder), None, data, config, manifest, weights)

    def _checkpoint(self, run: str, step: int | None) -> str:
        ref = f"refs/soup/runs/{run}"
        if step is None:
            return self.git.commit(ref)
        form = "--format=%H %(trailers:key=Soup-Step,valueonly,separator=%x2C)"
        steps = []
        for line in self.git.lines("log", "--first-parent", form, ref, "--"):
            commit, _, found = line.partition(" ")
            if not found:
                break
            steps.append(found)
            if found == str(step):
                return commit
        raise FatalError(
            f"run/{run} has no checkpoint at step {step}; it has {', '.join(reversed(steps))}",
            hint=f"git log soup/runs/{run}",
        )

    def _trailer(self, commit: str, key: str) -> str | None:
        form = f"--format=%(trailers:key={key},valueonly)"
        return self.git.text("log", "-1", form, commit, "--").strip() or None


def no_weights(folder: Path, shown: str) -> FatalError:
    """Why a folder without safetensors weights is no adapter that is read."""
    pickled = [name for name in _PICKLES if (folder / name).is_file()]
    if pickled:
        return FatalError(
            f"{shown}/{pickled[0]} is a pickle, which can run code when it is read; only"
            " safetensors files are",
            hint=CONVERT,
        )
    return FatalError(
        f"{shown} has no {WEIGHTS}", hint="git soup checkout brings tracked weights back"
    )


def _tensors_digest(tensors: Iterable[object]) -> str:
    return sha256_hex("\n".join(t.line() for t in tensors).encode())  # type: ignore[attr-defined]


def _in_words(reading: Reading) -> str:
    match reading:
        case FolderSpec(path):
            return f"the folder {path}"
        case RunSpec(run, _):
            return f"the training run {run}"
        case RevisionSpec(revision, _):
            return f"the revision {revision}"
