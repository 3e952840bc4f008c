"""Scores as a note or a file tells them, in the shape that a gate decides on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Self

from soup_git.core.notes import Gap, Metric
from soup_git.evaluation.harness import LOWER_IS_BETTER
from soup_git.evaluation.scorers import SCORERS
from soup_git.evaluation.scorers import Metric as KnownMetric
from soup_git.evaluation.statistics import CONFIDENCE, MEAN, Difference


@dataclass(frozen=True)
class NotedScore:
    """One score of one side. `gap` is its difference to the baseline, where the note has it."""

    name: str
    value: float | None
    stderr: float | None = None
    n: int | None = None
    kind: str = MEAN
    higher_is_better: bool = True
    binary: bool = False
    gap: Difference | None = None

    def against(self, baseline: Self) -> Difference | None:
        """The paired difference where it is known, else that of two independent values."""
        if self.gap is not None:
            return self.gap
        if self.value is None or baseline.value is None:
            return None
        value, n = self.value - baseline.value, min(self.n or 0, baseline.n or 0)
        if self.stderr is None or baseline.stderr is None:
            return Difference(value, None, None, None, n)
        return independent(value, math.hypot(self.stderr, baseline.stderr), n)


def independent(value: float, stderr: float, n: int) -> Difference:
    """A difference with its normal interval."""
    reach = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * stderr
    return Difference(value, stderr, value - reach, value + reach, n)


def noted_scores(metrics: Mapping[str, Metric], gaps: Mapping[str, Gap]) -> list[NotedScore]:
    """The scores of one side of a note, in the note's order."""
    found = []
    for name, metric in metrics.items():
        known, gap, score = known_metric(name), gaps.get(name), name.rpartition(".")[2]
        paired = (
            Difference(gap.value, gap.stderr, gap.low, gap.high, metric.n or 0) if gap else None
        )
        found.append(
            NotedScore(
                name, metric.value, metric.stderr, metric.n,
                known.kind if known else MEAN,
                known.higher_is_better if known else score not in LOWER_IS_BETTER,
                known.binary if known else False,
                paired,
            )
        )  # fmt: skip
    return found


def known_metric(name: str) -> KnownMetric | None:
    """What our scorers say of `TASK.SCORE`, or of a plain name; None for what none of them gives.

    Such are scores of lm-evaluation-harness: better the higher, as a run reads them too.
    """
    return _by_score().get(name.rpartition(".")[2])


@cache
def _by_score() -> dict[str, KnownMetric]:
    return {metric.name: metric for scorer in SCORERS.values() for metric in scorer.metrics}
