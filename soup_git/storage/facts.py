"""Digests that were computed once: of files by path, size, mtime and inode; of blobs by id.

One append-only text file under git's common folder, `soup/facts`: a line per fact, the
last one for a key wins. Appends of one line are atomic, so any number of processes may
write; a line that a kill cut short fails its pattern and is skipped.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from soup_git.storage.files import write_atomically

_LINE = re.compile(r"(?P<key>\S+) (?P<value>\S+) \.")
_MAX_BYTES = 16 << 20
# A file that changes twice within one tick of its file system's clock keeps its mtime
# (git's "racy" index entries have the same cure: too young is not remembered).
_FINE_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000


class Facts:
    """A dictionary that outlives the process. Losing it costs time, never truth."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] | None = None

    def _load(self) -> dict[str, str]:
        if self._known is None:
            try:
                text = self._path.read_text("utf-8", errors="replace")
            except FileNotFoundError:
                text = ""
            self._known = {}
            for line in text.split("\n"):
                key, _, rest = line.partition(" ")
                if rest.endswith(" .") and rest.count(" ") == 1:
                    self._known[key] = rest[:-2]
            if len(text) > _MAX_BYTES:
                lines = "".join(f"\n{key} {value} ." for key, value in self._known.items())
                write_atomically(self._path, lines.encode())
        return self._known

    def get(self, key: str) -> str | None:
        return self._load().get(key)

    def keys_of(self, prefix: str) -> list[str]:
        return [key for key in self._load() if key.startswith(prefix)]

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
        self._known = {}

    def put(self, key: str, value: str) -> None:
        line = f"\n{key} {value} ."
        if not _LINE.fullmatch(line[1:]) or self._load().get(key) == value:
            return
        self._load()[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def file_key(kind: str, path: Path, *, wait: bool = False) -> str | None:
    """The key of a fact about a file's bytes as they are now; None when too young to trust.

    `wait` sleeps out the rest of the tick, where that is a matter of milliseconds.
    """
    stat = path.stat()
    newest = max(stat.st_mtime_ns, stat.st_ctime_ns)
    tick = _FINE_TICK_NS if newest % 1_000_000 else _COARSE_TICK_NS
    young = tick - (time.time_ns() - newest)
    if young > 0:
        if not wait or young > _FINE_TICK_NS:
            return None
        time.sleep(young / 1e9)
    name = os.fsencode(path.absolute()).hex()
    return f"{kind}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}:{name}"
