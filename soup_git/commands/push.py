"""`git soup push`: objects first, then branch, runs, locks and notes in one atomic push."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.text import counted, printable
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table, say, size
from soup_git.storage import gitremote
from soup_git.storage.exchange import (
    LOCKS,
    Meeting,
    meetings,
    notes_copy,
    refspecs,
    remote_named,
    renamed,
)
from soup_git.storage.gitremote import PushedRef
from soup_git.storage.notes import NOTES, merge_notes
from soup_git.storage.versions import Named, named_objects
from soup_git.storage.workspace import Workspace

_ATTEMPTS = 8
"""So often somebody else may push notes or runs while we do, before we give up."""


@dataclass(frozen=True)
class RefPushed:
    ref: str
    state: str
    """new, moved, up to date, or, where the remote's stays: behind, diverged, theirs first."""
    old: str | None
    new: str


@dataclass(frozen=True)
class PushReport:
    schema: ClassVar[str] = "soup.push/1"
    remote: str
    dvc_remote: str | None
    objects_sent: int
    bytes_sent: int
    objects_elsewhere: list[str]
    """Named by commits that the remote has already, and neither here nor in the DVC remote."""
    refs: list[RefPushed]

    @property
    def is_complete(self) -> bool:
        return not any(ref.state in {"diverged", "theirs first"} for ref in self.refs)

    def tables(self) -> Sequence[Table | str]:
        lines: list[Table | str] = []
        if self.objects_sent:
            sent = f"{counted(self.objects_sent, 'object')} ({size(self.bytes_sent)})"
            lines.append(f"{sent} sent to the DVC remote {self.dvc_remote}")
        rows = [
            (ref.state, ref.ref, ref.new[:10]) for ref in self.refs if ref.state != "up to date"
        ]
        if not rows:
            return [*lines, f"{self.remote}: everything up to date"]
        return [*lines, Table(("", "", ""), rows, before=f"pushed to {self.remote}")]


def push(
    workspace: Workspace,
    remote: str | None,
    *,
    every_branch: bool,
    recheck: bool,
    heads: dict[str, str] | None = None,
) -> tuple[PushReport, ExitCode]:
    """`heads`: branch ref -> commit, instead of the current branch or all of them."""
    name = remote_named(workspace.git, remote, push=True)
    if recheck:
        workspace.dvc_remote.forget()
    if heads is None:
        heads = _heads(workspace, every_branch=every_branch)
    objects = _Objects(workspace, name)
    refs = _push_refs(workspace, name, heads, objects)
    gone = sorted(item.md5 for item in objects.gone)
    report = PushReport(name, workspace.dvc_remote.name, objects.sent, objects.size, gone, refs)
    return report, ExitCode.OK if report.is_complete else ExitCode.CHECK_FAILED


def _heads(workspace: Workspace, *, every_branch: bool) -> dict[str, str]:
    git = workspace.git
    heads = git.refs("refs/heads")
    if every_branch:
        return heads
    branch = git.head_branch()
    if branch is None:
        say("note: HEAD is on no branch; only runs, locks and notes are pushed")
        return {}
    return {ref: oid for ref, oid in heads.items() if ref == f"refs/heads/{branch}"}


# -- objects ------------------------------------------------------------------------------------


class _Objects:
    """Sends what commits name, and counts."""

    def __init__(self, workspace: Workspace, remote: str) -> None:
        self._workspace = workspace
        self._remote = remote
        self.sent = 0
        self.size = 0
        self.gone: set[Named] = set()

    def send(self, tips: Collection[str]) -> None:
        """Send what the DVC remote lacks of all that `tips` reach; raises when it cannot."""
        workspace, there = self._workspace, self._workspace.dvc_remote
        known = workspace.git.present(there.complete()) if there.name is not None else []
        named, unread = named_objects(workspace.git, tips, known)
        for line in unread:
            say(f"note: left out, as it cannot be read: {line}")
        if not named and there.name is None:
            return
        there.require()
        lacking = there.lacking(named)
        sent = sorted(md5 for md5 in lacking if workspace.dvc.has(md5))
        gone = {named[md5] for md5 in lacking.difference(sent)}
        _refuse_gone(workspace, self._remote, tips, gone)
        _refuse_damaged(workspace, [named[md5] for md5 in sent])
        if sent:
            total = sum(workspace.dvc.size_of(md5) for md5 in sent)
            say(
                f"sending {counted(len(sent), 'object')} ({size(total)}) to the DVC remote {there.name}"
            )
            there.push(sent)
            self.sent += len(sent)
            self.size += total
        if not gone:
            there.remember([], tips)
        self.gone |= gone


def _refuse_gone(
    workspace: Workspace, remote: str, tips: Collection[str], gone: Collection[Named]
) -> None:
    """What nobody has is an error in commits that are ours to publish, else a word of warning."""
    if not gone:
        return
    new = _new_commits(workspace, remote, tips)
    gone = sorted(gone, key=lambda item: item.where)
    lost = [item for item in gone if item.commit in new]
    for item in gone:
        if item.commit not in new:
            say(f"warning: md5:{item.md5} ({item.where}) is neither here nor in the DVC remote")
    if lost:
        listed = "".join(f"\n  md5:{item.md5}  {item.where}" for item in lost)
        raise FatalError(
            f"nothing was pushed: these objects are neither here nor in the DVC remote:{listed}",
            hint="git soup push in the clone that has them; git push --no-verify publishes the"
            " commits without them",
        )


