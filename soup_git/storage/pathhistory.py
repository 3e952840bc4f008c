"""The history of some paths as git simplifies it: which commits, drawn how, and what they changed.

git decides what belongs to the history and draws the graph. Every text a person wrote
comes by another way than the drawing, so that nothing in it can pass for a line of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from soup_git.core.manifest import MANIFEST
from soup_git.storage.gitrepo import GitRepo

MANIFESTS = f":(top,glob)**/{MANIFEST}"
_COMMIT, _DETAIL = "\x01", "\x02"
_LOG = ("-c", "log.follow=false", "log", "--topo-order", "--no-show-signature", "--color=never")


@dataclass(frozen=True)
class DrawnLine:
    """A line of the graph: git's drawing, and the commit that it is for."""

    drawing: str
    commit: str | None = None
    is_detail: bool = False
    """The line below a commit's first."""


@dataclass(frozen=True)
class FileChange:
    """One path that a commit changed, against its first parent."""

    status: str
    """git's letter: A, M, D, R, T."""
    old: str
    """Blob before; zeros for none."""
    new: str
    path: str
    renamed_from: str | None = None


@dataclass(frozen=True)
class CommitFacts:
    commit: str
    parents: tuple[str, ...]
    """The nearest ancestors that belong to this history."""
    author: str
    date: str
    """The author's, ISO 8601."""
    subject: str
    trailers: dict[str, str]
    changes: list[FileChange] = field(default_factory=list)


@dataclass(frozen=True)
class PathHistory:
    commits: list[CommitFacts]
    """Children before parents."""
    drawn: list[DrawnLine]


PINNED = ("Soup-Config", "Soup-Dataset", "Soup-Base-Model", "Soup-Version")
"""The trailers that repeat what a commit of `git soup branch` pins."""
_TRAILERS = (*PINNED, "Soup-Run", "Soup-Step")


def path_history(
    git: GitRepo, revisions: Sequence[str], paths: Sequence[str], limit: int | None = None
) -> PathHistory:
    """The commits reachable from `revisions` that changed `paths` (pathspecs), at most `limit`."""
    form = f"--format={_COMMIT}%H %P%n{_DETAIL}"
    count = [] if limit is None else [f"--max-count={limit}"]
    out = git.text(*_LOG, "--graph", form, *count, *revisions, "--", *paths)
    drawn: list[DrawnLine] = []
    parents: dict[str, tuple[str, ...]] = {}
    last = ""
    for line in out.split("\n") if out else []:
        drawing, mark, rest = line.partition(_COMMIT)
        if mark:
            last, *of_last = rest.split()
            parents[last] = tuple(of_last)
            drawn.append(DrawnLine(drawing, last))
        elif _DETAIL in line:
            drawn.append(DrawnLine(line.partition(_DETAIL)[0], last, is_detail=True))
        else:
            drawn.append(DrawnLine(line))
    changes = _changes(git, parents, paths)
    commits = [_facts(fields, parents, changes) for fields in _told(git, list(parents))]
    return PathHistory(commits, drawn)


def _facts(
    fields: Sequence[str],
    parents: dict[str, tuple[str, ...]],
    changes: dict[str, list[FileChange]],
) -> CommitFacts:
    commit, author, date, subject, *trailers = fields
    told = {key: value.strip() for key, value in zip(_TRAILERS, trailers, strict=True) if value}
    return CommitFacts(
        commit, parents[commit], author, date, subject, told, changes.get(commit, [])
    )


def _told(git: GitRepo, commits: Sequence[str]) -> Iterator[list[str]]:
    """What people wrote, NUL between the fields: no message can hold one."""
    if not commits:
        return
    fields = ["%H", "%an", "%aI", "%s"]
    fields += [f"%(trailers:key={key},valueonly)" for key in _TRAILERS]
    done = git.run(
        "log", "--no-walk=unsorted", "--no-show-signature", "--stdin", "-z",
        "--format=" + "%x00".join(fields), input="".join(f"{c}\n" for c in commits).encode(),
    )  # fmt: skip
    parts = os.fsdecode(done.stdout).split("\0")
    for at in range(0, len(parts) - 1, len(fields)):
        yield parts[at : at + len(fields)]


def _changes(
    git: GitRepo, parents: dict[str, tuple[str, ...]], paths: Sequence[str]
) -> dict[str, list[FileChange]]:
    lines = "".join(f"{' '.join([commit, *of_it[:1]])}\n" for commit, of_it in parents.items())
    done = git.run(
        "diff-tree", "--stdin", "-z", "-r", "-M", "--root", "--no-abbrev", "--", *paths,
        input=lines.encode(),
    )  # fmt: skip
    parts = iter(os.fsdecode(done.stdout).split("\0")[:-1])
    found: dict[str, list[FileChange]] = {}
    commit = ""
    for part in parts:
        if not part.startswith(":"):
            commit = part
            continue
        _, _, old, new, status = part.split(" ")
        path, source = next(parts), None
        if status[0] in "RC":
            path, source = next(parts), path
        change = FileChange(status[0], old, new, path, source)
        found.setdefault(commit, []).append(change)
    return found


def former_names(git: GitRepo, revisions: Sequence[str], path: str) -> list[str]:
    """A manifest's path and the ones it was renamed from, as far as `revisions` reach."""
    done = git.run(
        *_LOG, "--format=", "-z", "--raw", "-M", "-m", "--diff-filter=R", "--full-history",
        *revisions, "--", MANIFESTS,
    )  # fmt: skip
    parts = os.fsdecode(done.stdout).split("\0")
    pairs = [(new, old) for meta, old, new in zip(parts, parts[1:], parts[2:], strict=False)
             if re.match(r"\n?:\d{6} ", meta)]  # fmt: skip
    names = [path]
    for name in names:
        names += [old for new, old in pairs if new == name and old not in names]
    return names


def decorations(git: GitRepo, prefixes: Iterable[str]) -> dict[str, list[str]]:
    """Commit -> the full names of the refs that point at it, through annotated tags."""
    form = "--format=%(refname)%00%(objectname)%00%(*objectname)"
    found: dict[str, list[str]] = {}
    for line in git.lines("for-each-ref", form, *prefixes):
        name, oid, peeled = line.split("\0")
        found.setdefault(peeled or oid, []).append(name)
    return found
