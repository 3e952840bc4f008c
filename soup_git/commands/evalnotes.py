"""What an evaluation leaves on the commits that hold its adapters: a record in their notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.core.baseload import AS_IT_IS, TRAINED
from soup_git.core.notes import Baseline, EvalRecord, Gap, Metric
from soup_git.render.report import say
from soup_git.storage.notes import note, read_notes
from soup_git.storage.resolver import Adapter
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.commands.eval import Named
    from soup_git.evaluation.results import TaskResult
    from soup_git.evaluation.suite import Suite


def write_notes(
    workspace: Workspace,
    suite: Suite,
    suite_path: str,
    found: Sequence[tuple[Named, Sequence[TaskResult]]],
    against: tuple[Named | None, Sequence[TaskResult] | None],
    base_as: str = TRAINED,
) -> None:
    """A record for each adapter that a commit holds; equal scores are not noted twice."""
    now = datetime.now(UTC).replace(microsecond=0).isoformat()
    by_commit: dict[str, list[EvalRecord]] = {}
    for one, results in found:
        where = _committed(workspace, one.adapter) if one.adapter else None
        metrics = _metrics(results)
        if where is None or one.adapter is None or not metrics:
            continue
        commit, path = where
        baseline = _baseline(against, results)
        record = EvalRecord(
            path, one.adapter.manifest.weights_md5, suite_path, suite.sha256, metrics, now, baseline,
            _noted_base(one.adapter, base_as),
        )  # fmt: skip
        by_commit.setdefault(commit, []).append(record)
    for commit, records in by_commit.items():
        there = [replace(r, at=now) for r in read_notes(workspace.git, [commit]).get(commit, [])]
        fresh = [record for record in records if record not in there]
        if fresh:
            note(workspace, commit, fresh)
            say(f"noted on {commit[:10]}: git notes --ref=soup show {commit[:10]}")


def _noted_base(adapter: Adapter, base_as: str) -> str | None:
    """What the record says of the base; nothing where the adapter says nothing."""
    is_said = base_as != TRAINED or adapter.manifest.base_load != AS_IT_IS
    return base_as if is_said else None


def _baseline(
    against: tuple[Named | None, Sequence[TaskResult] | None], results: Sequence[TaskResult]
) -> Baseline | None:
    other, before = against
    if other is None or not before:
        return None
    others = {result.name: result for result in before}
    gaps = {r.name: r.against(others[r.name]) for r in results if r.name in others}
    differences = {
        name: Gap(gap.value, gap.stderr, gap.low, gap.high)
        for name, gap in gaps.items()
        if gap is not None
    }
    md5 = other.adapter.manifest.weights_md5 if other.adapter else None
    return Baseline(md5, _metrics(before), differences)


def _committed(workspace: Workspace, adapter: Adapter) -> tuple[str, str] | None:
    """The commit and path that hold the adapter: its own, or HEAD when its files are HEAD's."""
    if adapter.commit is not None:
        return adapter.commit, adapter.path
    folder = Path(adapter.path).resolve()
    if workspace.git.resolve("HEAD") is None or not folder.is_relative_to(workspace.root.resolve()):
        return None
    path = folder.relative_to(workspace.root.resolve()).as_posix()
    head = workspace.at("HEAD")
    if path not in head.adapters:
        return None
    same = head.manifest(path).weights_md5 == adapter.manifest.weights_md5
    return (workspace.git.commit("HEAD"), path) if same else None


def _metrics(results: Sequence[TaskResult]) -> dict[str, Metric]:
    return {
        result.name: Metric(result.value, result.stderr, result.n)
        for result in results
        if result.value is not None
    }
