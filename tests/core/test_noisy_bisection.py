"""The search among probes that lie: right as often as it claims, and calm about skips."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from soup_git.arithmetic.posterior import (
    information,
    known_rates,
    likeliest,
    posterior,
    unknown_rates,
)
from soup_git.core.bisection import Found, Verdict
from soup_git.core.noisybisection import NoisySearch

Oracle = Callable[[int], Verdict]


def lying(first_bad: int, false_alarm: float, miss: float, seed: int) -> Oracle:
    chance = random.Random(seed)

    def judge(position: int) -> Verdict:
        if position >= first_bad:
            return Verdict.good if chance.random() < miss else Verdict.bad
        return Verdict.bad if chance.random() < false_alarm else Verdict.good

    return judge


def drive(search: NoisySearch, judge: Oracle, jobs: int = 1) -> None:
    while search.answer() is None:
        asked = search.ask(jobs, [])
        assert asked
        for position in asked:
            search.tell(position, judge(position))


def test_the_posterior_is_bayes_rule_written_out() -> None:
    good, bad, f, m = [2, 0, 1, 0], [0, 1, 0, 3], 0.1, 0.2
    by_hand = []
    for k in range(5):
        chance = 1.0
        for x in range(4):
            says_bad = 1 - m if k <= x else f
            chance *= says_bad ** bad[x] * (1 - says_bad) ** good[x]
        by_hand.append(chance)
    expected = np.array(by_hand) / sum(by_hand)
    assert np.allclose(posterior(good, bad, known_rates(f, m)).probability, expected)


def test_unknown_rates_are_integrated_out() -> None:
    good, bad, rates = [3, 0, 0], [1, 0, 4], unknown_rates()
    by_hand = []
    for k in range(4):
        total = 0.0
        for f, row in zip(rates.false_alarm, rates.weights, strict=True):
            for m, weight in zip(rates.miss, row, strict=True):
                chance = weight
                for x in range(3):
                    says_bad = 1 - m if k <= x else f
                    chance *= says_bad ** bad[x] * (1 - says_bad) ** good[x]
                total += chance
        by_hand.append(total)
    belief = posterior(good, bad, rates)
    assert np.allclose(belief.probability, np.array(by_hand) / sum(by_hand))


def test_information_is_the_expected_fall_of_entropy() -> None:
    def entropy(p: np.ndarray) -> float:
        return -sum(x * math.log2(x) for x in p if x > 0)

    good, bad, rates = [2, 0, 0, 1, 0], [0, 1, 0, 0, 2], known_rates(0.1, 0.25)
    belief = posterior(good, bad, rates)
    for x in range(5):
        says_bad = sum(p * (0.75 if k <= x else 0.1) for k, p in enumerate(belief.probability))
        after_bad = posterior(good, [b + (i == x) for i, b in enumerate(bad)], rates)
        after_good = posterior([g + (i == x) for i, g in enumerate(good)], bad, rates)
        expected = entropy(belief.probability) - (
            says_bad * entropy(after_bad.probability)
            + (1 - says_bad) * entropy(after_good.probability)
        )
        assert information(belief)[x] == pytest.approx(expected, abs=1e-9)


def test_likeliest_takes_the_fewest() -> None:
    belief = posterior([1, 0, 0], [0, 0, 1], known_rates(0.01, 0.01))
    assert set(likeliest(belief, 0.9)) == {1, 2}


@pytest.mark.parametrize(("rate", "known"), [(0.0, True), (0.0, False), (0.2, True), (0.2, False)])
@pytest.mark.parametrize("jobs", [1, 4])
def test_the_confidence_is_kept(rate: float, known: bool, jobs: int) -> None:
    chance, right, trials = random.Random(5), 0, 60
    for seed in range(trials):
        first_bad = chance.randint(0, 30)
        rates = known_rates(rate, rate) if known else unknown_rates()
        search = NoisySearch(30, rates, 0.95)
        drive(search, lying(first_bad, rate, rate, seed), jobs)
        answer = search.answer()
        right += answer is not None and answer.candidates == (first_bad,)
    # Three standard errors below the claim would be a finding; the benchmark asks more.
    assert right >= trials * 0.95 - 3 * math.sqrt(trials * 0.95 * 0.05)


@pytest.mark.parametrize(("of_bad", "of_good"), [(0.3, 0.05), (0.95, 0.6)])
@pytest.mark.parametrize("known", [True, False])
def test_a_rate_of_lies_above_one_half_names_no_wrong_culprit(
    of_bad: float, of_good: float, known: bool
) -> None:
    """A rare failure that began, and a flaky eval that got worse."""
    chance, right, wrong, trials = random.Random(7), 0, 0, 40
    for seed in range(trials):
        first_bad = chance.randint(0, 24)
        rates = known_rates(of_good, 1 - of_bad) if known else unknown_rates()
        search = NoisySearch(24, rates, 0.95)
        drive(search, lying(first_bad, of_good, 1 - of_bad, seed))
        answer = search.answer()
        assert answer is not None
        right += answer.candidates == (first_bad,)
        wrong += answer.found != Found.UNRESOLVED and answer.candidates != (first_bad,)
    assert wrong <= trials * 0.05 + 3 * math.sqrt(trials * 0.95 * 0.05)
    assert right >= trials * 0.75, "an answer that is never given is no answer"


def test_without_noise_estimated_rates_cost_little() -> None:
    # Of the ends it must be learned that all are alike, which one break in the middle shows.
    for first_bad, most in ((0, 40), (1, 18), (100, 18), (255, 18), (256, 40)):
        search = NoisySearch(256, unknown_rates(), 0.95)
        drive(search, lying(first_bad, 0.0, 0.0, 1))
        answer = search.answer()
        assert answer is not None
        assert answer.candidates == (first_bad,)
        assert search.probes <= most


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_skips_hide_is_left_open(jobs: int) -> None:
    truth = lying(5, 0.0, 0.0, 1)
    search = NoisySearch(12, known_rates(0.05, 0.05), 0.95)
    drive(search, lambda x: Verdict.skip if x in {4, 5} else truth(x), jobs)
    answer = search.answer()
    assert answer is not None
    assert answer.found == Found.UNRESOLVED
    assert set(answer.candidates) == {4, 5, 6}


def test_all_skipped_ends() -> None:
    search = NoisySearch(6, unknown_rates(), 0.95)
    drive(search, lambda _: Verdict.skip)
    answer = search.answer()
    assert answer is not None
    assert answer.found == Found.UNRESOLVED
    assert search.probes == 6


def test_a_coin_toss_ends() -> None:
    chance = random.Random(1)
    search = NoisySearch(16, unknown_rates(), 0.9999, most=200)
    drive(search, lambda _: Verdict.good if chance.random() < 0.5 else Verdict.bad)
    assert search.probes <= 200
    answer = search.answer()
    assert answer is not None
    assert answer.found == Found.UNRESOLVED
