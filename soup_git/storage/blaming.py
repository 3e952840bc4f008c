"""git's own blame of one file, line by line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from soup_git.storage.gitrepo import GitRepo


@dataclass(frozen=True)
class BlamedLine:
    """A line of a file, and the commit that last changed it."""

    text: str
    commit: str | None
    """None: changed in the work tree, in no commit yet."""
    path: str
    """What the file was called there."""
    author: str
    when: str
    """The author's date, ISO 8601 with the author's offset."""
    time: int
    """The committer's, in seconds since 1970."""
    before: tuple[str, str] | None
    """The (commit, path) of the version that it changed; None where it made the file."""


def blame(git: GitRepo, path: str, commit: str | None) -> list[BlamedLine]:
    """Who last changed each line of a file, through merges and renames.

    `commit` None is the work tree's file. `--minimal`: a line that did not change is
    never counted as changed to save time. Commits to ignore are a reader's wish, and
    none of ours.
    """
    done = git.run(
        "-c", "core.quotePath=false", "blame", "--line-porcelain", "--root", "--minimal",
        "--ignore-revs-file=", *([commit] if commit else []), "--", path,
    )  # fmt: skip
    lines, fields = [], dict[str, str]()
    for line in os.fsdecode(done.stdout).split("\n")[:-1]:
        if line.startswith("\t"):
            lines.append(_blamed(line[1:], fields))
            fields = {}
        else:
            key, _, value = line.partition(" ")
            fields.setdefault(key if fields else "commit", value if fields else key)
    return lines


def _blamed(text: str, fields: Mapping[str, str]) -> BlamedLine:
    commit, seconds = fields["commit"], int(fields["author-time"])
    offset = fields["author-tz"]
    minutes = int(offset[0] + "1") * (int(offset[1:3]) * 60 + int(offset[3:5]))
    when = datetime.fromtimestamp(seconds, timezone(timedelta(minutes=minutes)))
    before, _, before_path = fields.get("previous", "").partition(" ")
    return BlamedLine(
        text=text,
        commit=commit if commit.strip("0") else None,
        path=unquoted(fields["filename"]),
        author=fields["author"],
        when=when.isoformat(),
        time=int(fields["committer-time"]),
        before=(before, unquoted(before_path)) if before else None,
    )


_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPED = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}


def unquoted(path: str) -> str:
    """A path as it is, from git's C-style quoting of names with quotes or control characters."""
    if not path.startswith('"'):
        return path

    def plain(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code, 8)]) if len(code) == 3 else _ESCAPED.get(code, code)

    return os.fsdecode(_ESCAPE.sub(plain, os.fsencode(path[1:-1])))
