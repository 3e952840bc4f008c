"""Our refs here and on a remote: what each side has, and what may move where.

Copies of a remote's refs lie under `refs/soup-remotes/REMOTE/`, its notes under
`refs/notes/REMOTE/`. Whoever can push there chooses the names, so only those that the
contract allows are ever taken over, and no ref of ours moves but forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soup_git.core.names import check_name
from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import NOTES

OURS = "refs/soup/"
LOCKS = "refs/soup/locks/"
_DEEPEST = 3

Relation = Literal[
    "same", "only here", "only there", "ahead", "behind", "diverged", "theirs first", "unusable"
]


@dataclass(frozen=True)
class Meeting:
    """One ref of ours, here and there."""

    ref: str
    here: str | None
    there: str | None
    relation: Relation
    why: str = ""


def copies(remote: str) -> str:
    return f"refs/soup-remotes/{remote}/"


def notes_copy(remote: str) -> str:
    return f"refs/notes/{remote}/{NOTES.removeprefix('refs/notes/')}"


def refspecs(remote: str) -> list[str]:
    """What `git soup init` configures to be fetched, for a remote that was added later."""
    # The `*` after `soup` keeps a remote without such notes from failing the fetch.
    return [f"+{OURS}*:{copies(remote)}*", f"+{NOTES}*:{notes_copy(remote)}*"]


def remote_named(git: GitRepo, name: str | None, *, push: bool) -> str:
    """The remote to speak to: the named one, else the one that git itself would take."""
    remotes = git.remotes()
    if name is not None:
        if name not in remotes:
            raise FatalError(
                f"there is no remote {name!r}",
                hint=f"git remote add {_plain(name)} URL; git remote",
            )
        return name
    branch = git.head_branch()
    keys = [f"branch.{branch}.pushRemote", "remote.pushDefault"] if push else []
    for key in [*keys, f"branch.{branch}.remote"]:
        for value in reversed(git.config_values(key)):
            if value in remotes:
                return value
    if len(remotes) == 1:
        return remotes[0]
    if "origin" in remotes:
        return "origin"
    if remotes:
        verb = "push" if push else "pull"
        raise FatalError(
            f"there are {len(remotes)} remotes: {', '.join(remotes)}",
            hint=f"git soup {verb} {remotes[0]}",
        )
    raise FatalError("this repository has no remote", hint="git remote add origin URL")


def _plain(name: str) -> str:
    return name if name.isidentifier() else "NAME"


def meetings(git: GitRepo, remote: str) -> list[Meeting]:
    """Every ref under refs/soup, here or in the copies of `remote`."""
    prefix = copies(remote)
    here = git.typed_refs(OURS)
    there = {OURS + ref.removeprefix(prefix): v for ref, v in git.typed_refs(prefix).items()}
    return [
        _meeting(git, ref, here.get(ref, (None, ""))[0], there.get(ref))
        for ref in sorted(here.keys() | there.keys())
    ]


def _meeting(git: GitRepo, ref: str, here: str | None, other: tuple[str, str] | None) -> Meeting:
    if other is None:
        return Meeting(ref, here, None, "only here")
    there, kind = other
    if here == there:
        return Meeting(ref, here, there, "same")
    why = _unusable(ref, kind)
    if why:
        return Meeting(ref, here, there, "unusable", why)
    if here is None:
        return Meeting(ref, None, there, "only there")
    if ref.startswith(LOCKS):
        return Meeting(ref, here, there, "theirs first")
    if git.is_ancestor(there, here):
        return Meeting(ref, here, there, "ahead")
    if git.is_ancestor(here, there):
        return Meeting(ref, here, there, "behind")
    return Meeting(ref, here, there, "diverged")


def _unusable(ref: str, kind: str) -> str:
    """Why a ref of a remote is not taken over; empty when it may be."""
    if kind != "commit":
        return f"it is a {kind}, not a commit"
    parts = ref.removeprefix(OURS).split("/")
    if not 2 <= len(parts) <= _DEEPEST:
        return "it is in no room of refs/soup"
    try:
        for part in parts:
            check_name(part, "ref")
    except FatalError as error:
        return str(error).rpartition(": ")[2]
    return ""


def renamed(ref: str) -> str:
    """How to keep a ref of ours whose name somebody else took: what to type."""
    name = printable(ref)
    return f"git update-ref {name}-mine {name} && git update-ref -d {name}, then git soup pull and push"
