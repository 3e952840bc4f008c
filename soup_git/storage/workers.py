"""Several processes of one command of ours, started and ended together.

Each runs the same words and knows from torch's environment variables which one it is. The first
has our stderr; what the others print goes to a file. Of those that fail, the first to do so is
the one that is heard: the rest only lost a partner.

They have a session of their own, so that Ctrl-C reaches them once, from here, and not also from
the terminal; and they end themselves, with a checkpoint, when whoever started them is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.errors import ExitCode, FatalError, run_to_exit_code

_FOLDER = "GIT_SOUP_WORKERS"
_GRACE = 15.0  # seconds for the others to end by themselves, when one has failed
_LAST = 600.0  # seconds for a step and a checkpoint, when whoever started them is gone
_POLL = 0.05


def is_worker() -> bool:
    """Was this process started by `run_together`?"""
    return _FOLDER in os.environ


def run_together(
    words: Sequence[str], folder: Path, count: int, env: Mapping[str, str], port: int
) -> int:
    """Run `count` processes of `words` in `folder`; returns the exit code of the first to fail.

    `port` is that of torch's store on this machine, where they find each other. What the first
    one that failed had to say is on our stderr. Raises FatalError when a signal ended it.
    """
    with tempfile.TemporaryDirectory(prefix="git-soup-workers-") as scratch:
        team = [
            _start(words, folder, rank, count, env, port, Path(scratch)) for rank in range(count)
        ]
        sent: set[int] = set()
        with _passing_signals_on(team, sent):
            _wait(team, sent)
        failed = [worker for worker in team if worker.process.returncode]
        return _report(failed, sent, count) if failed else 0


@dataclass(frozen=True)
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]
    said: Path
    """What it prints when it fails."""
    log: Path


def _start(
    words: Sequence[str],
    folder: Path,
    rank: int,
    count: int,
    env: Mapping[str, str],
    port: int,
    scratch: Path,
) -> _Worker:
    number, all_of_them = str(rank), str(count)
    place = {
        _FOLDER: str(scratch), "RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": all_of_them,
        "LOCAL_WORLD_SIZE": all_of_them, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        # The store is ours and there already: torch is not to start another one.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }  # fmt: skip
    log = scratch / f"log-{rank}"
    with contextlib.ExitStack() as files:
        stderr = None if rank == 0 else files.enter_context(log.open("wb"))
        process = subprocess.Popen(
            list(words), cwd=folder, env={**env, **place}, stdin=subprocess.DEVNULL,
            stdout=stderr or sys.stderr, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    return _Worker(rank, process, scratch / f"failed-{rank}", log)


def _wait(team: Sequence[_Worker], sent: set[int]) -> None:
    """Until all have ended; when one failed, the others have `_GRACE` seconds."""
    deadline = None
    while None in (codes := [worker.process.poll() for worker in team]):
        if deadline is None and any(codes):
            deadline = time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            sent.add(signal.SIGKILL)
            for worker in team:
                worker.process.kill()
            deadline = float("inf")
        time.sleep(_POLL)


@contextlib.contextmanager
def _passing_signals_on(team: Sequence[_Worker], sent: set[int]) -> Iterator[None]:
    def pass_on(number: int, _frame: Any) -> None:
        sent.add(number)
        for worker in team:
            if worker.process.poll() is None:
                worker.process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, pass_on) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        for worker in team:  # only where waiting itself failed
            if worker.process.poll() is None:
                worker.process.kill()


def _report(failed: Sequence[_Worker], sent: set[int], count: int) -> int:
    """Say why the training ended, and return its code; `sent` are the signals that we sent."""
    for worker in failed:
        code = worker.process.returncode
        if code < 0 and -code not in sent:
            raise _lost(worker, count, f"signal {-code} ended it{_OF_KILL.get(-code, '')}")
    spoke = [worker for worker in failed if worker.said.is_file()]
    if spoke:
        first = min(spoke, key=lambda worker: worker.said.stat().st_mtime_ns)
        sys.stderr.write(first.said.read_text(encoding="utf-8", errors="replace"))
        return int(first.process.returncode)
    worker = failed[0]
    code = worker.process.returncode
    if code < 0:
        sys.stderr.write("interrupted\n")
        return ExitCode.INTERRUPTED
    raise _lost(worker, count, f"it exited with {code}")


_OF_KILL: dict[int, str] = {signal.SIGKILL: ", as the system does with what takes the last memory"}


def _lost(worker: _Worker, count: int, why: str) -> FatalError:
    log = worker.log.read_text(errors="replace").split("\n") if worker.log.is_file() else []
    last = next((line for line in reversed(log) if line.strip()), "")
    return FatalError(
        f"process {worker.rank + 1} of {count} did not come to its end: {why}"
        + (f"; its last line: {last}" if last else ""),
        hint="the same command goes on from the last checkpoint; git soup doctor tells of memory",
    )


# ---- in the processes themselves --------------------------------------------------------------


def run_as_worker(command: Callable[[], int]) -> int:
    """`run_to_exit_code` for a process of `run_together`: what it says of a failure is kept
    for whoever started it."""
    _end_with(os.getppid())
    said = Path(os.environ[_FOLDER]) / f"failed-{os.environ['RANK']}"

    def overheard() -> int:
        try:
            return command()
        except BaseException:
            # The edge prints what it caught: to the file, from here on.
            sys.stderr = said.open("w", encoding="utf-8")
            raise

    code = run_to_exit_code(overheard)
    sys.stderr.flush()
    return code


def _end_with(parent: int) -> None:
    """Ask this process to stop, as a person would, when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_LAST)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
