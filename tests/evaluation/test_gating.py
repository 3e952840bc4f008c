"""What a gate and a verdict decide, from scores alone."""

from __future__ import annotations

import pytest

from soup_git.evaluation.gating import decide
from soup_git.evaluation.results import TaskResult
from soup_git.evaluation.statistics import EXP_MEAN
from soup_git.evaluation.suite import Threshold
from soup_git.evaluation.verdict import judge


def right(count: int, of: int = 100) -> TaskResult:
    rows = [(1.0, 1.0)] * count + [(0.0, 1.0)] * (of - count)
    return TaskResult("t", "exact", tuple(rows), binary=True)


def loss(shift: float) -> TaskResult:
    rows = [(10.0 + n % 3 + 10 * shift, 10.0) for n in range(30)]
    return TaskResult("t", "loss", tuple(rows), higher_is_better=False)


def state(result: TaskResult, baseline: TaskResult | None, **threshold: float | str) -> str:
    (found,) = decide(
        [result], [baseline] if baseline else None, {result.name: Threshold(**threshold)}
    )
    return found.state


@pytest.mark.parametrize(
    ("value", "threshold", "expected"),
    [
        (90, {"min": 0.9}, "ok"),
        (88, {"min": 0.9}, "warning"),
        (60, {"min": 0.9}, "failed"),
        (20, {"max": 0.1}, "failed"),
        (12, {"max": 0.1}, "warning"),
    ],
)
def test_bounds(value: int, threshold: dict[str, float], expected: str) -> None:
    assert state(right(value), None, **threshold) == expected


@pytest.mark.parametrize(
    ("value", "max_drop", "expected"),
    [
        (80, 0, "ok"),
        (79, 0, "warning"),
        (79, 0.02, "ok"),
        (60, 0.02, "failed"),
        (60, "30%", "ok"),
        (60, "20%", "failed"),
        (99, 0, "ok"),
    ],
)
def test_drops(value: int, max_drop: float | str, expected: str) -> None:
    assert state(right(value), right(80), max_drop=max_drop) == expected


def test_a_loss_drops_upwards() -> None:
    assert state(loss(0.5), loss(0.0), max_drop=0.1) == "failed"
    assert state(loss(-0.5), loss(0.0), max_drop=0.1) == "ok"


def test_without_a_threshold_no_real_regression_is_taken() -> None:
    (found,) = decide([right(60)], [right(80)], {})
    assert found.state == "failed"
    assert found.drop == pytest.approx(0.2)
    assert decide([right(60)], None, {}) == []
    perplexity = TaskResult("t", "perplexity", loss(1).rows, EXP_MEAN, higher_is_better=False)
    assert decide([perplexity], [perplexity], {}) == []


def test_what_could_not_be_scored_fails() -> None:
    nothing = TaskResult("t", "judge", (None, None), failures={"timed out": 2})
    (found,) = decide([nothing], None, {"t.judge": Threshold(min=0.1)})
    assert (found.state, found.why) == ("failed", "no row could be scored")
    (missing,) = decide([], None, {"t.nope": Threshold(min=0.1)})
    assert missing.state == "failed"
    (alone,) = decide([right(9)], [nothing], {"t.exact": Threshold(max_drop=0.1)})
    assert alone.state == "failed"


@pytest.mark.parametrize(
    ("merged", "verdict"),
    [(800, "OK"), (830, "OK"), (775, "MINOR"), (600, "MAJOR")],
)
def test_verdicts_of_a_merge(merged: int, verdict: str) -> None:
    inputs = {"a": [right(800, 1000)], "b": [right(500, 1000)]}
    found = judge("s", "0" * 64, inputs, [right(merged, 1000)])
    assert found.verdict == verdict
    assert found.scores[0].best_input == "a"


def test_a_verdict_that_the_noise_forbids() -> None:
    found = judge("s", "0" * 64, {"a": [right(8, 10)]}, [right(8, 10)])
    assert found.verdict == "UNKNOWN"
    assert "noise is larger" in found.why


def test_no_difference_is_said_without_a_sign() -> None:
    (found,) = decide([right(80)], [right(80)], {"t.exact": Threshold(max_drop=0)})
    assert str(found.drop) == "0.0"