def _new_commits(workspace: Workspace, remote: str, tips: Collection[str]) -> set[str]:
    """What `tips` reach and no copy of a ref of `remote` does."""
    known = [f"refs/remotes/{remote}/", f"refs/soup-remotes/{remote}/"]
    without = [f"^{oid}" for oid in workspace.git.refs(*known).values()]
    asked = "\n".join([*tips, *without, ""])
    listed = workspace.git.run("rev-list", "--stdin", input=asked.encode()).stdout
    return set(listed.decode().split())


def _refuse_damaged(workspace: Workspace, items: Sequence[Named]) -> None:
    for item in items:
        bad = workspace.damaged_objects(item.md5)
        if bad:
            place = shlex.quote(str(workspace.dvc.object_path(bad[0])))
            raise FatalError(
                f"nothing was pushed: the cache object md5:{bad[0]} ({item.where}) has other bytes",
                hint=f"rm {place}, then git soup checkout or git soup add; git soup fsck lists all",
            )


# -- refs -----------------------------------------------------------------------------------------


def _push_refs(
    workspace: Workspace, remote: str, heads: dict[str, str], objects: _Objects
) -> list[RefPushed]:
    """One atomic push; again, after bringing in what others pushed meanwhile."""
    git = workspace.git
    refused: list[PushedRef] = []
    before: dict[str, str] = {}
    for _ in range(_ATTEMPTS):
        gitremote.fetch(git, remote, refspecs(remote), prune=True)
        merge_notes(git, notes_copy(remote))
        met = meetings(git, remote)
        wanted = [m for m in met if m.relation in {"only here", "ahead"}]
        # The values that were compared, not what a training makes of its ref meanwhile.
        objects.send({*heads.values(), *(str(m.here) for m in wanted)})
        notes, notes_there = git.refs(NOTES).get(NOTES), git.resolve(notes_copy(remote))
        if notes is not None and notes != notes_there:
            wanted.append(Meeting(NOTES, notes, notes_there, "ahead"))
        specs = [f"{oid}:{ref}" for ref, oid in heads.items()]
        specs += [f"{m.here}:{m.ref}" for m in wanted]
        if not specs:
            refused = []
            break
        before = git.refs(f"refs/remotes/{remote}/")
        refused = gitremote.push(git, remote, specs, {m.ref: m.there for m in wanted})
        if not refused:
            break
        _refuse_for_good(remote, refused)
    if refused:
        listed = ", ".join(f"{printable(r.ref)} {printable(r.why)}" for r in refused)
        raise FatalError(
            f"{remote} moved while we pushed, {_ATTEMPTS} times: {listed}", hint="git soup push"
        )
    done = [
        _head_pushed(
            ref, oid, before.get(f"refs/remotes/{remote}/{ref.removeprefix('refs/heads/')}")
        )
        for ref, oid in heads.items()
    ]
    done += [RefPushed(m.ref, "moved" if m.there else "new", m.there, str(m.here)) for m in wanted]
    return done + _left(met)


def _head_pushed(ref: str, oid: str, before: str | None) -> RefPushed:
    state = "up to date" if before == oid else "moved" if before else "new"
    return RefPushed(ref, state, before, oid)


def _left(met: Sequence[Meeting]) -> list[RefPushed]:
    """What stays as the remote has it, and is said."""
    left = []
    for m in met:
        if m.relation not in {"behind", "diverged", "theirs first"}:
            continue
        left.append(RefPushed(m.ref, m.relation, m.there, str(m.here)))
        if m.relation == "behind":
            say(f"note: the remote's {m.ref} is newer; git soup pull brings it")
        elif m.relation == "theirs first":
            say(f"note: {m.ref.removeprefix(LOCKS)[:12]}… was run elsewhere first; git soup pull")
        else:
            say(f"warning: {m.ref} is another one on the remote, and was not pushed")
            say(f"hint: {renamed(m.ref)}")
    return left


_BEHIND = ("fetch first", "non-fast-forward")
_PASSING = ("stale info", "cannot lock ref", "failed to update ref", "failed to lock", "reference already exists", "incorrect old value")  # fmt: skip


def _refuse_for_good(remote: str, refused: Sequence[PushedRef]) -> None:
    """Raise for a refusal that a second try would meet again."""
    causes = [r for r in refused if "atomic" not in r.why]
    for cause in causes:
        ref = printable(cause.ref.removeprefix("refs/heads/"))
        if cause.ref.startswith("refs/heads/") and any(word in cause.why for word in _BEHIND):
            raise FatalError(
                f"nothing moved on {remote}: {ref} has commits there that are not here",
                hint=f"git soup pull {remote}, then git soup push {remote}",
            )
        if not any(word in cause.why for word in (*_BEHIND, *_PASSING)):
            raise FatalError(
                f"nothing moved on {remote}: it refuses {ref}: {printable(cause.why)}",
                hint=f"git push {remote} {ref} shows all that it says",
            )
