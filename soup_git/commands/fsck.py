"""`git soup fsck`: every manifest, lock, pointer and cache object that a ref reaches agrees.

Reads all bytes; remembers nothing from earlier runs, because bit rot leaves no trace in a
file's times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.beside import NAMES, digests_of
from soup_git.core.digests import sha256_hex
from soup_git.core.lock import LOCK, parse_lock
from soup_git.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    agrees,
    parse_manifest,
)
from soup_git.core.text import counted
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.beside import differing
from soup_git.storage.dvcfiles import POINTER_SUFFIX, Output, parse_dvc_lock, parse_pointer
from soup_git.storage.snapshot import is_dvc_lock
from soup_git.storage.versions import versions
from soup_git.storage.weights import fingerprint
from soup_git.storage.workspace import Workspace

_REFS = ("refs/heads", "refs/tags", "refs/soup")
_STALE_SECONDS = 60


@dataclass(frozen=True)
class Problem:
    where: str
    what: str


@dataclass(frozen=True)
class FsckReport:
    schema: ClassVar[str] = "soup.fsck/1"
    refs: int
    manifests: int
    locks: int
    objects: int
    elsewhere: int
    """Objects that are not in this cache; a DVC remote is configured to have them."""
    problems: list[Problem]

    def tables(self) -> Sequence[Table | str]:
        away = (
            f", {counted(self.elsewhere, 'object')} only in the DVC remote"
            if self.elsewhere
            else ""
        )
        checked = (
            f"checked {self.refs} refs, {self.manifests} manifests, {self.locks} locks,"
            f" {self.objects} cache objects{away}"
        )
        if not self.problems:
            return [f"{checked}: clean"]
        rows = [(problem.where, problem.what) for problem in self.problems]
        return [Table(("", ""), rows), f"{checked}: {len(self.problems)} problems"]


@dataclass(frozen=True)
class _Blob:
    commit: str
    path: str
    oid: str

    @property
    def where(self) -> str:
        return f"{self.commit[:10]}:{self.path}"


def fsck(workspace: Workspace) -> tuple[FsckReport, ExitCode]:
    """Check what the refs reach, commit by commit, each blob once."""
    refs = workspace.git.refs(*_REFS)
    tips = {oid for ref in refs.values() if (oid := workspace.git.resolve(ref)) is not None}
    history = list(versions(workspace.git, tips))
    paths = {entry.path for _, entries in history for entry in entries}
    checker = _Checker(workspace, sorted(filter(is_dvc_lock, paths)))
    for commit, entries in history:
        checker.check_commit(commit, [entry.path for entry in entries])
    checker.check_objects()
    problems = [*checker.problems, *_left_locks(workspace)]
    report = FsckReport(
        refs=len(refs),
        manifests=len(checker.manifests),
        locks=checker.locks,
        objects=checker.sound,
        elsewhere=checker.elsewhere,
        problems=problems,
    )
    return report, ExitCode.CHECK_FAILED if problems else ExitCode.OK


class _Checker:
    """Collects what is wrong; a blob that was seen in another commit is not read again."""

    def __init__(self, workspace: Workspace, dvc_locks: Sequence[str]) -> None:
        self._workspace = workspace
        self._locks = dvc_locks
        # A checkpoint's manifest is all that names its bytes; the pipeline's files in its
        # tree are those that the run was launched from.
        self._checkpoints = set(
            workspace.git.lines("rev-list", "--glob=refs/soup/*", "--not", "--branches", "--tags")
        )
        self._seen: set[tuple[str, ...]] = set()
        self.problems: list[Problem] = []
        self.manifests: dict[str, tuple[str, Manifest]] = {}
        self._outputs: dict[str, tuple[str, Output]] = {}
        self.locks = 0
        self.sound = 0
        self.elsewhere = 0

    def check_commit(self, commit: str, paths: Sequence[str]) -> None:
        folders = {path.rpartition("/")[0] for path in paths if self._is_of_adapter(path)}
        for folder in folders:
            self._check_adapter(commit, folder)
        for path in paths:
            if path == LOCK or path.endswith(f"/{LOCK}"):
                self._check_lock(commit, path)
            elif is_dvc_lock(path) or path.endswith(POINTER_SUFFIX):
                self._outputs_of(commit, path)

    @staticmethod
    def _is_of_adapter(path: str) -> bool:
        name = path.rpartition("/")[2]
        return name in {MANIFEST, CONFIG, f"{WEIGHTS}{POINTER_SUFFIX}", *NAMES}

    def _blob(self, commit: str, path: str) -> tuple[str, bytes] | None:
        return next(iter(self._workspace.git.blobs([f"{commit}:{path}"])))

    def _check_adapter(self, commit: str, folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        found = [
            self._blob(commit, prefix + name)
            for name in (MANIFEST, CONFIG, f"{WEIGHTS}{POINTER_SUFFIX}")
        ]
        found += [self._blob(commit, path) for path in self._locks]
        manifest_blob, config_blob, pointer_blob = found[:3]
        files = self._workspace.git.blob_ids([f"{commit}:{prefix}{name}" for name in sorted(NAMES)])
        key = (
            *(blob[0] if blob else "" for blob in found),
            *(file[0] if file else "" for file in files),
        )
        if manifest_blob is None or key in self._seen:
            return
        self._seen.add(key)
        where = f"{commit[:10]}:{prefix}{MANIFEST}"
        if config_blob is None:
            self._problem(where, f"there is no {CONFIG} beside it")
            return
        try:
            manifest = parse_manifest(manifest_blob[1], where)
            config = parse_adapter_config(config_blob[1], f"{commit[:10]}:{prefix}{CONFIG}")
            fits = agrees(manifest, config, where)
        except FatalError as error:
            self._problem(where, str(error))
            return
        if not fits:
            self._problem(where, f"its header is not what {CONFIG} gives")
        self._check_beside(commit, prefix, manifest)
        self.manifests[manifest.weights_md5] = (where, manifest)
        if commit not in self._checkpoints:
            self._check_pointer(commit, prefix, manifest, pointer_blob)

    def _check_beside(self, commit: str, prefix: str, manifest: Manifest) -> None:
        names = digests_of(manifest.facts)
        blobs = {name: self._blob(commit, prefix + name) for name in names}
        found = {name: sha256_hex(blob[1]) for name, blob in blobs.items() if blob is not None}
        for wrong in differing(manifest, found):
            self._problem(f"{commit[:10]}:{prefix}{MANIFEST}", f"its file {wrong}")

    def _check_pointer(
        self, commit: str, prefix: str, manifest: Manifest, blob: tuple[str, bytes] | None
    ) -> None:
        path = f"{prefix}{WEIGHTS}"
        if blob is not None:
            outputs = self._outputs_of(commit, f"{path}{POINTER_SUFFIX}")
        else:
            outputs = [o for lock in self._locks for o in self._outputs_of(commit, lock)]
        named = next((o for o in outputs if o.path == path), None)
        if named is None:
            self._problem(f"{commit[:10]}:{path}", "no pointer and no stage names these weights")
        elif named.md5 != manifest.weights_md5:
            self._problem(
                f"{commit[:10]}:{named.source}",
                f"names md5:{named.md5}, the manifest md5:{manifest.weights_md5}",
            )

    def _outputs_of(self, commit: str, path: str) -> list[Output]:
        blob = self._blob(commit, path)
        if blob is None:
            return []
        where = f"{commit[:10]}:{path}"
        try:
            if is_dvc_lock(path):
                pipeline = self._blob(commit, f"{path.removesuffix('.lock')}.yaml")
                text = None if pipeline is None else pipeline[1]
                stages = parse_dvc_lock(blob[1], path, text).values()
                # What the tree itself holds (metrics, plots) is git's, not the cache's.
                outputs = [o for s in stages for o in s if self._blob(commit, o.path) is None]
            else:
                outputs = parse_pointer(blob[1], path)
        except FatalError as error:
            self._problem(where, str(error))
            return []
        for output in outputs:
            self._outputs.setdefault(output.md5, (where, output))
        return outputs

    def _check_lock(self, commit: str, path: str) -> None:
        blob = self._blob(commit, path)
        if blob is None or (blob[0],) in self._seen:
            return
        self._seen.add((blob[0],))
        self.locks += 1
        try:
            parse_lock(blob[1], f"{commit[:10]}:{path}")
        except FatalError as error:
            self._problem(f"{commit[:10]}:{path}", str(error))

    def check_objects(self) -> None:
        """Every object that a pointer or a manifest names: here and sound, or elsewhere."""
        for md5, (where, _) in self.manifests.items():
            self._outputs.setdefault(md5, (where, Output("", md5, None, where)))
        for md5, (where, _) in sorted(self._outputs.items()):
            self._check_object(md5, where)

    def _check_object(self, md5: str, where: str) -> None:
        dvc = self._workspace.dvc
        if not dvc.object_path(md5).is_file():
            if dvc.config.default_remote:
                self.elsewhere += 1
            else:
                self._problem(
                    where, f"md5:{md5} is not in the DVC cache, and no remote is configured"
                )
            return
        if not dvc.verify(md5):
            self._problem(str(dvc.object_path(md5)), f"its bytes are not md5:{md5} ({where})")
            return
        self.sound += 1
        if md5.endswith(".dir"):
            self._check_folder(md5, where)
        elif md5 in self.manifests:
            self._check_tensors(md5)

    def _check_folder(self, md5: str, where: str) -> None:
        try:
            files = self._workspace.dvc.folder_files(md5)
        except FatalError as error:
            self._problem(where, str(error))
            return
        for path, digest in files.items():
            self._check_object(digest, f"{where} ({path})")

    def _check_tensors(self, md5: str) -> None:
        where, manifest = self.manifests[md5]
        try:
            found = fingerprint(self._workspace.dvc.object_path(md5), shown=where)
        except FatalError as error:
            self._problem(where, str(error))
            return
        if found.size != manifest.weights_size:
            self._problem(
                where, f"says {manifest.weights_size} bytes, its weights have {found.size}"
            )
        for ours, theirs in zip(manifest.tensors, found.tensors, strict=False):
            if ours.line() != theirs.line():
                self._problem(where, f"its line of {ours.name} is not what its weights give")
                return
        if len(manifest.tensors) != len(found.tensors):
            self._problem(where, "lists other tensors than its weights hold")

    def _problem(self, where: str, what: str) -> None:
        problem = Problem(where, what)
        if problem not in self.problems:
            self.problems.append(problem)


def _left_locks(workspace: Workspace) -> list[Problem]:
    """Lock files that a killed git left behind: named with their age, never removed."""
    found = []
    for folder in {workspace.git.git_dir, workspace.git.common_dir}:
        for path in sorted([*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock")]):
            age = time.time() - path.stat().st_mtime
            if age > _STALE_SECONDS:
                found.append(
                    Problem(
                        str(path), f"left by a git that was killed {age:.0f} seconds ago: rm it"
                    )
                )
    return found
