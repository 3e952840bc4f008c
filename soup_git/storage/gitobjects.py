"""Objects of a repository, read through one `git cat-file --batch` that serves a whole process."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from soup_git.errors import FatalError


class ObjectReader:
    """Starts its git with the first question, and ends it in `close`, or at our exit."""

    def __init__(self, start: Callable[[], Any], why_ended: Callable[[str], FatalError]) -> None:
        """`start` gives the process, with pipes; `why_ended` what it means that it is over."""
        self._start = start
        self._why_ended = why_ended
        self._process: Any = None

    def read(self, name: str) -> tuple[str, str, bytes] | None:
        """(object id, type, bytes) of what `name` names; None where missing."""
        if "\n" in name:
            return None
        if self._process is None:
            self._process = self._start()
            atexit.register(self.close)
        asking, answering = self._process.stdin, self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            asking.write(os.fsencode(name) + b"\n")
            asking.flush()
        answer = answering.readline()
        if not answer:
            self.close()
            raise self._why_ended(name)
        parts = answer.split()
        if len(parts) != 3 or answer.endswith((b" missing\n", b" ambiguous\n")):
            return None
        data = answering.read(int(parts[2]))
        answering.read(1)
        return parts[0].decode(), parts[1].decode(), data

    def notes(self, revision: str) -> Iterator[tuple[str, str]]:
        """(noted object, blob of its note) for every note of a notes ref or commit."""
        yield from self._notes_below(f"{revision}^{{tree}}", "")

    def _notes_below(self, name: str, prefix: str) -> Iterator[tuple[str, str]]:
        found = self.read(name)
        if found is None or found[1] != "tree":
            return
        # A tree is `MODE NAME\0` and the id's own bytes, over and over.
        (tree, _, data), at = found, 0
        while at < len(data):
            space, end = data.index(b" ", at), data.index(b"\0", at)
            mode, part = data[at:space], prefix + data[space + 1 : end].decode("ascii", "replace")
            at = end + 1 + len(tree) // 2
            oid = data[end + 1 : at].hex()
            if mode == b"40000" and len(part) < len(tree):
                yield from self._notes_below(oid, part)
            elif mode.startswith(b"100") and len(part) == len(tree):
                yield part, oid

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            # A server opens a repository for each request: none may stay until the exit.
            atexit.unregister(self.close)
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None
