"""One number out of a suite's scores: what a search makes larger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from soup_git.errors import FatalError
from soup_git.evaluation.results import TaskResult, by_name
from soup_git.evaluation.scorers import Metric, scorer_of
from soup_git.evaluation.statistics import MEAN, Difference
from soup_git.evaluation.suite import Suite


@dataclass(frozen=True)
class Objective:
    """The mean of some `TASK.SCORE`, all better in one direction."""

    metrics: tuple[str, ...]
    higher_is_better: bool = True

    @property
    def name(self) -> str:
        if len(self.metrics) == 1:
            return self.metrics[0]
        return f"mean of {', '.join(self.metrics)}"

    @property
    def sign(self) -> float:
        return 1.0 if self.higher_is_better else -1.0

    def shown(self, fitness: float) -> float:
        """The score as the suite has it: a loss is positive, and lower is better."""
        return self.sign * fitness + 0.0

    def fitness(self, results: Sequence[TaskResult]) -> tuple[float, float | None]:
        """(value, standard error), higher is better.

        Raises FatalError where a metric has no finite value: no row of it was scored.
        """
        found = by_name(results)
        values, squares = [], 0.0
        for metric in self.metrics:
            result = found.get(metric)
            if result is None:
                raise FatalError(
                    f"the suite has no score {metric}; it has {', '.join(found)}",
                    hint=f"--metric {next(iter(found), 'TASK.SCORE')}",
                )
            if result.value is None or not math.isfinite(result.value):
                why = ", ".join(result.failures) or "its value is not finite"
                raise FatalError(
                    f"{metric} has no value: {why}", hint="git soup eval shows each row"
                )
            values.append(result.value)
            squares = math.nan if result.stderr is None else squares + result.stderr**2
        error = math.sqrt(squares) / len(values)
        return self.sign * sum(values) / len(values), error if math.isfinite(error) else None

    def failed_rows(self, results: Sequence[TaskResult]) -> int:
        found = by_name(results)
        return sum(found[metric].failed for metric in self.metrics if metric in found)

    def difference(
        self, results: Sequence[TaskResult], baseline: Sequence[TaskResult]
    ) -> Difference | None:
        """How much better than the baseline, paired by row; None for a mean of several metrics."""
        if len(self.metrics) != 1:
            return None
        name = self.metrics[0]
        return by_name(results)[name].against(by_name(baseline)[name])


def objective(suite: Suite, metric: str | None) -> Objective:
    """The metric that was asked for, else the mean of every task's first score.

    Raises FatalError where there is no such score, or scores of several kinds would be
    added up: nats and shares have no common mean.
    """
    known: dict[str, Metric] = {}
    firsts: dict[str, Metric] = {}
    for task in suite.tasks:
        metrics = scorer_of(task.scoring).metrics
        if not metrics and metric is None:
            raise FatalError(
                f"only {task.scoring} itself knows its scores", hint="--metric TASK.SCORE names one"
            )
        for found in metrics:
            known[f"{task.name}.{found.name}"] = found
        if metrics:
            firsts[f"{task.name}.{metrics[0].name}"] = metrics[0]
    if metric is not None:
        asked = known.get(metric)
        from_harness = any(not scorer_of(task.scoring).metrics for task in suite.tasks)
        if asked is None and not from_harness:
            raise FatalError(
                f"{suite.path} has no score {metric}; it has {', '.join(known)}",
                hint=f"--metric {next(iter(known))}",
            )
        return Objective((metric,), asked.higher_is_better if asked else True)
    kinds = {(m.higher_is_better, m.kind) for m in firsts.values()}
    if len(firsts) > 1 and (len(kinds) > 1 or {kind for _, kind in kinds} != {MEAN}):
        raise FatalError(
            f"the scores of {suite.path} are of several kinds and have no common mean:"
            f" {', '.join(firsts)}",
            hint=f"--metric {next(iter(firsts))}",
        )
    return Objective(tuple(firsts), next(iter(firsts.values())).higher_is_better)
