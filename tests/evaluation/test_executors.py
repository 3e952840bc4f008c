"""Threads and Dask behind one interface."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait

import pytest

from soup_git.errors import FatalError
from soup_git.evaluation.executors import Flag, executor, pool


def test_threads_run_side_by_side_and_results_come_back() -> None:
    with executor(2) as threads:
        started = time.monotonic()
        futures = [threads.submit(time.sleep, 0.2) for _ in range(2)]
        wait(futures)
        assert time.monotonic() - started < 0.35
        assert threads.submit(divmod, 7, 3).result() == (2, 1)


def test_a_task_sees_its_flag() -> None:
    def until(flag: Flag) -> str:
        while not flag.is_set():
            time.sleep(0.01)
        return "stopped"

    with pool(1) as threads:
        flag = threads.flag()
        future: Future[str] = threads.executor.submit(until, flag)
        flag.set()
        assert future.result(5) == "stopped"


def test_a_failed_block_does_not_start_what_still_waits() -> None:
    ran = []

    def record(number: int) -> None:
        time.sleep(0.1)
        ran.append(number)

    with pytest.raises(ValueError, match="enough"), executor(1) as threads:
        for number in range(20):
            threads.submit(record, number)
        raise ValueError("enough")
    assert len(ran) <= 2


def test_a_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soup_git.evaluation.executors._CONNECT_SECONDS", 0.3)
    said = r"no Dask scheduler at tcp://127\.0\.0\.1:9"
    with pytest.raises(FatalError, match=said), executor(1, "tcp://127.0.0.1:9"):
        pass


def test_an_address_that_is_none_is_said() -> None:
    said = "nonsense://x is no address"
    with pytest.raises(FatalError, match=said), executor(1, "nonsense://x"):
        pass
