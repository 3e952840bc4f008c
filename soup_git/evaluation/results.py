"""Scores as values: per task and score the rows' statistics, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from soup_git.evaluation import statistics
from soup_git.evaluation.statistics import Difference, Estimate, Row


@dataclass(frozen=True)
class TaskResult:
    """One score of one task for one candidate. `rows` are in the task's order.

    Two candidates' results for the same task and score pair row by row: `against`.
    """

    task: str
    score: str
    rows: tuple[Row | None, ...]
    kind: str = statistics.MEAN
    higher_is_better: bool = True
    binary: bool = False
    failures: Mapping[str, int] = field(default_factory=dict)
    """Why rows have no score -> how many."""
    categories: tuple[str | None, ...] = ()
    """The category of each row, where rows name one."""

    @property
    def name(self) -> str:
        return f"{self.task}.{self.score}"

    @cached_property
    def estimate(self) -> Estimate | None:
        """None when no row could be scored."""
        return statistics.estimate(self.kind, self.rows, binary=self.binary)

    @property
    def value(self) -> float | None:
        return self.estimate.value if self.estimate else None

    @property
    def stderr(self) -> float | None:
        return self.estimate.stderr if self.estimate else None

    @property
    def n(self) -> int:
        return self.estimate.n if self.estimate else 0

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    def against(self, baseline: TaskResult) -> Difference | None:
        """This minus the baseline, paired by row."""
        return statistics.difference(self.kind, self.rows, baseline.rows, binary=self.binary)

    def by_category(self) -> dict[str, Estimate]:
        """The score within each category of rows."""
        found = {}
        for category in sorted({c for c in self.categories if c is not None}):
            rows = [r for r, c in zip(self.rows, self.categories, strict=True) if c == category]
            estimate = statistics.estimate(self.kind, rows, binary=self.binary)
            if estimate is not None:
                found[category] = estimate
        return found

    def body(self) -> dict[str, Any]:
        """As JSON, for the cache."""
        return {
            "task": self.task,
            "score": self.score,
            "rows": [None if row is None else list(row) for row in self.rows],
            "kind": self.kind,
            "higher_is_better": self.higher_is_better,
            "binary": self.binary,
            "failures": dict(self.failures),
            "categories": list(self.categories),
        }


def result_of(body: Mapping[str, Any]) -> TaskResult:
    """The reverse of `body`. Raises KeyError, TypeError or ValueError for anything else."""
    return TaskResult(
        task=str(body["task"]),
        score=str(body["score"]),
        rows=tuple(None if row is None else tuple(map(float, row)) for row in body["rows"]),
        kind=str(body["kind"]),
        higher_is_better=bool(body["higher_is_better"]),
        binary=bool(body["binary"]),
        failures={str(k): int(v) for k, v in body["failures"].items()},
        categories=tuple(None if c is None else str(c) for c in body["categories"]),
    )


def by_name(results: Sequence[TaskResult]) -> dict[str, TaskResult]:
    """`TASK.SCORE` -> its result."""
    return {result.name: result for result in results}
