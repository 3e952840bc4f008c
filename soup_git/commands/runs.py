"""Training runs as their refs tell them: which there are, and how the loss of one went."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.durations import spoken
from soup_git.errors import FatalError
from soup_git.render.chart import Chart
from soup_git.render.report import Table
from soup_git.storage.runhistory import RecordedCheckpoint, RecordedRun, number_of, recorded_runs
from soup_git.storage.runs import RUNS
from soup_git.storage.workspace import Workspace

LOSSES = "plots/loss.csv"
"""What training writes: the loss between checkpoints, too."""


@dataclass(frozen=True)
class RunRow:
    run: str
    adapter: str
    commit: str
    """Its last checkpoint."""
    launched_from: str | None
    date: str
    """Of the last checkpoint."""
    checkpoints: int
    step: int
    loss: float | None
    """At the last step."""
    losses: list[float | None]
    """At each checkpoint."""


@dataclass(frozen=True)
class RunsReport:
    schema: ClassVar[str] = "soup.runs/1"
    runs: list[RunRow]
    """The newest first."""

    def tables(self) -> Sequence[Table | str]:
        if not self.runs:
            return ["no training run is recorded here yet; git soup train makes one"]
        rows = [
            (
                f"run/{row.run}", row.date[:10], row.adapter, str(row.checkpoints),
                str(row.step), loss_text(row.loss),
            )
            for row in self.runs
        ]  # fmt: skip
        return [Table(("run", "date", "adapter", "checkpoints>", "step>", "loss>"), rows)]


@dataclass(frozen=True)
class RunReport:
    schema: ClassVar[str] = "soup.run/1"
    run: str
    adapter: str
    launched_from: str | None
    checkpoints: list[RecordedCheckpoint]
    curve: list[tuple[int, float]]
    """(step, loss) between the checkpoints, too, where the run's last commit has its plots."""

    @property
    def title(self) -> str:
        return f"run/{self.run}"

    def charts(self) -> list[Chart]:
        known = [(c.step, c.loss) for c in self.checkpoints if c.loss is not None]
        line = self.curve or known
        if not line:
            return []
        return [
            Chart(
                title="Loss by step, a dot for each checkpoint",
                across="step",
                up="loss",
                dots=[loss for _, loss in known],
                line=[loss for _, loss in line],
                levels=[],
                dots_at=[step for step, _ in known],
                line_at=[step for step, _ in line],
            )
        ]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            (
                f"run/{self.run}@{c.step}", loss_text(c.loss), rate_text(c.learning_rate),
                "–" if c.elapsed_seconds is None else spoken(c.elapsed_seconds), c.commit[:7],
            )
            for c in self.checkpoints
        ]  # fmt: skip
        return [Table(("checkpoint", "loss>", "learning rate>", "trained for>", "commit"), rows)]


def runs(workspace: Workspace) -> RunsReport:
    """Every training run that has a ref here, the newest first."""
    return RunsReport([_row(found) for found in recorded_runs(workspace.git)])


def run(workspace: Workspace, name: str) -> RunReport:
    """One run. Raises `FatalError` when no ref of ours is called so."""
    found = next((r for r in recorded_runs(workspace.git, name) if r.run == name), None)
    if found is None:
        raise FatalError(
            f"there is no training run {name!r} here", hint="git for-each-ref refs/soup/runs"
        )
    return RunReport(
        run=name,
        adapter=found.checkpoints[-1].adapter,
        launched_from=found.launched_from,
        checkpoints=list(found.checkpoints),
        curve=_curve(workspace, found),
    )


def _row(found: RecordedRun) -> RunRow:
    last = found.checkpoints[-1]
    return RunRow(
        run=found.run,
        adapter=last.adapter,
        commit=last.commit,
        launched_from=found.launched_from,
        date=last.date,
        checkpoints=len(found.checkpoints),
        step=last.step,
        loss=last.loss,
        losses=[checkpoint.loss for checkpoint in found.checkpoints],
    )


def _curve(workspace: Workspace, found: RecordedRun) -> list[tuple[int, float]]:
    """The run's own plot; one of an earlier run, which lies there until this one ends, is not."""
    data = workspace.git.blob(f"{RUNS}{found.run}:{LOSSES}") or b""
    reader = csv.DictReader(io.StringIO(data.decode("utf-8", "replace")))
    try:
        pairs = [
            (number_of(row.get("step") or ""), number_of(row.get("loss") or "")) for row in reader
        ]
    except csv.Error:
        return []
    points = [(int(step), loss) for step, loss in pairs if step is not None and loss is not None]
    last = found.checkpoints[-1]
    return points if points and points[-1] == (last.step, last.loss) else []


# -- how it is written ------------------------------------------------------------------------


def loss_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def rate_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2e}"
