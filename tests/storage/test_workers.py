"""Processes that are started and ended together: which one is heard, and how they stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from soup_git.errors import ExitCode, FatalError
from soup_git.storage.workers import run_together

WORKER = """\
import os, signal, sys, time
from soup_git.errors import FatalError
from soup_git.storage.workers import run_as_worker

rank = int(os.environ["RANK"])

def main():
{body}
    return 0

sys.exit(run_as_worker(main))
"""


def team(folder: Path, body: str, count: int = 2) -> int:
    words = [sys.executable, str(script(folder, body))]
    return run_together(words, folder, count, os.environ, 1234)


def script(folder: Path, body: str) -> Path:
    path = folder / "worker.py"
    path.write_text(WORKER.format(body="".join(f"    {line}\n" for line in body.splitlines())))
    return path


def test_each_knows_its_place(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE MASTER_ADDR MASTER_PORT"
    body = f"open(f'w{{rank}}', 'w').write(' '.join(os.environ[n] for n in '{names}'.split()))"
    assert team(tmp_path, body, 3) == 0
    assert [(tmp_path / f"w{n}").read_text() for n in range(3)] == [
        f"{n} {n} 3 127.0.0.1 1234" for n in range(3)
    ]


def test_the_first_talks_and_the_others_do_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert team(tmp_path, "print('out', rank)\nprint('err', rank, file=sys.stderr)") == 0
    told = capfd.readouterr()
    assert told.out == ""  # stdout is for reports
    assert sorted(told.err.splitlines()) == ["err 0", "out 0"]


@pytest.mark.parametrize("culprit", [0, 1])
def test_the_first_to_fail_is_heard_and_not_whom_it_left(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], culprit: int
) -> None:
    body = f"""\
if rank == {culprit}:
    raise FatalError('the rows are wrong', hint='look at them', code=1)
time.sleep(0.5)
raise RuntimeError('Connection closed by peer')"""
    assert team(tmp_path, body) == 1
    assert capfd.readouterr().err == "fatal: the rows are wrong\nhint: look at them\n"


def test_who_waits_for_a_lost_partner_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soup_git.storage.workers._GRACE", 0.3)
    began = time.monotonic()
    assert team(tmp_path, "if rank:\n    raise FatalError('no')\ntime.sleep(60)") == 128
    assert time.monotonic() - began < 20


def test_a_killed_one_is_named(tmp_path: Path) -> None:
    body = """\
if rank:
    print('at step 7', file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.5)
raise RuntimeError('Connection closed by peer')"""
    with pytest.raises(FatalError, match=r"process 2 of 2 .* signal 9 ended it, as the") as caught:
        team(tmp_path, body)
    assert "its last line: at step 7" in str(caught.value)
    assert "last checkpoint" in caught.value.hint


PARENT = """\
import os, sys
from pathlib import Path
from soup_git.storage.workers import run_together
sys.exit(run_together([sys.executable, sys.argv[1]], Path.cwd(), 2, os.environ, 1234))
"""
STOPS = """\
stopped = []
signal.signal(signal.{name}, lambda *_: stopped.append(1))
Path(f'ready{{rank}}').touch()
while not stopped:
    time.sleep(0.01)
time.sleep(0.2)
Path(f'saved{{rank}}').write_text(str(len(stopped)))
raise FatalError('interrupted', code=130)"""


def started(folder: Path, name: str) -> subprocess.Popen[bytes]:
    body = "from pathlib import Path\n" + STOPS.format(name=name)
    words = [sys.executable, "-c", PARENT, str(script(folder, body))]
    parent = subprocess.Popen(words, cwd=folder, start_new_session=True, stderr=subprocess.PIPE)
    _until(lambda: all((folder / f"ready{n}").exists() for n in (0, 1)))
    return parent


def _until(true: object) -> None:
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.02)
    assert true()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_reaches_each_once_and_all_may_save(tmp_path: Path, name: str) -> None:
    parent = started(tmp_path, name)
    os.killpg(parent.pid, getattr(signal, name))  # as a terminal does
    _, said = parent.communicate(timeout=60)
    assert parent.returncode == ExitCode.INTERRUPTED
    assert said == b"fatal: interrupted\n"
    assert [(tmp_path / f"saved{n}").read_text() for n in (0, 1)] == ["1", "1"]


def test_they_stop_by_themselves_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = started(tmp_path, "SIGTERM")
    parent.kill()
    parent.communicate(timeout=60)
    _until(lambda: all((tmp_path / f"saved{n}").exists() for n in (0, 1)))
