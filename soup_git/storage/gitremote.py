"""What goes to another repository and comes from there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soup_git.storage.gitrepo import GitRepo


@dataclass(frozen=True)
class PushedRef:
    """A ref that a remote refused, in git's words."""

    ref: str
    why: str


def fetch(
    git: GitRepo, remote: str, refspecs: Sequence[str], *, prune: bool = False, beside: bool = False
) -> None:
    """Fetch `refspecs`, alone or `beside` those that the remote is configured with.

    `prune` forgets the copies of what the remote no longer has, below these refspecs only.
    """
    if beside:
        key = f"remote.{remote}.fetch"
        known = git.config_values(key)
        new = [f"{key}={spec}" for spec in refspecs if spec not in known]
        git.talk(*(word for value in new for word in ("-c", value)), "fetch", "--", remote)
        return
    flags = ["--no-tags", "--no-write-fetch-head", *(["--prune"] if prune else [])]
    git.talk("fetch", *flags, "--", remote, *refspecs)


def push(
    git: GitRepo, remote: str, refspecs: Sequence[str], leases: Mapping[str, str | None]
) -> list[PushedRef]:
    """`git push --atomic`; returns what was refused, and nothing when all went through.

    `leases`: ref -> the value that it has there (None: it must not exist yet). Raises
    when the remote could not be spoken to.
    """
    guards = [f"--force-with-lease={ref}:{oid or ''}" for ref, oid in leases.items()]
    done = git.talk(
        "push", "--atomic", "--porcelain", *guards, "--", remote, *refspecs, check=False
    )
    refused = _refused(done.stdout)
    if done.returncode and not refused:
        raise git.failure(["push"], done, f"git ls-remote {remote}, to see whether it answers")
    return refused


def _refused(printed: bytes) -> list[PushedRef]:
    """Of `git push --porcelain`."""
    return [
        PushedRef(names.partition(":")[2], why)
        for line in os.fsdecode(printed).split("\n")
        if line.startswith("!\t")
        for _, names, why in [line.split("\t", 2)]
    ]
