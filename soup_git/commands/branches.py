"""`git soup branches`: every branch that pins something, and whether it still holds.

Git speed: one `for-each-ref`, one `cat-file --batch`, one `cat-file --batch-check`, however
many branches there are; digests of blobs are remembered by their id.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.lock import LOCK, Lock, parse_lock
from soup_git.core.manifest import MANIFEST, parse_manifest_header
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.render.report import Table, age
from soup_git.storage.dvcrepo import POINTER_SUFFIX, parse_pointer
from soup_git.storage.workspace import Workspace, inside_folder

_FORM = "--format=%(refname:lstrip=2)%00%(objectname)%00%(committerdate:unix)%00%(HEAD)"


@dataclass(frozen=True)
class BranchRow:
    name: str
    commit: str
    current: bool
    base: str | None
    dataset: str | None
    config: str | None
    age_seconds: int
    adapters: int
    state: str
    """clean, drifted, not trained or merged."""
    why: str

    def cells(self) -> Sequence[str]:
        return (
            f"{'*' if self.current else ' '} {self.name}",
            self.commit[:7],
            self.base or "-",
            self.dataset or "-",
            self.config or "-",
            age(self.age_seconds),
            str(self.adapters),
            self.state,
        )


@dataclass(frozen=True)
class BranchesReport:
    schema: ClassVar[str] = "soup.branches/1"
    branches: list[BranchRow]

    def tables(self) -> Sequence[Table | str]:
        if not self.branches:
            return ["no branch pins anything yet; git soup branch NAME makes one"]
        header = ("  name", "commit", "base", "dataset", "config", "age", "adapters>", "state")
        return [Table(header, [row.cells() for row in self.branches])]


@dataclass(frozen=True)
class _Tip:
    name: str
    commit: str
    date: int
    current: bool


def branches(workspace: Workspace) -> BranchesReport:
    tips = []
    for line in workspace.git.lines("for-each-ref", _FORM, "refs/heads"):
        name, commit, date, head = line.split("\0")
        tips.append(_Tip(name, commit, int(date), head == "*"))
    locks = workspace.git.blobs(f"{tip.commit}:{LOCK}" for tip in tips)
    pinned = [(tip, found[1]) for tip, found in zip(tips, locks, strict=True) if found]
    rows = _rows(workspace, pinned)
    return BranchesReport(rows)


def _rows(workspace: Workspace, pinned: Sequence[tuple[_Tip, bytes]]) -> list[BranchRow]:
    parsed: list[tuple[_Tip, Lock | None, str]] = []
    for tip, data in pinned:
        try:
            parsed.append((tip, parse_lock(data, f"{tip.name}:{LOCK}"), ""))
        except FatalError as error:
            parsed.append((tip, None, str(error)))
    facts = _TipFacts(workspace, [(tip, lock) for tip, lock, _ in parsed if lock is not None])
    now = time.time()
    rows = []
    for tip, lock, broken in parsed:
        state, why = ("drifted", broken) if lock is None else facts.state(tip, lock)
        rows.append(
            BranchRow(
                name=tip.name,
                commit=tip.commit,
                current=tip.current,
                base=lock.base_model if lock else None,
                dataset=lock.dataset_path if lock else None,
                config=lock.config_path if lock else None,
                age_seconds=max(0, int(now - tip.date)),
                adapters=len(lock.adapters) if lock else 0,
                state=state,
                why=why,
            )
        )
    return rows


class _TipFacts:
    """The blobs at every tip that its lock speaks of, looked up together."""

    def __init__(self, workspace: Workspace, tips: Sequence[tuple[_Tip, Lock]]) -> None:
        self._workspace = workspace
        names = [name for tip, lock in tips for name in _names(tip, lock)]
        self._ids = dict(zip(names, workspace.git.blob_ids(names), strict=True)) if names else {}

    def state(self, tip: _Tip, lock: Lock) -> tuple[str, str]:
        drift = self._drift(tip, lock)
        if drift:
            return "drifted", drift
        if not lock.adapters:
            return "not trained", ""
        if any(self._is_merged(tip, folder) for folder in lock.adapters):
            return "merged", ""
        return "clean", ""

    def _drift(self, tip: _Tip, lock: Lock) -> str:
        config = lock.config_path or CONFIG_FILE
        if lock.config_sha is not None and self._sha256(tip, config) != lock.config_sha:
            return f"config {config}"
        path = lock.dataset_path
        if path is None or lock.dataset_sha is None:
            return ""
        in_git = self._sha256(tip, path)
        if in_git is not None:
            return "" if in_git == lock.dataset_sha else f"dataset {path}"
        pointer = self._ids.get(f"{tip.commit}:{path}{POINTER_SUFFIX}")
        if pointer is None or lock.dataset_md5 is None:
            return ""
        return "" if self._pointer_md5(pointer[0], path) == lock.dataset_md5 else f"dataset {path}"

    def _sha256(self, tip: _Tip, path: str) -> str | None:
        found = self._ids.get(f"{tip.commit}:{path}")
        return None if found is None else self._workspace.blob_sha256(found[0])

    def _pointer_md5(self, oid: str, path: str) -> str:
        key = f"pointer:{oid}"
        known = self._workspace.facts.get(key)
        if known is None:
            data = self._workspace.git.blob(oid) or b""
            outputs = parse_pointer(data, f"{path}{POINTER_SUFFIX}")
            known = next((o.md5 for o in outputs if o.path == path), "-")
            self._workspace.facts.put(key, known)
        return known

    def _is_merged(self, tip: _Tip, folder: str) -> bool:
        found = self._ids.get(f"{tip.commit}:{inside_folder(folder, MANIFEST)}")
        if found is None:
            return False
        key = f"merged:{found[0]}"
        known = self._workspace.facts.get(key)
        if known is None:
            data = self._workspace.git.blob(found[0]) or b""
            known = "yes" if parse_manifest_header(data, MANIFEST).is_merged else "no"
            self._workspace.facts.put(key, known)
        return known == "yes"


def _names(tip: _Tip, lock: Lock) -> list[str]:
    paths = [lock.config_path or CONFIG_FILE]
    if lock.dataset_path:
        paths += [lock.dataset_path, f"{lock.dataset_path}{POINTER_SUFFIX}"]
    paths += [inside_folder(folder, MANIFEST) for folder in lock.adapters]
    return [f"{tip.commit}:{path}" for path in paths if "\n" not in path]
