"""The log of the bisection that is under way in a work tree, as git keeps its own.

It lies in the work tree's git folder as SOUP_BISECT_LOG: each verdict is on disk before the
next probe starts. Beside it lies the folder in which checkpoints are laid out for probes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator

from soup_git.core.bisection import Found
from soup_git.core.bisectlog import HEAD, Log, Question, Told, parse_log
from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.storage.files import bytes_of, fsync, write_atomically
from soup_git.storage.gitrepo import GitRepo

LOG = "SOUP_BISECT_LOG"


class BisectLog:
    def __init__(self, git: GitRepo) -> None:
        self.path = git.git_dir / LOG
        self.checkpoints = git.git_dir / "soup" / "bisect"
        """Where adapters are laid out while they are probed; empty between searches."""

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The only bisection of this work tree; the system lets go of it with the process."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with (self.checkpoints.parent / "bisect.turn").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FatalError(
                    "another git soup bisect is running in this work tree",
                    hint="git soup bisect log shows how far it is",
                ) from None
            # Nobody else is here: what lies there was left by one that was killed.
            for left in self.checkpoints.iterdir():
                shutil.rmtree(left, ignore_errors=True)
            yield

    def read(self) -> Log | None:
        data = bytes_of(self.path)
        return None if data is None else parse_log(data, str(self.path))

    def text(self) -> str | None:
        data = bytes_of(self.path)
        return None if data is None else data.decode("utf-8", "replace")

    def start(self, question: Question) -> None:
        write_atomically(self.path, (HEAD + question.text()).encode())

    def replace(self, data: bytes) -> None:
        write_atomically(self.path, data)

    def add(self, told: Told, name: str) -> None:
        self._append(told.line(name))

    def end(self, found: Found, name: str) -> None:
        self._append(f"end {found} # {printable(name)}\n")

    def remove(self) -> bool:
        """Forget the search; whether there was one."""
        there = self.path.is_file()
        self.path.unlink(missing_ok=True)
        if there:
            fsync(self.path.parent)
        return there

    def _append(self, line: str) -> None:
        with self.path.open("r+b") as file:
            self._cut_torn_line(file.fileno())
            os.lseek(file.fileno(), 0, os.SEEK_END)
            os.write(file.fileno(), line.encode())
            os.fsync(file.fileno())

    def _cut_torn_line(self, descriptor: int) -> None:
        """A line that a kill cut short would swallow the one that is added now."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(descriptor, whole)
