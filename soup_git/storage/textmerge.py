"""Texts merged line by line, by git's own `merge-file`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo

LABELS = ("ours", "theirs")


@dataclass(frozen=True)
class MergedText:
    data: bytes
    is_clean: bool
    """False where conflict markers are in it."""


def merge_texts(git: GitRepo, origin: bytes, sides: Sequence[bytes]) -> MergedText:
    """Fold the sides into the first one; stops at the first conflict, which is left marked."""
    merged = MergedText(sides[0], is_clean=True)
    for side in sides[1:]:
        if merged.is_clean and side != merged.data:
            merged = _merge_two(git, origin, merged.data, side)
    return merged


def in_conflict(git: GitRepo, origin: bytes, ours: bytes, theirs: bytes) -> bytes:
    """Both texts with conflict markers, also where a merge of lines would find no conflict."""
    merged = _merge_two(git, origin, ours, theirs)
    if not merged.is_clean:
        return merged.data
    return b"".join(
        [b"<<<<<<< ours\n", _ended(ours), b"=======\n", _ended(theirs), b">>>>>>> theirs\n"]
    )


def _ended(text: bytes) -> bytes:
    return text if not text or text.endswith(b"\n") else text + b"\n"


def _merge_two(git: GitRepo, origin: bytes, ours: bytes, theirs: bytes) -> MergedText:
    with tempfile.TemporaryDirectory(prefix="soup-merge-") as name:
        files = [Path(name, part) for part in ("ours", "origin", "theirs")]
        for file, data in zip(files, (ours, origin, theirs), strict=True):
            file.write_bytes(data)
        labels = [word for label in ("ours", "merge base", "theirs") for word in ("-L", label)]
        done = git.run("merge-file", "-p", *labels, *map(str, files), check=False)
    # The exit code counts conflicts up to 127; beyond lie git's own failures.
    if not 0 <= done.returncode <= 127:
        raise FatalError(
            "git merge-file could not merge the texts", hint="git status, then by hand"
        )
    return MergedText(done.stdout, done.returncode == 0)
