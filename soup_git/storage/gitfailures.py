"""A git that failed, in words: what it said, the lock that was in its way, what to type next."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from soup_git.errors import FatalError

# A lock file that another git holds; one that cannot be made for another reason (a full
# disk, a folder without permission) is not busy and will not become free.
_BUSY = re.compile(
    r"Unable to create '(?P<path>[^']+\.lock)': File exists"
    r"|could not lock config file (?P<config>[^:\n]+): File exists"
)
_SIGNING = {
    "commit-tree": "git -c commit.gpgSign=false soup … writes it unsigned",
    "tag": "git soup tag --no-sign … writes it unsigned",
    "commit": "git commit --amend --no-edit, once it can",
    "merge": "git commit, once it can; git merge --abort goes back",
    "rebase": "git rebase --continue, once it can; git rebase --abort goes back",
}
"""A git command that may have to sign -> the way on where it could not."""


def in_words(
    arguments: Sequence[str], code: int, stderr: bytes, root: Path, hint: str
) -> FatalError:
    """Of `git ARGUMENTS` in the work tree at `root`, with git's own words."""
    lock = lock_in_the_way(stderr, root)
    if lock is not None:
        return _left_lock(lock)
    said = os.fsdecode(stderr).strip().replace("\t", "  ")
    # git's own advice is about git's own commands; ours follows.
    lines = [line for line in said.split("\n") if line and not line.startswith("hint:")]
    words = [line.removeprefix("fatal: ").removeprefix("error: ") for line in lines]
    clean = "\n".join(words).strip()
    if code < 0:
        clean = f"git {arguments[0]} was ended by signal {-code}. {clean}".strip()
    if "No space left on device" in clean or -code == signal.SIGXFSZ:
        hint = "df -h . to see what is full, then type the command again"
    if "empty ident name" in clean or "tell me who you are" in clean:
        clean = "git does not know who you are, and a commit names its author"
        hint = "git config --global user.name NAME, and user.email ADDRESS; then again"
    failed = arguments[0] if arguments else ""
    if failed in _SIGNING and re.search(r"\bsign|load public key", clean, re.IGNORECASE):
        hint = f"git config --get-regexp '^(gpg|user[.]signing)' shows what git signs with; {_SIGNING[failed]}"
    return FatalError(clean or f"git {' '.join(arguments[:2])} failed with {code}", hint=hint)


def lock_in_the_way(stderr: bytes, root: Path) -> Path | None:
    """The lock file that another git holds, where that is why this one failed."""
    busy = _BUSY.search(os.fsdecode(stderr))
    return None if busy is None else Path(busy["path"] or f"{root / busy['config']}.lock")


def seconds_old(lock: Path) -> float | None:
    """None when it is gone."""
    try:
        return time.time() - lock.stat().st_mtime
    except OSError:
        return None


def _left_lock(path: Path) -> FatalError:
    seconds = seconds_old(path)
    age = "it is gone by now" if seconds is None else f"it is {seconds:.0f} seconds old"
    return FatalError(
        f"another git process holds {path}, or a killed one left it behind ({age})",
        hint=f"if no git runs here any more: rm '{path}'",
    )
