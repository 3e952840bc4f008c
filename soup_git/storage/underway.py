"""Which of git's operations asked a merge driver: two trainings to join, or a step to put elsewhere.

A merge has two sides that were trained from one version. Everything else that asks (cherry-pick,
revert, rebase, am, apply -3, stash, checkout -m) has a step, theirs − base, that somebody wants on
top of ours, whole. git tells a driver nothing of it, so its own state is read. What each operation
looks like was measured with git 2.39: `GITHEAD_*` is in the environment in merge and pull alone;
a rebase that makes a merge anew has MERGE_HEAD and a `merge` as its last command; `checkout -m PATH`
asks about what the index holds in conflict; and all but merge-tree and replay hold the index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from soup_git.errors import FatalError
from soup_git.storage.gitformats import heads_being_merged
from soup_git.storage.gitrepo import GitRepo

Operation = Literal["merge", "replay"]

_ANCESTORS = 4
"""git, the shell that it starts a driver with, and what either may be wrapped in."""
_OF_A_STEP = ("CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply")


def operation(git: GitRepo, path: str, texts: Sequence[bytes]) -> Operation:
    """What asked for a merge of `path`, whose origin, ours and theirs are `texts`.

    Raises `FatalError` where the two cannot be told apart.
    """
    heads = heads_being_merged()
    # The hooks of a merge inherit its variables: what HEAD holds already is merged.
    if heads and not all(_is_in_head(git, oid) for oid in heads):
        return "merge"
    if not _index_lock(git).exists():
        return _without_index()
    if (git.git_dir / "MERGE_HEAD").exists():
        is_merge = _is_merge_step(git) or _is_in_index(git, path, texts)
        return "merge" if is_merge else "replay"
    is_squash = (git.git_dir / "SQUASH_MSG").exists() and _is_in_index(git, path, texts)
    if is_squash and not any((git.git_dir / name).exists() for name in _OF_A_STEP):
        raise _unknown("the conflict is one of git merge --squash, or of a stash after it")
    return "replay"


def _is_in_head(git: GitRepo, oid: str) -> bool:
    return git.run("merge-base", "--is-ancestor", oid, "HEAD", check=False).returncode == 0


def _index_lock(git: GitRepo) -> Path:
    index = os.environ.get("GIT_INDEX_FILE")
    file = git.root / index if index else git.git_dir / "index"
    return file.with_name(f"{file.name}.lock")


def _is_merge_step(git: GitRepo) -> bool:
    """Whether a rebase is making a merge commit anew: the variable is set for its own steps only."""
    if "GIT_CHERRY_PICK_HELP" not in os.environ:
        return False
    try:
        done = (git.git_dir / "rebase-merge" / "done").read_text("utf-8", "replace")
    except FileNotFoundError:
        return False
    lines = [line for line in done.splitlines() if line.strip()]
    return bool(lines) and lines[-1].split()[0] in {"merge", "m"}


def _is_in_index(git: GitRepo, path: str, texts: Sequence[bytes]) -> bool:
    """Whether the index holds the path in conflict, in just these versions."""
    printed = git.run("ls-files", "--unmerged", "-z", "--", f":(top,literal){path}").stdout
    found = {}
    for line in printed.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        _, oid, stage = line.partition("\t")[0].split(" ")
        found[stage] = oid
    wanted = {str(i): text for i, text in enumerate(texts, start=1) if text or i > 1}
    return found.keys() == wanted.keys() and all(
        _blob_id(text, len(found[stage])) == found[stage] for stage, text in wanted.items()
    )


def _blob_id(data: bytes, length: int) -> str:
    kind = hashlib.sha1 if length == 40 else hashlib.sha256
    return kind(b"blob %d\0" % len(data) + data).hexdigest()


def _without_index() -> Operation:
    """git merge-tree is a merge, unless it was told another base; git replay moves commits."""
    for words in _commands_above():
        asked = command_of(words)
        if asked == "merge-tree" and any(word.startswith("--merge-base") for word in words):
            raise _unknown("git merge-tree was told its merge base")
        if asked is not None:
            return "merge" if asked == "merge-tree" else "replay"
    raise _unknown("no index is locked, and the command that asks cannot be seen")


def command_of(words: Sequence[str]) -> str | None:
    """The command in a line that starts git (`git -C DIR merge-tree …`); None where it is another."""
    if not words or words[0].rpartition("/")[2].removesuffix(".exe") != "git":
        return None
    rest = iter(words[1:])
    for word in rest:
        if word in {"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path"}:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def _commands_above() -> Iterator[list[str]]:
    """The words of our ancestors' command lines, the nearest first, as far as they can be seen."""
    process = os.getppid()
    for _ in range(_ANCESTORS):
        if process <= 1:
            return
        found = _process(process)
        if found is None:
            return
        process, words = found
        yield words


def _process(number: int) -> tuple[int, list[str]] | None:
    """The parent and the words of a process: Linux's /proc, or what `ps` says."""
    place = Path("/proc", str(number))
    try:
        line = (place / "cmdline").read_bytes().rstrip(b"\0")
        # `PID (NAME) STATE PPID …`, and NAME may hold anything.
        parent = int((place / "stat").read_bytes().rpartition(b")")[2].split()[1])
        return parent, [os.fsdecode(word) for word in line.split(b"\0")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        done = subprocess.run(
            [shutil.which("ps") or "ps", "-o", "ppid=,args=", "-p", str(number)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        words = done.stdout.split()
        return int(words[0]), words[1:]
    except (OSError, ValueError, IndexError):
        return None


def _unknown(why: str) -> FatalError:
    return FatalError(
        f"a merge and a commit put elsewhere give different weights, and which is meant cannot be"
        f" told: {why}",
        hint="git merge joins two trainings; git cherry-pick, git revert and git rebase move a step",
    )
