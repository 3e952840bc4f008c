"""The driver of a search: what runs side by side, what is stopped, what is heard."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from soup_git.core.bisection import Found, PlainSearch, Verdict
from soup_git.evaluation.bisecting import Aborted, drive
from soup_git.evaluation.executors import Flag, pool
from soup_git.evaluation.probes import Outcome

GOOD, BAD = Outcome(Verdict.good, 0, 0.0), Outcome(Verdict.bad, 1, 0.0)


class Probes:
    """Thread probes of a history; positions in `hang` wait until they are stopped."""

    def __init__(self, first_bad: int, hang: set[int] | None = None, seconds: float = 0.0) -> None:
        self.first_bad, self.hang, self.seconds = first_bad, hang or set(), seconds
        self.started: list[int] = []
        self.stopped: list[int] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def judge(self, position: int, flag: Flag) -> Outcome:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.started.append(position)
        try:
            time.sleep(self.seconds)
            while position in self.hang:
                if flag.is_set():
                    self.stopped.append(position)
                    return Outcome(None, None, 0.0, "stopped")
                time.sleep(0.005)
        finally:
            with self._lock:
                self._now -= 1
        return BAD if position >= self.first_bad else GOOD


def run(search: PlainSearch, probes: Probes, jobs: int, **options: object) -> list[int]:
    heard: list[int] = []
    with pool(jobs) as made:

        def start(position: int, flag: Flag) -> Future[Outcome]:
            return made.executor.submit(probes.judge, position, flag)

        drive(search, made, start, lambda x, _: heard.append(x), jobs=jobs, **options)  # type: ignore[arg-type]
    return heard


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_never_more_than_asked_at_once(jobs: int) -> None:
    search, probes = PlainSearch(200), Probes(77, seconds=0.002)
    run(search, probes, jobs)
    answer = search.answer()
    assert answer is not None
    assert answer.candidates == (77,)
    assert probes.most <= jobs


def test_what_is_no_longer_needed_is_stopped() -> None:
    """Of the first three inner probes only the left one matters, and the others hang."""
    search, probes = PlainSearch(101), Probes(10, hang=set(range(50, 100)))
    heard = run(search, probes, 5)
    answer = search.answer()
    assert answer is not None
    assert answer.candidates == (10,)
    assert probes.stopped
    assert not set(heard) & probes.hang


def test_an_aborted_search_leaves_nothing_running() -> None:
    search, probes = PlainSearch(100), Probes(10, hang=set(range(1, 100)))
    with pool(4) as made:

        def start(position: int, flag: Flag) -> Future[Outcome]:
            if position == 0:
                broken: Future[Outcome] = Future()
                broken.set_result(Outcome(None, 127, 0.0, "not found"))
                return broken
            return made.executor.submit(probes.judge, position, flag)

        with pytest.raises(Aborted, match="not found"):
            drive(search, made, start, lambda *_: None, jobs=4)
    assert sorted(probes.stopped) == sorted(probes.started)


def test_a_deadline_ends_it() -> None:
    search, probes = PlainSearch(100), Probes(10, hang=set(range(1, 99)))
    started = time.monotonic()
    run(search, probes, 3, deadline=time.monotonic() + 0.2)
    assert time.monotonic() - started < 2
    assert search.answer() is None
    assert search.best_guess().found == Found.UNRESOLVED


def test_twins_share_a_verdict() -> None:
    search, probes = PlainSearch(9), Probes(5)
    heard = run(search, probes, 1, twins=[[0, 1, 2, 3, 4], [5, 6, 7, 8]])
    assert heard == [0, 8]
    answer = search.answer()
    assert answer is not None
    assert answer.candidates == (5,)
