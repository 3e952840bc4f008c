"""The workspace: a repository, its DVC cache, and what is versioned in them.

The first argument of every command.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.core.digests import MD5_HEX, SHA256_HEX, folder_sha256, sha256_hex
from soup_git.core.manifest import CONFIG, WEIGHTS, Manifest
from soup_git.core.templates import PIPELINE
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.dvcobjects import folder_md5_of, md5_of_dvc2, md5_of_file, walk
from soup_git.storage.dvcprojects import (
    folders_of_projects,
    innermost,
    is_project,
    project_around,
    projects_in_folders,
)
from soup_git.storage.dvcremote import DvcRemote
from soup_git.storage.dvcrepo import DvcRepo
from soup_git.storage.facts import Facts, file_key
from soup_git.storage.files import bytes_of
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.snapshot import DVC_LOCK, Snapshot, inside_folder

if TYPE_CHECKING:
    from soup_git.storage.resolver import Adapter
    from soup_git.storage.weights import Fingerprint

# What reads weights is imported where it is used: most commands and every hook end before.


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
        self._projects_open: dict[str, DvcRepo] = {}

    @classmethod
    def open(cls, start: Path | None = None) -> Workspace:
        """The workspace around `start` (the current folder)."""
        workspace = cls(GitRepo.discover(start or Path.cwd()))
        if not workspace.projects:
            raise FatalError(
                f"{workspace.root} is not a git-soup workspace: it has no .dvc/config",
                hint="git soup init",
            )
        return workspace

    @cached_property
    def projects(self) -> list[str]:
        """The folders of the DVC projects here, that around us first; `.` is the top."""
        around = project_around(self.git)
        known = [around] if around is not None else []
        known += ["."] if is_project(self.root) else []
        return list(dict.fromkeys(known or projects_in_folders(self.git)))

    @cached_property
    def dvc(self) -> DvcRepo:
        """The DVC project that one stands in, or else the first."""
        return self._dvc_in(self.projects[0] if self.projects else ".")

    def dvc_of(self, path: str) -> DvcRepo:
        """The DVC project that a path of the work tree belongs to."""
        if self.projects == ["."] and not self._inner_projects:
            return self.dvc
        found = innermost([*self.projects, *self._inner_projects], path)
        if found is None:
            raise FatalError(
                f"{path} belongs to no DVC project of this repository",
                hint=f"move it into {self.projects[0]}/, or make its folder one: dvc init --subdir"
                " there, then git soup init",
            )
        return self._dvc_in(found)

    @cached_property
    def _inner_projects(self) -> list[str]:
        if "staged" in self.__dict__:  # read already: no git need be started
            return folders_of_projects(self.staged.entries)
        return projects_in_folders(self.git)

    def _dvc_in(self, project: str) -> DvcRepo:
        if project not in self._projects_open:
            git = self.git
            main = git.main_work_tree if git.is_linked_work_tree else self.root
            self._projects_open[project] = DvcRepo(
                self.root / project,
                None if main is None else main / project,
                git.common_dir,
                lambda: [
                    self._dvc_in(other).cache_dir
                    for other in dict.fromkeys([*self.projects, *self._inner_projects])
                    if other != project
                ],
            )
        return self._projects_open[project]

    @cached_property
    def dvc_remote(self) -> DvcRemote:
        return DvcRemote(self.dvc, self.git.common_dir)

    @cached_property
    def facts(self) -> Facts:
        return Facts(self.git.common_dir / "soup" / "facts")

    def work_tree_bytes(self, path: str) -> bytes | None:
        """A file of the work tree, tracked or not; None when it is not there."""
        return bytes_of(self.root / path)

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
        return Snapshot(self, "", {entry.path: entry.oid for entry in self.git.index.entries()})

    @cached_property
    def work_tree(self) -> Snapshot:
        """The tracked paths as they are on disk now."""
        return Snapshot(self, "", self.staged.entries, on_disk=True)

    @cached_property
    def untracked(self) -> list[str]:
        """Files of an adapter or of DVC that git holds nothing of, and does not ignore."""
        names = (CONFIG, f"*{POINTER_SUFFIX}", DVC_LOCK, PIPELINE)
        patterns = [f":(top,glob)**/{name}" for name in names]
        return self.git.paths("ls-files", "--others", "--exclude-standard", "--", *patterns)

    @cached_property
    def on_disk(self) -> Snapshot:
        """As `work_tree`, with DVC's files that are not committed yet: they count for DVC."""
        new = {path: "" for path in self.untracked if not path.endswith(CONFIG)}
        return Snapshot(self, "", {**self.staged.entries, **new}, on_disk=True)

    # -- digests, computed once -------------------------------------------------------------

    def md5(self, path: Path) -> str:
        return self._file_fact("md5", path, md5_of_file, MD5_HEX.fullmatch)

    def _md5_of_dvc2(self, path: Path) -> str:
        return self._file_fact("md5-dos2unix", path, md5_of_dvc2, MD5_HEX.fullmatch)

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
        digest = self._md5_of_dvc2 if self.dvc.is_of_dvc2(md5) else self.md5
        if digest(place) != md5.removesuffix(".dir"):
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

    def output_md5(self, path: Path, md5: str, *, of_dvc2: bool = False) -> str | None:
        """As `path_md5`, of a path where the object called `md5` is expected.

        A hard link to that object is that object: what is known of one holds for both. Where
        DVC 2 named it (`of_dvc2`), bytes that have this name by DVC 2's digest are it, too.
        """
        place = self.dvc.object_path(md5)
        is_same = path.is_file() and place.is_file() and path.samefile(place)
        found = self.md5(place) if is_same else self.path_md5(path)
        if found in {None, md5} or not (of_dvc2 or self.dvc.is_of_dvc2(md5)):
            return found
        digest = self._md5_of_dvc2
        return (
            md5
            if (folder_md5_of(path, digest) if path.is_dir() else digest(path)) == md5
            else found
        )

    def restore(self, md5: str, target: Path) -> None:
        """Give `target` the bytes of an object that was verified; remember both as such."""
        dvc = self._dvc_at(target)
        dvc.adopt(md5)
        place = dvc.object_path(md5)
        before = place.stat()
        known = {kind: self._known(kind, place) for kind in ("md5", "sha256", "tensors")}
        dvc.restore_file(md5, target)
        if not dvc.is_of_dvc2(md5):  # of text, its name is not what its bytes give
            self.remember_md5(target, md5)
        after = place.stat()
        same = (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)
        if same and before.st_ctime_ns != after.st_ctime_ns:
            # A new link to it changed the object's ctime, and no byte.
            for kind, value in known.items():
                if value is not None:
                    self._remember(kind, place, value)

    def _dvc_at(self, file: Path) -> DvcRepo:
        is_inside = file.is_relative_to(self.root)
        return self.dvc_of(file.relative_to(self.root).as_posix()) if is_inside else self.dvc

    def _known(self, kind: str, path: Path) -> str | None:
        key = file_key(kind, path)
        return self.facts.get(key) if key is not None else None

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
        from soup_git.storage.weights import fingerprint

        found = fingerprint(path, shown=shown)
        self.remember_weights(path, found)
        return found

    def store_weights(
        self, file: Path, shown: str, *, keep: bool = False, path: str | None = None
    ) -> Fingerprint:
        """Put weights into the cache; digests and norms come of the same pass over the copy.

        `path` is where in the work tree they belong, and so to which project; `keep` as in
        `DvcRepo.store_file`.
        """
        from soup_git.storage.weights import fingerprint

        def inspect(copy: Path) -> tuple[str, Fingerprint]:
            found = fingerprint(copy, shown=shown)
            return found.md5, found

        dvc = self.dvc if path is None else self.dvc_of(path)
        found: Fingerprint = dvc.store_file(file, inspect, keep=keep)[1]
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
        from soup_git.storage.weights import fingerprint

        wanted = _tensors_digest(manifest.tensors)
        actual = self._file_fact(
            "tensors", path, lambda p: _tensors_digest(fingerprint(p).tensors), SHA256_HEX.fullmatch
        )
        return None if actual == wanted else f"tensors sha256:{actual}"

    # -- adapters ---------------------------------------------------------------------------

    def adapter(self, spec: str, path: str | None = None) -> Adapter:
        """The adapter that `spec` names; `path` picks one where a revision has several."""
        from soup_git.storage.resolver import resolve

        return resolve(self, spec, path)

    def adapter_in_folder(self, folder: Path, spec: str | None = None) -> Adapter:
        """The adapter whose files lie in `folder` now, its manifest made from its bytes."""
        from soup_git.storage.resolver import adapter_in_folder

        return adapter_in_folder(self, folder, spec)

    def local_weights(self, md5: str, folder: str) -> Path | None:
        """A file with these bytes: the cache's object, else the work tree's file at `folder`."""
        cached = self.dvc.object_path(md5)
        if cached.is_file():
            return cached
        path = self.root / inside_folder(folder, WEIGHTS)
        return path if path.is_file() and self.md5(path) == md5 else None


def _tensors_digest(tensors: Iterable[object]) -> str:
    return sha256_hex("\n".join(t.line() for t in tensors).encode())  # type: ignore[attr-defined]
