"""History in a shallow clone: as much of it as two commits need to have a merge base."""

from __future__ import annotations

from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo

_DEPTHS = (64, 512, 4096)
_QUIETLY = ("--no-tags", "--no-write-fetch-head", "--no-recurse-submodules")


def fetch_to_merge_base(git: GitRepo, remote: str, base: str, head: str) -> str:
    """Fetch two commits, by their ids, and what lies between; returns their merge base.

    A clone that has all of its history is left so. Raises FatalError where the remote gives
    no such commits, or they share none.
    """
    for depth in (*_DEPTHS, None) if git.shallow_commits else (None,):
        how = [f"--depth={depth}"] if depth else ["--unshallow"] if git.shallow_commits else []
        git.run("fetch", *_QUIETLY, *how, "--", remote, base, head)
        found = git.merge_base(base, head)
        if found is not None:
            return found
    raise FatalError(
        f"{base[:10]} and {head[:10]} have no commit in common",
        hint=f"git log --graph {base[:10]} {head[:10]}",
    )
