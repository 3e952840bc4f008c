"""What git prints and reads, as values: trees, the index, work trees, ref transactions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TreeEntry:
    mode: str
    oid: str
    path: str


def tree_entries(printed: bytes) -> list[TreeEntry]:
    """Of `git ls-tree -r -z`."""
    return [TreeEntry(meta[0], meta[2], path) for meta, path in _listed(printed)]


def index_entries(printed: bytes) -> list[TreeEntry]:
    """Of `git ls-files -z --stage`: what is not in conflict."""
    return [TreeEntry(meta[0], meta[1], path) for meta, path in _listed(printed) if meta[2] == "0"]


def index_info(entries: Sequence[TreeEntry]) -> bytes:
    """For `git update-index -z --index-info`."""
    return b"".join(os.fsencode(f"{e.mode} {e.oid}\t{e.path}\0") for e in entries)


def _listed(printed: bytes) -> Iterator[tuple[list[str], str]]:
    for line in os.fsdecode(printed).split("\0")[:-1]:
        meta, path = line.split("\t", 1)
        yield meta.split(" "), path


@dataclass(frozen=True)
class WorkTree:
    folder: Path | None
    """None of a bare repository; a linked one may be gone."""
    branch: str | None


def work_trees(printed: bytes) -> list[WorkTree]:
    """Of `git worktree list --porcelain -z`: the main one, then the linked ones."""
    found = []
    for block in printed.split(b"\0\0"):
        if not block:
            continue
        told = dict(line.partition(b" ")[::2] for line in block.split(b"\0"))
        folder = None if b"bare" in told else Path(os.fsdecode(told[b"worktree"]))
        branch = told.get(b"branch")
        name = None if branch is None else os.fsdecode(branch).removeprefix("refs/heads/")
        found.append(WorkTree(folder, name))
    return found


@dataclass(frozen=True)
class RefUpdate:
    """One line of a ref transaction; `old` None means "must not exist yet"."""

    ref: str
    new: str
    old: str | None


def transaction(updates: Sequence[RefUpdate]) -> bytes:
    """For `git update-ref --stdin`: all of them or none, each with the value it expects."""
    lines = ["start"]
    for update in updates:
        if update.old is None:
            lines.append(f"create {update.ref} {update.new}")
        else:
            lines.append(f"update {update.ref} {update.new} {update.old}")
    return "\n".join([*lines, "prepare", "commit", ""]).encode()


def heads_being_merged() -> dict[str, str]:
    """Commit -> what the user called it, in a `git merge` that started us; else nothing.

    git tells its drivers by GITHEAD_* variables; in a rebase or a cherry-pick there are none.
    """
    found = (re.fullmatch(r"GITHEAD_([0-9a-f]{40,64})", key) for key in os.environ)
    return {match[1]: os.environ[match[0]] for match in found if match is not None}
