"""Noted evaluations as tables: a suite each, a row for each adapter that was scored, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.notes import EvalRecord, Metric, moment
from soup_git.render.report import Table
from soup_git.storage.notes import NOTES, read_notes
from soup_git.storage.pathhistory import decorations
from soup_git.storage.workspace import Workspace

_NAMED = ("refs/heads", "refs/tags", "refs/soup/runs")


@dataclass(frozen=True)
class EvalRow:
    commit: str | None
    """None where only the manifest is noted: a squash merge dropped the commit."""
    names: list[str]
    """Branches, tags and runs whose tip the commit is."""
    adapter: str
    weights: str
    at: str
    metrics: dict[str, Metric]


@dataclass(frozen=True)
class SuiteEvals:
    suite: str
    suite_sha: str
    """Another version of the suite has a table of its own: its numbers do not compare."""
    metrics: list[str]
    rows: list[EvalRow]


@dataclass(frozen=True)
class EvalsReport:
    schema: ClassVar[str] = "soup.evals/1"
    suites: list[SuiteEvals]

    def tables(self) -> Sequence[Table | str]:
        if not self.suites:
            return ["no evaluation is noted here yet; git soup eval makes one"]
        return [
            Table(
                ("date", "commit", "adapter", *(f"{name}>" for name in suite.metrics)),
                [
                    (
                        row.at[:10], (row.commit or "-")[:7], row.adapter,
                        *(_cell(row, name) for name in suite.metrics),
                    )
                    for row in suite.rows
                ],
                before=suite.suite,
            )
            for suite in self.suites
        ]  # fmt: skip


def _cell(row: EvalRow, name: str) -> str:
    return row.metrics[name].text() if name in row.metrics else "–"


def evals(workspace: Workspace) -> EvalsReport:
    """What `refs/notes/soup` says."""
    git = workspace.git
    noted = read_notes(git, [oid for oid, _ in git.notes_tree(NOTES)])
    commits = set(git.commits_among(list(noted)))
    names = decorations(git, _NAMED)
    places: dict[str, tuple[EvalRecord, str | None]] = {}
    # The same record lies at a commit and at the manifest's blob: the commit says more.
    for oid in sorted(noted, key=lambda oid: oid not in commits):
        for record in noted[oid]:
            places.setdefault(record.line(), (record, oid if oid in commits else None))
    suites: dict[tuple[str, str], list[EvalRow]] = {}
    for record, commit in sorted(places.values(), key=lambda p: moment(p[0].at), reverse=True):
        row = EvalRow(
            commit, [_short(ref) for ref in names.get(commit or "", [])],
            record.adapter, record.weights, record.at, dict(record.metrics),
        )  # fmt: skip
        suites.setdefault((record.suite, record.suite_sha), []).append(row)
    return EvalsReport(
        [
            SuiteEvals(suite, sha, sorted({m for row in rows for m in row.metrics}), rows)
            for (suite, sha), rows in suites.items()
        ]
    )


def _short(ref: str) -> str:
    room, _, name = ref.removeprefix("refs/").partition("/")
    return f"run/{name.partition('/')[2]}" if room == "soup" else name
