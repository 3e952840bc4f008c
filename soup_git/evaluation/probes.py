"""Probes: what judges one checkpoint of a bisection.

A probe is an object with one method. It may be sent to another process, so it is data.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

from soup_git.core.bisection import Verdict
from soup_git.core.durations import spoken
from soup_git.core.text import printable
from soup_git.errors import ExitCode, FatalError
from soup_git.evaluation.executors import Flag
from soup_git.render.report import say

PLACE = "{ckpt}"
_LOOK_SECONDS = 0.1
_MERCY_SECONDS = 2.0
_TAIL_BYTES = 2000
_WRONG_CALL = 2


@dataclass(frozen=True)
class Outcome:
    """What a probe found out."""

    verdict: Verdict | None
    """None: this is no verdict, and the search cannot go on."""
    exit_code: int | None
    """None where nothing exited by itself."""
    seconds: float
    why: str = ""
    """For a skip and for no verdict: what happened."""
    said: tuple[str, ...] = ()
    """Of a bad verdict: the last lines that the command printed, its folder as {ckpt}."""


class Probe(Protocol):
    def judge(self, folder: Path, root: Path, flag: Flag, echo: str | None) -> Outcome:
        """Judge the adapter in `folder`, in the work tree at `root`, until `flag` is raised.

        `echo` is what comes before each line of talk on stderr; None keeps quiet.
        """


@dataclass(frozen=True)
class CommandProbe:
    """A program of the user's: its exit code is the verdict, as for `git bisect run`."""

    command: tuple[str, ...]
    inside: str
    """Where it runs, relative to the work tree's top."""
    timeout: float | None
    """Seconds. A command that takes longer is ended, and the checkpoint skipped."""

    @classmethod
    def parse(cls, text: str, inside: str, timeout: float | None) -> CommandProbe:
        """Split once, as a shell would; no shell runs it."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise FatalError(
                f"the eval command cannot be split into words: {error}: {text}",
                hint="""quote it once for your shell: --eval-command 'python eval.py {ckpt}'""",
            ) from None
        if not any(PLACE in word for word in words):
            raise FatalError(
                f"the eval command has no {PLACE}, so it would judge every checkpoint alike",
                hint=f"put {PLACE} where the adapter's folder belongs: 'python eval.py {PLACE}'",
            )
        return cls(words, inside, timeout)

    def words(self, folder: str) -> list[str]:
        return [word.replace(PLACE, folder) for word in self.command]

    def judge(self, folder: Path, root: Path, flag: Flag, echo: str | None) -> Outcome:
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            try:
                process = subprocess.Popen(
                    self.words(str(folder)),
                    cwd=root / self.inside,
                    env={**os.environ, "SOUP_CKPT": str(folder)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    # Its own session: what it starts can be ended with it.
                    start_new_session=True,
                )
            except OSError as error:
                why = f"{self.command[0]} cannot be started: {error.strerror or error}"
                return Outcome(None, None, time.monotonic() - started, why)
            talk = _Talk(output, echo)
            try:
                ended = self._wait(process, flag, talk, started)
            finally:
                _end(process)
            talk.relay(last=True)
            seconds = time.monotonic() - started
            if ended == "timeout":
                why = f"it took longer than {spoken(self.timeout or 0)} and was ended"
                return Outcome(Verdict.skip, None, seconds, why)
            if ended == "stopped":
                return Outcome(None, None, seconds, "nobody needs it any more")
            judged = _judged(process.returncode, seconds, talk)
            if judged.verdict != Verdict.bad:
                return judged
            return replace(judged, said=tuple(x.replace(str(folder), PLACE) for x in talk.last()))

    def _wait(
        self, process: subprocess.Popen[bytes], flag: Flag, talk: _Talk, started: float
    ) -> str:
        while True:
            try:
                process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                talk.relay()
            else:
                return "exited"
            if self.timeout is not None and time.monotonic() - started > self.timeout:
                return "timeout"
            if flag.is_set():
                return "stopped"


def _judged(code: int, seconds: float, talk: _Talk) -> Outcome:
    """The exit codes of `git bisect run`."""
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else "unknown"
        why = f"it was killed by signal {-code} ({name}){talk.tail()}"
        return Outcome(None, None, seconds, why)
    if code > ExitCode.CANNOT_JUDGE:
        return Outcome(None, code, seconds, f"it exited with {code}{_reason(code)}{talk.tail()}")
    if code == ExitCode.CANNOT_JUDGE:
        return Outcome(Verdict.skip, code, seconds, "it exited with 125")
    return Outcome(Verdict.bad if code else Verdict.good, code, seconds)


def fails_by_itself(first: Outcome, last: Outcome) -> bool:
    """Whether two bad verdicts look like a command that failed, and judged neither adapter.

    Both have one exit code, and it is 2, with which Python, shells and parsers of arguments
    refuse a call (a script that is not there); or both end in the same line of a Python
    traceback. A failed `assert` is a verdict, and so is any other code.
    """
    if first.exit_code != last.exit_code:
        return False
    if first.exit_code == _WRONG_CALL:
        return True
    is_traceback = any(line.startswith("Traceback (most recent") for line in first.said)
    words = first.said[-1:]
    return is_traceback and words == last.said[-1:] and not words[0].startswith("AssertionError")


def _reason(code: int) -> str:
    known = {126: ", which shells use for a file they may not run", 127: ", which shells use for a command they cannot find"}  # fmt: skip
    if code > 128 and code - 128 in list(signal.Signals):
        return f", which shells use for a program killed by {signal.Signals(code - 128).name}"
    return known.get(code, "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and whatever it started and left."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_MERCY_SECONDS)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # Nobody of the group may be left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _Talk:
    """What a command printed: shown line by line while it runs, its end kept for an error."""

    def __init__(self, file: BinaryIO, echo: str | None) -> None:
        self._file = file
        self._echo = echo
        self._shown = 0

    def relay(self, *, last: bool = False) -> None:
        if self._echo is None:
            return
        data = os.pread(self._file.fileno(), 1 << 20, self._shown)
        end = len(data) if last else data.rfind(b"\n") + 1
        self._shown += end
        for line in _lines(data[:end]):
            say(f"{self._echo}{line}")
        if last and len(data) == 1 << 20:
            self.relay(last=True)

    def tail(self) -> str:
        if self._echo is not None:
            return ""  # it was shown already
        return "".join(f"\n  {line}" for line in self.last())

    def last(self) -> Sequence[str]:
        size = os.fstat(self._file.fileno()).st_size
        return _lines(os.pread(self._file.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)))


def _lines(data: bytes) -> Sequence[str]:
    """Lines as they end up on a terminal: of a progress bar, what it printed last."""
    text = data.decode("utf-8", "replace").removesuffix("\n")
    return [printable(line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n") if line]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does: probes run in sessions of their own.

    Without this a probe would outlive the bisection that wanted it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    # nohup, and whoever else had a signal ignored, meant it.
    heeded = [name for name, handler in before.items() if handler is not signal.SIG_IGN]
    for name in heeded:
        signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name in heeded:
            signal.signal(name, before[name])
