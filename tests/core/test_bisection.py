"""The search against brute force: every history, every set of skips, one or several at a time."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.bisection import (
    Answer,
    Contradiction,
    Found,
    PlainSearch,
    Verdict,
    most_probes,
)


def drive(search: PlainSearch, truth: list[Verdict], jobs: int, order: random.Random) -> int:
    """Run a search to its end, probes ending in any order; returns how many were started."""
    running: list[int] = []
    started = 0
    while search.answer() is None:
        asked = search.ask(jobs - len(running), running)
        assert len(asked) <= jobs - len(running)
        assert not set(asked) & set(running)
        assert all(search.is_needed(x) for x in asked)
        started += len(asked)
        running += asked
        assert running, "neither an answer nor a question"
        done = running.pop(order.randrange(len(running)))
        search.tell(done, truth[done])
        running = [x for x in running if search.is_needed(x)]
    return started


def history(count: int, first_bad: int, skips: set[int]) -> list[Verdict]:
    return [
        Verdict.skip if x in skips else Verdict.bad if x >= first_bad else Verdict.good
        for x in range(count)
    ]


def brute_force(truth: list[Verdict]) -> Answer:
    """What is known when everything has been probed."""
    good = max((x for x, v in enumerate(truth) if v == Verdict.good), default=-1)
    bad = min((x for x, v in enumerate(truth) if v == Verdict.bad), default=len(truth))
    candidates = tuple(range(good + 1, bad + 1))
    if len(candidates) > 1:
        return Answer(Found.UNRESOLVED, candidates)
    return Answer(Found.ALL_OK if bad == len(truth) else Found.BROKEN_AT, candidates)


@pytest.mark.parametrize("count", range(1, 8))
def test_every_short_history_is_judged_as_if_all_had_been_probed(count: int) -> None:
    for first_bad, mask, jobs in product(range(count + 1), range(2**count), (1, 2, 3)):
        truth = history(count, first_bad, {x for x in range(count) if mask >> x & 1})
        search = PlainSearch(count)
        drive(search, truth, jobs, random.Random(first_bad))
        assert search.answer() == brute_force(truth), (truth, jobs)


@given(data=st.data(), count=st.integers(1, 300), jobs=st.integers(1, 9), seed=st.integers())
@settings(deadline=None, max_examples=150)
def test_long_histories_too(data: st.DataObject, count: int, jobs: int, seed: int) -> None:
    first_bad = data.draw(st.integers(0, count))
    skips = data.draw(st.sets(st.integers(0, count - 1), max_size=20))
    truth = history(count, first_bad, skips)
    search = PlainSearch(count)
    drive(search, truth, jobs, random.Random(seed))
    assert search.answer() == brute_force(truth)


@given(count=st.integers(2, 5000), data=st.data())
@settings(deadline=None, max_examples=100)
def test_one_at_a_time_takes_the_logarithm_and_two(count: int, data: st.DataObject) -> None:
    truth = history(count, data.draw(st.integers(0, count)), set())
    search = PlainSearch(count)
    assert drive(search, truth, 1, random.Random(0)) <= most_probes(count)
    assert 2 ** (most_probes(count) - 2) >= count > 2 ** (most_probes(count) - 3)


def test_four_at_a_time_take_fewer_rounds() -> None:
    for first_bad in range(1, 1000, 37):
        search, rounds = PlainSearch(1000), 0
        truth = history(1000, first_bad, set())
        while search.answer() is None:
            for x in search.ask(4, []):
                if search.is_needed(x):
                    search.tell(x, truth[x])
            rounds += 1
        assert rounds <= 6, "five parts each: the fifth root of 1000, and the ends"


def test_both_ends_come_first() -> None:
    search = PlainSearch(9)
    assert search.ask(1, []) == [0]
    search.tell(0, Verdict.good)
    assert search.ask(1, []) == [8]
    search.tell(8, Verdict.bad)
    assert search.ask(1, []) == [4]


def test_a_skipped_midpoint_is_left_by_a_jump() -> None:
    search = PlainSearch(101)
    search.tell(0, Verdict.good)
    search.tell(100, Verdict.bad)
    search.tell(50, Verdict.skip)
    first = search.ask(1, [])[0]
    assert 3 <= abs(first - 50) <= 15, "away, and yet not far from the middle"
    search.tell(first, Verdict.skip)
    assert abs(search.ask(1, [])[0] - 50) >= 3


@pytest.mark.parametrize(
    ("told", "bad", "good"),
    [
        ([(0, "bad"), (8, "good")], 0, 8),
        ([(8, "good"), (0, "bad")], 0, 8),
        ([(3, "bad"), (5, "good")], 3, 5),
        ([(4, "bad"), (4, "good")], 4, 4),
        ([(4, "good"), (4, "bad")], 4, 4),
    ],
)
def test_good_after_bad_is_said(told: list[tuple[int, str]], bad: int, good: int) -> None:
    search = PlainSearch(9)
    *before, last = told
    for position, verdict in before:
        search.tell(position, Verdict(verdict))
    with pytest.raises(Contradiction) as caught:
        search.tell(last[0], Verdict(last[1]))
    assert (caught.value.bad, caught.value.good) == (bad, good)


def test_a_search_that_must_stop_says_what_it_knows() -> None:
    search = PlainSearch(9)
    assert search.best_guess() == Answer(Found.UNRESOLVED, tuple(range(10)))
    for position, verdict in ((0, Verdict.good), (8, Verdict.bad), (4, Verdict.good)):
        search.tell(position, verdict)
    assert search.best_guess() == Answer(Found.UNRESOLVED, (5, 6, 7, 8))
