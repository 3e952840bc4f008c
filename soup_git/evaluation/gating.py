"""What a gate decides: a score, its baseline and a threshold in, a verdict out. No model, no files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol, Self, TypeVar

from soup_git.evaluation.statistics import CONFIDENCE, EXP_MEAN, Difference
from soup_git.evaluation.suite import Threshold

OK, WARNING, FAILED = "ok", "warning", "failed"
NO_REGRESSION = Threshold(max_drop=0)
"""What a score without a threshold is held to where there is a baseline."""


class Measured(Protocol):
    """One score, as a run gives it or as a note tells it."""

    @property
    def name(self) -> str:
        """`TASK.SCORE`."""
        ...

    @property
    def kind(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def value(self) -> float | None: ...

    @property
    def stderr(self) -> float | None: ...

    def against(self, baseline: Self) -> Difference | None:
        """This minus the baseline."""
        ...


M = TypeVar("M", bound=Measured)


@dataclass(frozen=True)
class Decision:
    """One threshold of one score: what it allows, what was found."""

    name: str
    state: str
    """ok, warning (past the threshold, but within the noise) or failed."""
    value: float | None
    stderr: float | None
    baseline: float | None
    drop: float | None
    """How much worse than the baseline; negative is better. None without a baseline."""
    drop_low: float | None
    drop_high: float | None
    allowed: str
    why: str


def decide(
    results: Sequence[M],
    baseline: Sequence[M] | None,
    thresholds: Mapping[str, Threshold],
) -> list[Decision]:
    """A decision per threshold, in the order of the scores; then those of scores that are missing."""
    others = {result.name: result for result in baseline or ()}
    found: list[Decision] = []
    for result in results:
        threshold = thresholds.get(result.name)
        if threshold is None:
            if baseline is None or result.kind == EXP_MEAN:
                continue  # a perplexity says what its loss has said
            threshold = NO_REGRESSION
        found += _of_result(result, others.get(result.name), threshold)
    known = {result.name for result in results}
    found += [
        Decision(name, FAILED, None, None, None, None, None, None, "", "there is no such score")
        for name in thresholds
        if name not in known
    ]
    return found


def _of_result(result: M, baseline: M | None, threshold: Threshold) -> list[Decision]:
    if result.value is None:
        why = "no row could be scored"
        return [Decision(result.name, FAILED, None, None, None, None, None, None, "", why)]
    found = []
    for bound, sign, word in ((threshold.min, 1.0, "at least"), (threshold.max, -1.0, "at most")):
        if bound is not None:
            found.append(_of_bound(result, bound, sign, f"{word} {bound:g}"))
    if threshold.max_drop is not None:
        found.append(_of_drop(result, baseline, threshold.max_drop))
    return found


def _of_bound(result: Measured, bound: float, sign: float, allowed: str) -> Decision:
    value = result.value or 0.0
    missing = sign * (bound - value)
    noise = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * (
        math.inf if result.stderr is None else result.stderr
    )
    state = OK if missing <= 0 else WARNING if missing <= noise else FAILED
    why = "" if state == OK else f"misses it by {missing:.4g}"
    why += ", within the noise" if state == WARNING else ""
    return Decision(
        result.name, state, result.value, result.stderr, None, None, None, None, allowed, why
    )


def _of_drop(result: M, baseline: M | None, max_drop: float | str) -> Decision:
    gap = result.against(baseline) if baseline is not None else None
    if baseline is None or baseline.value is None or gap is None:
        why = "the baseline has no such score to compare with"
        return Decision(
            result.name, FAILED, result.value, result.stderr, None, None, None, None, "", why
        )
    allowed = _allowed(max_drop, baseline.value)
    shown = f"drop up to {max_drop if isinstance(max_drop, str) else f'{max_drop:g}'}"
    drop, low, high = worse(gap, result.higher_is_better)
    # Past the threshold by a hair is a matter of floating point, not of the adapter.
    if drop <= allowed + 1e-9 * max(1.0, abs(baseline.value)):
        state, why = OK, ""
    elif gap.is_noise:
        state, why = WARNING, f"dropped by {drop:.4g}, within the noise"
    else:
        state, why = FAILED, f"dropped by {drop:.4g}"
    return Decision(
        result.name, state, result.value, result.stderr, baseline.value, drop, low, high, shown, why
    )


def _allowed(max_drop: float | str, baseline: float) -> float:
    if isinstance(max_drop, str):
        return float(max_drop.removesuffix("%")) / 100 * abs(baseline)
    return float(max_drop)


def worse(gap: Difference, higher_is_better: bool) -> tuple[float, float | None, float | None]:
    """The difference and its interval, counted in the direction that is worse."""
    if not higher_is_better:
        return gap.value, gap.low, gap.high
    # No difference is 0, and not the -0.0 that its negation would be.
    return (
        0.0 - gap.value,
        None if gap.high is None else 0.0 - gap.high,
        None if gap.low is None else 0.0 - gap.low,
    )
