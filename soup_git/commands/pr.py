"""`git soup pr`: what a branch does to adapters, on one page that a person can judge.

Everything is read from the two revisions and their notes; no model is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soup_git.commands.datadiff import data_diff
from soup_git.commands.pradapters import Chosen, adapter_changes, with_changes_in_base
from soup_git.core.lockdiff import LockDiff
from soup_git.core.names import check_name
from soup_git.core.prfiles import MAX_FILE_BYTES, parse_deltas, parse_samples
from soup_git.core.prverdict import judge
from soup_git.core.pullrequest import (
    AdapterChange,
    Commit,
    LockState,
    PullRequest,
    Revision,
    slug_of,
)
from soup_git.core.rowdiff import DatasetDiff
from soup_git.errors import FatalError
from soup_git.storage.configdiff import config_changes
from soup_git.storage.datasets import named_datasets
from soup_git.storage.lineage import LineageEntry, lineage
from soup_git.storage.lockdiff import lock_changes
from soup_git.storage.runs import RUNS
from soup_git.storage.workspace import Workspace

_DEFAULT_BASES = (
    "refs/remotes/origin/HEAD", "refs/heads/main", "refs/remotes/origin/main",
    "refs/heads/master", "refs/remotes/origin/master",
)  # fmt: skip


@dataclass(frozen=True)
class PrRequest:
    """What was asked for, as the options spell it."""

    title: str | None = None
    base: str | None = None
    head: str = "HEAD"
    adapter: str | None = None
    deltas: Path | None = None
    samples: Path | None = None
    slug: str | None = None
    base_name: str | None = None
    """What the page calls the base, where it is asked for by its id."""
    head_name: str | None = None


def pull_request(workspace: Workspace, request: PrRequest) -> PullRequest:
    """Compare merge base and head.

    Raises FatalError where there is nothing between them, and no file or adapter is given to
    make a page of.
    """
    if request.slug is not None:
        check_name(request.slug, "page")
    base, head, fork = _ends(workspace, request)
    chosen = Chosen(
        request.adapter,
        None if request.deltas is None
        else (parse_deltas(_read(request.deltas), request.deltas.name), request.deltas.name),
        None if request.samples is None
        else parse_samples(_read(request.samples), request.samples.name),
    )  # fmt: skip
    adapters = adapter_changes(workspace, replace(base, commit=fork), head, chosen)
    adapters = with_changes_in_base(workspace, adapters, base, fork, head)
    locks = lock_changes(workspace, fork, head.commit)
    lock = _lock_state(workspace, head, locks, adapters)
    datasets, unknown = _datasets(workspace, fork, head.commit)
    subject = workspace.git.text("log", "-1", "--format=%s", head.commit, "--")
    asked = (request.title or "").strip()
    title = asked or subject or head.name
    return PullRequest(
        title=title,
        slug=request.slug or _slug(asked, head, title),
        verdict=judge(adapters, lock),
        base=base,
        head=head,
        merge_base=fork,
        commits=int(workspace.git.text("rev-list", "--count", f"{fork}..{head.commit}", "--")),
        adapters=adapters,
        lock=lock,
        config_changes=config_changes(workspace, fork, head.commit),
        lock_changes=locks,
        datasets=datasets,
        datasets_unknown=unknown,
        lineage=[_commit(entry) for entry in lineage(workspace, fork, head.commit)],
        reproduce=_commands(head, adapters),
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError):
        raise FatalError(
            f"there is no file {path}", hint=f"ls {shlex.quote(str(path.parent))}"
        ) from None


# -- the two ends ------------------------------------------------------------------------------


def _ends(workspace: Workspace, request: PrRequest) -> tuple[Revision, Revision, str]:
    """Base, head and their merge base; between the last two lies what is asked to be merged."""
    git = workspace.git
    head = Revision(
        request.head_name or _head_name(workspace, request.head), git.commit(request.head)
    )
    base = _base(workspace, request.base)
    base = replace(base, name=request.base_name or base.name)
    fork = git.merge_base(base.commit, head.commit)
    if fork is None:
        shallow = bool(git.shallow_commits)
        raise FatalError(
            f"{head.name} and {base.name} have no commit in common"
            + (": this clone is shallow" if shallow else ""),
            hint="git fetch --unshallow, then again"
            if shallow
            else "--base REV names another base",
        )
    asks_about_one = request.deltas or request.samples or request.adapter
    if fork == head.commit and not asks_about_one:
        raise FatalError(
            f"{base.name} has all of {head.name} already: there is nothing to review",
            hint="git switch BRANCH, or git soup pr --head BRANCH; --base REV compares with another",
        )
    if fork == head.commit and base.name == head.name:
        base = replace(base, name="baseline")
    return base, head, fork


def _head_name(workspace: Workspace, asked: str) -> str:
    return (workspace.git.head_branch() or "HEAD") if asked == "HEAD" else asked


def _base(workspace: Workspace, asked: str | None) -> Revision:
    git = workspace.git
    if asked is not None:
        return Revision(asked, git.commit(asked))
    for ref in _DEFAULT_BASES:
        commit = git.resolve(ref)
        if commit is not None:
            name = git.text("rev-parse", "--abbrev-ref", ref)
            return Revision(name, commit)
    raise FatalError(
        "what should it be merged into? There is no origin/HEAD, no main and no master",
        hint="git soup pr --base REV",
    )


def _slug(asked: str, head: Revision, title: str) -> str:
    """From the title; without one, from the branch: the next commit on it updates its page."""
    is_branch = not asked and head.name != "HEAD"
    return slug_of(head.name if is_branch else title)


# -- the inputs --------------------------------------------------------------------------------


def _lock_state(
    workspace: Workspace, head: Revision, locks: LockDiff, adapters: Sequence[AdapterChange]
) -> LockState:
    if not locks.head_locked:
        return LockState("drifted" if locks.head_drift else "missing", locks.head_drift, [], [])
    lock = workspace.at(head.commit, head.name).lock
    named = dict(lock.adapters) if lock is not None else {}
    strays = [a.path for a in adapters if a.weights and named.get(a.path, a.weights) != a.weights]
    not_pinned = [pin.pin for pin in locks.pins if pin.new is None]
    not_pinned += [p for p, sha in lock.inputs.items() if sha is None] if lock is not None else []
    state = "drifted" if locks.head_drift or strays else "not pinned" if not_pinned else "holds"
    return LockState(state, locks.head_drift, not_pinned, strays)


def _datasets(workspace: Workspace, fork: str, head: str) -> tuple[list[DatasetDiff], str]:
    if not any(named_datasets(workspace.at(commit)) for commit in (fork, head)):
        return [], ""
    try:
        return data_diff(workspace, fork, head).datasets, ""
    except FatalError as error:
        return [], str(error).split("\n")[0]


def _commit(entry: LineageEntry) -> Commit:
    runs = [made.run for made in entry.adapters if made.run and made.run.startswith(RUNS)]
    return Commit(
        entry.commit, entry.author, entry.date, entry.subject, entry.touched,
        sorted({f"run/{run.removeprefix(RUNS)}" for run in runs}), entry.trailers,
    )  # fmt: skip


def _commands(head: Revision, adapters: Sequence[AdapterChange]) -> list[str]:
    """Three commands from a clone to the same bytes, for each adapter that can be rebuilt."""
    rebuilt = [a.reproduction.command for a in adapters if a.reproduction.command]
    start = [f"git switch --detach {head.commit}", "git soup checkout"]
    return [*start, *(rebuilt or [])]
