"""`git soup pull`: commits, runs, locks and notes of a remote, then the data and weights of HEAD.

Objects come before the branch moves, so that HEAD never names what nobody here can get.
No ref of ours moves but forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.commands.checkout import complete_work_tree, follow
from soup_git.commands.fetching import Fetched, fetch_missing
from soup_git.core.text import counted, printable
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table, say
from soup_git.storage import gitremote
from soup_git.storage.exchange import (
    Meeting,
    copies,
    meetings,
    notes_copy,
    refspecs,
    remote_named,
    renamed,
)
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.notes import merge_notes
from soup_git.storage.versions import named_objects
from soup_git.storage.workspace import Workspace

_ATTEMPTS = 5
_SHOWN = 5


@dataclass(frozen=True)
class RefPulled:
    ref: str
    state: str
    """new, moved, diverged, unusable, or kept."""
    why: str


@dataclass(frozen=True)
class PullReport:
    schema: ClassVar[str] = "soup.pull/1"
    remote: str
    branch: str | None
    how: str
    """up to date, fast-forwarded, merged, rebased, conflict, ahead, or no counterpart."""
    old: str | None
    new: str | None
    notes_merged: bool
    refs: list[RefPulled]
    objects_fetched: int

    def tables(self) -> Sequence[Table | str]:
        moved = f" {(self.old or '')[:10]}..{(self.new or '')[:10]}" if self.old != self.new else ""
        lines: list[Table | str] = [
            f"{self.branch or 'HEAD'}: {self.how}{moved}",
            *(["notes: brought in from " + self.remote] if self.notes_merged else []),
        ]
        if self.objects_fetched:
            lines.append(f"{counted(self.objects_fetched, 'object')} fetched from the DVC remote")
        rows = [(ref.state, ref.ref, ref.why) for ref in self.refs]
        return [*lines, Table(("", "", ""), rows)] if rows else lines


def pull(
    workspace: Workspace, remote: str | None, *, every_object: bool
) -> tuple[PullReport, ExitCode]:
    git = workspace.git
    name = remote_named(git, remote, push=False)
    seen = git.refs(copies(name))
    gitremote.fetch(git, name, refspecs(name), beside=True)
    notes = merge_notes(git, notes_copy(name))
    refs = _adopt(workspace, name, seen)
    branch, old = git.head_branch(), git.resolve("HEAD")
    upstream = _upstream(workspace, name, branch)
    fetched = _objects(workspace, old, upstream)
    how = _move(workspace, name, branch, old, upstream)
    if how != "conflict":
        fetched += _materialise(workspace, old)
    if every_object:
        fetched += _every_object(workspace)
    new = git.resolve("HEAD")
    report = PullReport(name, branch, how, old, new, notes, refs, fetched)
    bad = how == "conflict" or any(ref.state in {"diverged", "kept"} for ref in refs)
    return report, ExitCode.CHECK_FAILED if bad else ExitCode.OK


# -- refs of ours -------------------------------------------------------------------------------


def _adopt(workspace: Workspace, remote: str, seen: Mapping[str, str]) -> list[RefPulled]:
    """Take over what only the remote has, and move forward what it moved forward."""
    git = workspace.git
    for attempt in range(_ATTEMPTS):
        met = meetings(git, remote)
        pairs = [(m, _decided(m, seen.get(copies(remote) + m.ref.removeprefix("refs/soup/")))) for m in met]  # fmt: skip
        found = [(m, pulled) for m, pulled in pairs if pulled is not None]
        updates = [_update(m) for m, pulled in found if pulled.state in {"new", "moved"}]
        try:
            git.update_refs(updates, f"git soup pull {remote}")
        except FatalError:
            if attempt == _ATTEMPTS - 1:
                return _one_by_one(workspace, remote, found)
            continue  # another process of ours moved one of them: look again
        break
    for _, pulled in found:
        _say(pulled)
    return [pulled for _, pulled in found]


def _update(m: Meeting) -> RefUpdate:
    return RefUpdate(m.ref, str(m.there), m.here)


def _decided(m: Meeting, seen: str | None) -> RefPulled | None:
    match m.relation:
        case "only there":
            return RefPulled(m.ref, "new", "")
        case "behind":
            return RefPulled(m.ref, "moved", "")
        case "diverged":
            return RefPulled(m.ref, "diverged", "another one on the remote; ours stays")
        case "unusable":
            return RefPulled(m.ref, "unusable", m.why)
        case "theirs first":
            # The first that was published wins; one that was published is never replaced.
            if m.here == seen:
                return RefPulled(m.ref, "kept", "the remote replaced it, and a lock is for ever")
            return RefPulled(m.ref, "moved", "run elsewhere first")
        case _:
            return None


def _one_by_one(
    workspace: Workspace, remote: str, found: Iterable[tuple[Meeting, RefPulled]]
) -> list[RefPulled]:
    """One name that cannot stand beside ours must not keep the others out."""
    result = []
    for m, pulled in found:
        if pulled.state in {"new", "moved"}:
            try:
                workspace.git.update_refs([_update(m)], f"git soup pull {remote}")
            except FatalError as error:
                pulled = RefPulled(m.ref, "unusable", str(error).split("\n")[0])  # noqa: PLW2901
        _say(pulled)
        result.append(pulled)
    return result


def _say(pulled: RefPulled) -> None:
    if pulled.state == "unusable":
        say(f"warning: {printable(pulled.ref)} of the remote was left there: {pulled.why}")
    elif pulled.state in {"diverged", "kept"}:
        say(f"warning: {pulled.ref}: {pulled.why}")
    if pulled.state == "diverged":
        say(f"hint: {renamed(pulled.ref)}")


# -- the branch -----------------------------------------------------------------------------------


def _upstream(workspace: Workspace, remote: str, branch: str | None) -> str | None:
    """The commit that the branch follows on `remote`: as configured, else of the same name."""
    git = workspace.git
    if branch is None:
        say("note: HEAD is on no branch; nothing is pulled into it")
        return None
    if remote in git.config_values(f"branch.{branch}.remote"):
        found = git.resolve(f"{branch}@{{upstream}}")
        if found is not None:
            return found
    return git.refs(f"refs/remotes/{remote}/{branch}").get(f"refs/remotes/{remote}/{branch}")


def _objects(workspace: Workspace, old: str | None, upstream: str | None) -> int:
    """Get what the commit that HEAD will move to names, before it moves; raises what is nowhere."""
    if upstream is None or upstream == old:
        return 0
    git = workspace.git
    wanted = {upstream}
    if old is not None and not git.is_ancestor(old, upstream):
        if git.is_ancestor(upstream, old):
            return 0
        base = git.merge_base(old, upstream)
        wanted |= {base} if base else set()  # a merge driver starts from there
    named = {
        output.md5: f"{commit[:10]}:{output.source}"
        for commit in wanted
        for output in workspace.at(commit).outputs.values()
    }
    found = _fetch(workspace, named)
    missing = found.missing
    if missing:
        listed = "".join(f"\n  md5:{md5}  {named[md5]}" for md5 in missing[:_SHOWN])
        more = f"\n  … {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise FatalError(
            f"HEAD was not moved: {counted(len(missing), 'object')} of the pulled commits are neither here nor"
            f" in the DVC remote:{listed}{more}",
            hint="git soup push in the clone that has them; git pull takes the commits alone",
        )
    return found.came


def _fetch(workspace: Workspace, md5s: Iterable[str]) -> Fetched:
    found = fetch_missing(workspace, md5s)
    for bad in {bad for objects in found.damaged.values() for bad in objects}:
        say(f"warning: md5:{bad} has other bytes in the DVC remote, and was not taken")
    return found


def _move(
    workspace: Workspace, remote: str, branch: str | None, old: str | None, upstream: str | None
) -> str:
    """Bring the branch to `upstream` as git's configuration says; how it went."""
    git = workspace.git
    if upstream is None:
        return "no counterpart"
    if upstream == old:
        return "up to date"
    if old is None or git.is_ancestor(old, upstream):
        git.integrate(["merge", "--ff-only", "--quiet", upstream])
        return "fast-forwarded"
    if git.is_ancestor(upstream, old):
        return "ahead"
    rebase = _setting(workspace, f"branch.{branch}.rebase") or _setting(workspace, "pull.rebase")
    only_forward = _setting(workspace, "pull.ff") == "only"
    if rebase in {None, "false"} and (rebase is None or only_forward):
        raise FatalError(
            f"{branch} and {remote}'s have both moved on",
            hint=f"git merge {remote}/{branch}, or git rebase {remote}/{branch};"
            " git config pull.rebase false (or true) lets git soup pull do so",
        )
    if rebase == "false":
        words = ["merge", "--no-edit", upstream]
    else:
        words = ["rebase", *(["--rebase-merges"] if rebase == "merges" else []), upstream]
    if git.integrate(words, conflicts=True):
        return "merged" if rebase == "false" else "rebased"
    say(f"hint: git status tells what is in conflict; git {words[0]} --abort goes back")
    return "conflict"


def _setting(workspace: Workspace, key: str) -> str | None:
    values = workspace.git.config_values(key)
    return values[-1].lower() if values else None


def _materialise(workspace: Workspace, old: str | None) -> int:
    """The work tree as HEAD has it now; local changes stay and are named."""
    moved = Workspace(workspace.git)
    new = moved.git.resolve("HEAD")
    if new is None:
        return 0
    if new != old:
        follow(moved, old, new)
    return complete_work_tree(Workspace(workspace.git))


def _every_object(workspace: Workspace) -> int:
    """What all branches and runs name, for a clone that goes offline."""
    tips = workspace.git.refs("refs/heads", "refs/soup", "refs/tags").values()
    named, _ = named_objects(workspace.git, tips)
    found = _fetch(workspace, named)
    for md5 in found.missing:
        say(f"warning: md5:{md5} ({named[md5].where}) is neither here nor in the DVC remote")
    return found.came
