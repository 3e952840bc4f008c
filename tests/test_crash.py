"""Killed at any moment, each writing command leaves the old state or the new one.

test_crash_points.py walks every step of a command; here real processes die at random times.
Every round starts a command, kills it and all that it started after a random time, and
asks git and `git soup fsck`. Then the command is typed again and has to succeed; a lock
file that a killed git left has to be named with the command that removes it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pinned import _pinned_template, dvc, object_of, photo, pinned, refused
from tests.two_branches import CONFIG

__all__ = ["_pinned_template", "dvc", "object_of", "photo", "pinned", "refused"]

ROUNDS = 6
WEIGHTS = "adapters/support/adapter_model.safetensors"


@pytest.fixture
def killed(git_soup_script: Path) -> Callable[..., bool]:
    """`killed(after, *words)`: run `git soup`, kill its whole group after a time; whether it ended before."""

    def run(after: float, *words: str) -> bool:
        process = subprocess.Popen(
            [git_soup_script, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for lock in Path(".git").rglob("*.lock"):
                os.utime(lock, (1, 1))  # an hour later, so that nobody waits for its owner
            return False
        return True

    return run


@pytest.fixture
def again(soup) -> Callable[..., None]:
    """`again(*words)`: the command succeeds, after the lock files it names are removed as it says."""

    def run(*words: str) -> None:
        for _ in range(4):
            done = soup(*words, check=False)
            if done.returncode == 0:
                return
            assert "Traceback" not in done.stderr, done.stderr
            assert ".lock" in done.stderr, done.stderr
            assert "seconds old" in done.stderr, done.stderr
            command = done.stderr.partition("hint: ")[2].partition(": ")[2].strip()
            assert command.startswith("rm "), done.stderr
            assert os.system(command) == 0
        pytest.fail(done.stderr)

    return run


@pytest.fixture
def whole(git, soup) -> Callable[[], None]:
    """`whole()`: `git fsck` finds nothing, and `git soup fsck` nothing but lock files left."""

    def check() -> None:
        done = git("fsck", "--strict", "--no-dangling", check=False)
        assert done.returncode == 0, done.stderr
        problems = json.loads(soup("fsck", "--json", check=False).stdout)["problems"]
        assert all(problem["where"].endswith(".lock") for problem in problems), problems

    return check


def moments(slowest: float) -> list[float]:
    """Random times over the whole run of a command, each part of it as often as any other."""
    chosen = random.Random(time.time_ns())
    return [slowest * 1.1 * (n + chosen.random()) / ROUNDS for n in range(ROUNDS)]


def duration(soup, *words: str) -> float:
    start = time.monotonic()
    soup(*words)
    return time.monotonic() - start


def test_add(pinned, soup, git, killed, again, whole, make_adapter):
    make_adapter("adapters/support", seed=100, layers=30)
    slowest = duration(soup, "add", "adapters/support")
    for number, moment in enumerate(moments(slowest)):
        make_adapter("adapters/support", seed=101 + number, layers=30)
        killed(moment, "add", "adapters/support")
        whole()
        again("add", "adapters/support")
        assert "clean  adapters/support" in soup("status").stdout


def test_branch(pinned, soup, git, killed, again, whole):
    slowest = duration(soup, "branch", "before")
    for number, moment in enumerate(moments(slowest)):
        name = f"b{number}"
        Path("data/train.jsonl").write_text(f'{{"n": {number}}}\n' * 30_000)
        killed(moment, "branch", name)
        whole()
        there = (
            git("rev-parse", "--verify", "-q", f"refs/heads/{name}", check=False).returncode == 0
        )
        if there:
            assert "Soup-Dataset" in git("log", "-1", "--format=%B", name).stdout
        again("branch", *(["--force"] if there else []), name)
    whole()


def test_checkout(pinned, soup, git, killed, again, whole):
    slowest = max(duration(soup, "checkout", name) for name in ("politer", "main"))
    for number, moment in enumerate(moments(slowest)):
        name = ("politer", "main")[number % 2]
        killed(moment, "checkout", name)
        whole()
        assert git("branch", "--show-current").stdout.strip() in {"politer", "main"}
        again("checkout", name)
        again("checkout")
        assert git("status", "--porcelain").stdout == ""
        assert soup("lock", "check").returncode == 0
        assert "clean  adapters/support" in soup("status").stdout


def test_merge_over_an_adapter(pinned, soup, git, killed, again, whole, make_adapter):
    for name in ("one", "two"):
        make_adapter(f"adapters/{name}", seed=len(name) + ord(name[0]), layers=30)
    words = ("merge", "./adapters/one", "./adapters/two", "-o", "adapters/both", "--force")
    slowest = duration(soup, *words)
    made = Path("adapters/both/adapter.manifest").read_text()
    for moment in moments(slowest)[::2]:
        killed(moment, *words)
        whole()
        for left in Path("adapters").glob(".soup-*"):
            os.utime(left, (1, 1))
        again(*words)
        assert Path("adapters/both/adapter.manifest").read_text() == made
        soup("show", "./adapters/both")


def test_lock_write(pinned, soup, git, killed, again, whole):
    slowest = duration(soup, "lock", "write")
    for number, moment in enumerate(moments(slowest)):
        before = Path("soup.lock").read_bytes()
        Path("soup.yaml").write_text(f"{CONFIG}# {number}\n")
        ended = killed(moment, "lock", "write")
        soup("lock", "show")
        assert ended or Path("soup.lock").read_bytes() == before or soup("lock", "check")
        again("lock", "write")
        assert soup("lock", "check").returncode == 0
    whole()
    assert not list(Path.cwd().glob(".soup-*"))[ROUNDS:]


def test_init(in_tmp_path, soup, git, killed, again, whole, monkeypatch):
    git("init", "-q", "first")
    slowest = duration(lambda *words: soup(*words, cwd=in_tmp_path / "first"), "init")
    for number, moment in enumerate(moments(slowest)):
        root = in_tmp_path / f"r{number}"
        git("init", "-q", str(root))
        monkeypatch.chdir(root)
        hook = Path(".git/hooks/pre-commit")
        hook.write_text("#!/bin/sh\necho theirs >> .git/ran\n")
        hook.chmod(0o755)
        killed(moment, "init")
        assert git("fsck", "--strict", check=False).returncode == 0
        for lock in Path(".git").rglob("*.lock"):
            lock.unlink()  # as git itself says of the lock of a git that was killed
        git("commit", "-q", "--allow-empty", "-m", "Their hook runs, whatever was killed")
        assert Path(".git/ran").read_text() == "theirs\n"
        again("init")
        assert soup("init", "--check").returncode == 0
        git("commit", "-q", "--allow-empty", "-m", "x")
        assert Path(".git/ran").read_text() == "theirs\n" * 2
        whole()
