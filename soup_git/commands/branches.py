"""`git soup branches`: every branch that pins something, and whether it still holds.

Git speed: one `for-each-ref`, one `cat-file --batch`, one `cat-file --batch-check`, however
many branches there are; digests of blobs are remembered by their id. The last evaluation
comes from the notes, through the same `cat-file --batch`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from soup_git.core.lock import LOCK, Lock, parse_lock
from soup_git.core.manifest import MANIFEST, parse_manifest_header
from soup_git.core.notes import EvalRecord, latest
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.render.report import Table, age
from soup_git.storage.dvcfiles import POINTER_SUFFIX, parse_pointer
from soup_git.storage.inputs import input_pin, is_model_here
from soup_git.storage.lockdrift import input_holds
from soup_git.storage.notes import read_notes
from soup_git.storage.pins import pointer_pin
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace

_FORM = "--format=%(refname:lstrip=2)%00%(objectname)%00%(tree)%00%(committerdate:unix)%00%(HEAD)"


@dataclass(frozen=True)
class Pinned:
    """What a tip pins, and whether it still agrees with itself: a function of its tree alone."""

    base: str | None
    dataset: str | None
    config: str | None
    adapters: int
    state: str
    """clean, drifted, not trained or merged."""
    why: str


@dataclass(frozen=True)
class _Known:
    """What is remembered of a tip's tree."""

    pinned: Pinned | None
    """None without a lock."""
    manifests: tuple[str, ...] = ()
    """Blobs whose notes tell of its adapters, at most `_NOTED` of them."""
    is_lasting: bool = True
    """It follows from the tree alone, and not from what is here or elsewhere."""


@dataclass(frozen=True)
class BranchRow(Pinned):
    name: str
    commit: str
    current: bool
    age_seconds: int
    last_eval: EvalRecord | None

    def cells(self) -> Sequence[str]:
        return (
            f"{'*' if self.current else ' '} {self.name}",
            self.commit[:7],
            self.base or "-",
            self.dataset or "-",
            self.config or "-",
            age(self.age_seconds),
            str(self.adapters),
            self.last_eval.summary() if self.last_eval else "–",
            self.state,
        )


@dataclass(frozen=True)
class BranchesReport:
    schema: ClassVar[str] = "soup.branches/1"
    branches: list[BranchRow]

    def tables(self) -> Sequence[Table | str]:
        if not self.branches:
            return ["no branch pins anything yet; git soup branch NAME makes one"]
        header = (
            "  name", "commit", "base", "dataset", "config", "age", "adapters>", "last eval", "state",
        )  # fmt: skip
        return [Table(header, [row.cells() for row in self.branches])]


@dataclass(frozen=True)
class _Tip:
    name: str
    commit: str
    tree: str
    date: int
    current: bool


def branches(workspace: Workspace) -> BranchesReport:
    tips = []
    for line in workspace.git.lines("for-each-ref", _FORM, "refs/heads"):
        name, commit, tree, date, head = line.split("\0")
        tips.append(_Tip(name, commit, tree, int(date), head == "*"))
    known = _known(workspace, tips)
    noted = {tip.commit: (tip.commit, *known[tip.tree].manifests) for tip in tips}
    records = read_notes(workspace.git, (oid for oids in noted.values() for oid in oids))
    now = time.time()
    return BranchesReport(
        [
            BranchRow(
                **pinned.__dict__,
                name=tip.name,
                commit=tip.commit,
                current=tip.current,
                age_seconds=max(0, int(now - tip.date)),
                last_eval=latest(r for oid in noted[tip.commit] for r in records.get(oid, ())),
            )
            for tip in tips
            if (pinned := known[tip.tree].pinned) is not None
        ]
    )


def _known(workspace: Workspace, tips: Sequence[_Tip]) -> dict[str, _Known]:
    """Tree -> what it pins; remembered, because a tree never changes."""
    known = {tip.tree: workspace.facts.get(f"{_FACT}:{tip.tree}") for tip in tips}
    found = {tree: _from_fact(fact) for tree, fact in known.items() if fact is not None}
    new = {tip.tree: tip for tip in tips if tip.tree not in found}
    if new:
        computed = _compute(workspace, list(new.values()))
        for tree, known_now in computed.items():
            if known_now.is_lasting:
                workspace.facts.put(f"{_FACT}:{tree}", _as_fact(known_now))
        found |= computed
    return found


_FACT = "tip"
_NOTED = 16
"""So many adapters of a branch are looked up in the notes; beyond, those of its commit tell."""


def _as_fact(known: _Known) -> str:
    # A fact is one word; in JSON, a space only ever stands inside a string.
    pinned = None if known.pinned is None else known.pinned.__dict__
    value = [pinned, *known.manifests]
    return json.dumps(value, separators=(",", ":")).replace(" ", "\\u0020")


def _from_fact(fact: str) -> _Known:
    pinned, *manifests = json.loads(fact)
    return _Known(None if pinned is None else Pinned(**pinned), tuple(manifests))


