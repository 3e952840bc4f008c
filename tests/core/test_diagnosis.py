"""Every planted disease is found, and healthy runs with noisy curves hear nothing."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from soup_git.core import robust
from soup_git.core.diagnosis import PROBLEM, EvalPoint, Evidence, Point, diagnose
from tests.core.planted_curves import DISEASES, healthy

SEEDS = range(400)
CLEAR = [seed for seed in range(60) if len(healthy(seed).points) >= 40]


def test_healthy_runs_hear_nothing() -> None:
    # Measured over 3000 seeds: 0.6 % of them hear anything, 0.1 % of a problem. Half of the
    # curves have tails as of Student's t with four degrees of freedom, and up to 10 % noise.
    found = [finding for seed in SEEDS for finding in diagnose(healthy(seed)).findings]
    assert len(found) <= 0.02 * len(SEEDS), found
    assert len([f for f in found if f.level == PROBLEM]) <= 2


@pytest.mark.parametrize("disease", DISEASES)
def test_a_planted_disease_is_found(disease: str) -> None:
    for seed in CLEAR[:12]:
        names = [f.name for f in diagnose(DISEASES[disease](healthy(seed))).findings]
        assert disease.strip() in names, (seed, names)


def test_findings_say_where_and_what_to_change_the_heaviest_first() -> None:
    sick = DISEASES["rows cut"](DISEASES["overfitting"](healthy(CLEAR[0])))
    first, second = diagnose(sick).findings
    assert (first.name, first.level, second.name) == ("overfitting", PROBLEM, "rows cut")
    assert "lowest at step 300 (1)" in first.evidence
    changes = {change.key: change.value for change in first.change}
    assert changes["keep"] == "a checkpoint from about step 300"
    named = diagnose(replace(sick, run="a", checkpoints=[100, 280, 700])).findings[0]
    assert named.change[0].value == "run/a@280"
    assert changes["training.lr"] == "0.0001"
    assert [c.value for c in second.change if c.key == "data.max_length"] == ["4096"]
    few = replace(sick, evals=[EvalPoint(1, 1.0)])
    assert "overfitting" in [u.question for u in diagnose(few).unjudged]


def test_a_rate_that_no_adapter_learns_at_is_called_too_high() -> None:
    flat = DISEASES["never fell"](healthy(CLEAR[0]))
    hot = replace(flat, settings={"training.lr": 30.0})
    (found,) = [f for f in diagnose(hot).findings if f.name == "never fell"]
    assert "far too high" in found.meaning
    assert [(c.key, c.value) for c in found.change] == [("training.lr", "0.0002")]
    mild = replace(flat, settings={"training.lr": 2e-4})
    (found,) = [f for f in diagnose(mild).findings if f.name == "never fell"]
    assert "too low" in found.meaning


@pytest.mark.parametrize(("rank", "advice"), [(16.0, ["8"]), (4.0, []), (None, [])])
def test_few_rows_want_a_smaller_rank_than_there_is(rank: float | None, advice: list[str]) -> None:
    settings = {} if rank is None else {"training.lora.r": rank}
    few = replace(DISEASES["few steps"](healthy(CLEAR[0])), settings=settings)
    (found,) = [f for f in diagnose(few).findings if f.name == "few rows"]
    assert [c.value for c in found.change if c.key == "training.lora.r"] == advice


def test_the_loss_of_a_policy_need_not_fall() -> None:
    flat = replace(DISEASES["never fell"](healthy(CLEAR[0])), task="grpo")
    assert diagnose(flat).findings == []
    assert diagnose(flat).unjudged[0].question == "the loss"


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.just(0.0)


@settings(max_examples=60, deadline=None)
@example([(0.0, math.nan, None), (-3e16, 0.0, None), (0.0, 0.0, 0.0)], [])
@given(
    st.lists(st.tuples(numbers, numbers, st.none() | numbers), max_size=30),
    st.lists(numbers, max_size=9),
)
def test_whatever_a_file_says_is_judged(
    rows: list[tuple[float, float, float | None]], evals: list[float]
) -> None:
    points = [Point(i, *row) for i, row in enumerate(rows)]
    diagnose(Evidence(points, [EvalPoint(i, y) for i, y in enumerate(evals)]))


def test_noise_and_slope_are_those_that_were_put_in() -> None:
    rng = random.Random(1)
    line = [5 - 0.01 * x + rng.gauss(0, 0.2) for x in range(400)]
    line[7] = line[90] = 1e6
    assert math.isclose(robust.noise(line), 0.2, rel_tol=0.15)
    found = robust.slope(list(range(400)), line)
    assert abs(found.value + 0.01) < 3 * found.error < 0.001
    assert robust.noise([1.0]) == 0.0
    assert robust.slope([1, 1], [2, 3]).error == math.inf