def _compute(workspace: Workspace, tips: Sequence[_Tip]) -> dict[str, _Known]:
    ids = workspace.git.blob_ids([f"{tip.commit}:{LOCK}" for tip in tips])
    locks = {oid: tip for tip, found in zip(tips, ids, strict=True) if found for oid in found[:1]}
    blobs = workspace.git.blobs(locks)
    read = {oid: _read_lock(data) for oid, data in filter(None, blobs)}
    with_lock = [(tip, read[found[0]]) for tip, found in zip(tips, ids, strict=True) if found]
    facts = _TipFacts(workspace, [(tip, lock) for tip, (lock, _) in with_lock if lock])
    result = {tip.tree: _Known(None) for tip in tips}
    for tip, (lock, broken) in with_lock:
        if lock is None:
            result[tip.tree] = _Known(Pinned(None, None, None, 0, "drifted", broken))
            continue
        state, why = facts.state(tip, lock)
        pinned = Pinned(
            lock.base_model, lock.dataset_path, lock.config_path, len(lock.adapters), state, why
        )
        result[tip.tree] = _Known(pinned, facts.manifests(lock), tip.tree not in facts.passing)
    return result


def _read_lock(data: bytes) -> tuple[Lock | None, str]:
    try:
        return parse_lock(data, LOCK), ""
    except FatalError as error:
        return None, str(error)


class _TipFacts:
    """The blobs at every tip that its lock speaks of, looked up together."""

    def __init__(self, workspace: Workspace, tips: Sequence[tuple[_Tip, Lock]]) -> None:
        self._workspace = workspace
        self.passing: set[str] = set()
        """Trees of which it matters what else is here: other bytes later, another state."""
        # Whether an adapter was merged is asked once for all branches that hold the same weights.
        self._manifests = {
            (folder, md5): f"{tip.commit}:{inside_folder(folder, MANIFEST)}"
            for tip, lock in {id(lock): (tip, lock) for tip, lock in tips}.values()
            for folder, md5 in lock.adapters.items()
        }
        names = [name for tip, lock in tips for name in _names(tip, lock)]
        names += self._manifests.values()
        self._ids = dict(zip(names, workspace.git.blob_ids(names), strict=True)) if names else {}

    def state(self, tip: _Tip, lock: Lock) -> tuple[str, str]:
        drift = self._drift(tip, lock)
        if drift:
            return "drifted", drift
        if not lock.adapters:
            return "not trained", ""
        if self._merged.isdisjoint(lock.adapters.items()):
            return "clean", ""
        return "merged", ""

    def manifests(self, lock: Lock) -> tuple[str, ...]:
        names = (self._manifests[adapter] for adapter in sorted(lock.adapters.items())[:_NOTED])
        return tuple(found[0] for name in names if (found := self._ids.get(name)))

    def _drift(self, tip: _Tip, lock: Lock) -> str:
        config = lock.config_path or CONFIG_FILE
        if lock.config_sha is not None and self._sha256(tip, config) != lock.config_sha:
            return f"config {config}"
        return self._input_drift(tip, lock) or self._dataset_drift(tip, lock)

    def _input_drift(self, tip: _Tip, lock: Lock) -> str:
        for path, locked in lock.inputs.items():
            in_git = self._sha256(tip, path)
            if locked is None or in_git == locked:
                continue
            if in_git is None:
                # A folder, DVC's, or nothing: as with datasets, looked up one by one.
                snapshot = self._workspace.at(tip.commit)
                try:
                    pin = input_pin(self._workspace, snapshot, path)
                except FatalError as error:
                    return f"config {path}: {error}"
                if pin.digest is None or is_model_here(self._workspace, path):
                    self.passing.add(tip.tree)
                if input_holds(self._workspace, snapshot, lock, path, pin):
                    continue
            return f"config {path}"
        return ""

    def _dataset_drift(self, tip: _Tip, lock: Lock) -> str:
        path = lock.dataset_path
        if path is None or lock.dataset_sha is None:
            return ""
        in_git = self._sha256(tip, path)
        if in_git is not None:
            return "" if in_git == lock.dataset_sha else f"dataset {path}"
        pointer = self._ids.get(f"{tip.commit}:{path}{POINTER_SUFFIX}")
        if pointer is None:
            # A folder in git, a stage's output, or nothing: rare, so looked up one by one.
            try:
                pin = pointer_pin(self._workspace, self._workspace.at(tip.commit), path)
            except FatalError as error:
                return f"dataset {path}: {error}"
            holds = lock.dataset_sha == pin.digest or (pin.md5 and lock.dataset_md5 == pin.md5)
            return "" if holds else f"dataset {path}"
        if lock.dataset_md5 is None:
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
            try:
                outputs = parse_pointer(data, f"{path}{POINTER_SUFFIX}")
            except FatalError:
                outputs = []  # one damaged branch must not hide the others: it is drifted
            known = next((o.md5 for o in outputs if o.path == path), "-")
            self._workspace.facts.put(key, known)
        return known

    @cached_property
    def _merged(self) -> set[tuple[str, str]]:
        """The (folder, weights md5) whose manifest carries a recipe."""
        return {adapter for adapter, name in self._manifests.items() if self._has_recipe(name)}

    def _has_recipe(self, name: str) -> bool:
        found = self._ids.get(name)
        if found is None:
            return False
        key = f"merged:{found[0]}"
        known = self._workspace.facts.get(key)
        if known is None:
            data = self._workspace.git.blob(found[0]) or b""
            try:
                known = "yes" if parse_manifest_header(data, name).is_merged else "no"
            except FatalError:
                known = "no"
            self._workspace.facts.put(key, known)
        return known == "yes"


def _names(tip: _Tip, lock: Lock) -> list[str]:
    paths = [lock.config_path or CONFIG_FILE]
    if lock.dataset_path:
        paths += [lock.dataset_path, f"{lock.dataset_path}{POINTER_SUFFIX}"]
    paths += lock.inputs
    return [f"{tip.commit}:{path}" for path in paths]
