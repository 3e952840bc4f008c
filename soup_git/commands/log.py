"""`git soup log`: the history of adapters: what was trained, added, merged, and how it scored.

The commits are those that changed an adapter's manifest or the lock; everything between
them is simplified away by git itself, which also draws the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from soup_git.core.lock import LOCK
from soup_git.core.manifest import MANIFEST, WEIGHTS, Manifest
from soup_git.core.notes import EvalRecord, latest
from soup_git.core.spec import FolderSpec, RevisionSpec, RunSpec
from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.render.report import Table
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import read_notes
from soup_git.storage.pathhistory import (
    MANIFESTS,
    CommitFacts,
    DrawnLine,
    FileChange,
    decorations,
    former_names,
    path_history,
)
from soup_git.storage.provenance import manifest_headers, runs_by_weights
from soup_git.storage.resolver import locate, reading_of
from soup_git.storage.runs import RUNS
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace

_LISTED = ("refs/heads", "refs/tags", "refs/remotes")
_SHOWN = 2


@dataclass(frozen=True)
class AdapterStep:
    """What a commit did to one adapter."""

    path: str
    kind: str
    """added, updated, trained, checkpoint, merged, renamed, reconfigured or removed."""
    weights: str | None
    """md5 after the commit; None where it is gone, or its manifest cannot be read."""
    base: str | None
    rank: int | None
    run: str | None
    """The run whose last checkpoint these weights are."""
    renamed_from: str | None


@dataclass(frozen=True)
class LogMetric:
    value: float
    stderr: float | None
    n: int | None


@dataclass(frozen=True)
class LogCommit:
    commit: str
    parents: list[str]
    author: str
    date: str
    subject: str
    kind: str
    """The adapters' kind where they share one, else `changed`; branched or pinned without any."""
    step: int | None
    """Of a checkpoint."""
    adapters: list[AdapterStep]
    refs: list[str]
    metrics: dict[str, LogMetric]
    """Of the latest evaluation noted at the commit, or at a manifest that it made."""
    evaluated: str
    """The same in a few words."""

    @property
    def what(self) -> str:
        names = [step.path for step in self.adapters]
        more = f" +{len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        words = [self.kind, ", ".join(names[:_SHOWN]) + more]
        words.append("" if self.step is None else f"step {self.step}")
        runs = {step.run for step in self.adapters if step.run}
        words.append(f"(run/{min(runs)})" if runs else "")
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class LogReport:
    schema: ClassVar[str] = "soup.log/1"
    commits: list[LogCommit]
    """Children before parents, which are the nearest ancestors in this list."""
    graph: list[str] = field(default_factory=list)
    """Lines as `--graph` or `--oneline` prints them; empty without."""

    def tables(self) -> Sequence[Table | str]:
        if not self.commits:
            return ["no commit here changed an adapter yet"]
        if self.graph:
            return self.graph
        rows = [
            (c.commit[:7], c.date[:10], c.author, c.what, c.evaluated, ", ".join(c.refs))
            for c in self.commits
        ]
        return [Table(("commit", "date", "author", "what", "last eval", "refs"), rows)]


@dataclass(frozen=True)
class LogRequest:
    spec: str | None = None
    """An adapter spec or a range; None is HEAD."""
    everywhere: bool = False
    graph: bool = False
    limit: int | None = None
    oneline: bool = False


def log(workspace: Workspace, request: LogRequest) -> LogReport:
    """The commits that changed adapters. Raises `FatalError` for what names nothing."""
    git = workspace.git
    revisions, paths = _scope(workspace, request)
    history = path_history(git, revisions, paths, request.limit)
    told = _Told(workspace, history.commits)
    commits = [told.commit(facts) for facts in history.commits]
    drawn = history.drawn if request.graph else [DrawnLine("", c.commit) for c in commits]
    if request.oneline:
        drawn = [line for line in drawn if not line.is_detail]
    return LogReport(commits, _drawn(drawn, commits) if request.graph or request.oneline else [])


def _scope(workspace: Workspace, request: LogRequest) -> tuple[list[str], list[str]]:
    """What to walk from, and the paths that count."""
    git, spec = workspace.git, request.spec
    folder = None
    if spec is None:
        start = [] if request.everywhere else [git.commit("HEAD")]
    elif ".." in spec and not spec.startswith((".", "/", "-")):
        start = git.lines("rev-parse", "--revs-only", "--end-of-options", spec)
        if len(start) < 2:
            raise FatalError(f"{spec!r} is no range of commits here", hint="git log A..B")
    else:
        commit, folder = _place(workspace, spec)
        start = [commit]
    if request.everywhere:
        start = [*start, "--branches", "--tags", "--remotes"]
    if folder is None:
        return start, [MANIFESTS, f":(top){LOCK}"]
    names = former_names(git, start, inside_folder(folder, MANIFEST))
    return start, [f":(top,literal){name}" for name in names]


def _place(workspace: Workspace, spec: str) -> tuple[str, str | None]:
    """(commit, folder of the adapter); None where a whole revision is meant."""
    match reading_of(workspace, spec):
        case RevisionSpec(revision, None):
            return workspace.git.commit(revision), None
        case FolderSpec():
            return workspace.git.commit("HEAD"), locate(workspace, spec)[1]
        case RevisionSpec() | RunSpec():
            commit, folder = locate(workspace, spec)
            return commit or workspace.git.commit("HEAD"), folder


# -- what a commit did ------------------------------------------------------------------------


class _Told:
    """Everything that the rows need, looked up together: one process for each kind of question."""

    def __init__(self, workspace: Workspace, commits: Sequence[CommitFacts]) -> None:
        git = workspace.git
        blobs = {oid for c in commits for change in _manifests(c) for oid in _sides(change)}
        self._headers = manifest_headers(git, sorted(blobs))
        self._runs = runs_by_weights(git, RUNS)
        self._pointers = _pointers(git, commits)
        self._refs = decorations(git, _LISTED)
        self._head, self._branch = git.resolve("HEAD"), git.head_branch()
        self._notes = read_notes(git, [*(c.commit for c in commits), *blobs])

    def commit(self, facts: CommitFacts) -> LogCommit:
        steps = [self._step(facts, change) for change in _manifests(facts)]
        kinds = {step.kind for step in steps}
        record = self._evaluated(facts)
        metrics = {
            name: LogMetric(m.value, m.stderr, m.n)
            for name, m in (record.metrics if record else {}).items()
        }
        number = facts.trailers.get("Soup-Step", "")
        return LogCommit(
            commit=facts.commit,
            parents=list(facts.parents),
            author=facts.author,
            date=facts.date,
            subject=facts.subject,
            kind=kinds.pop() if len(kinds) == 1 else "changed" if kinds else _without(facts),
            step=int(number) if number.isdecimal() else None,
            adapters=steps,
            refs=self._names(facts.commit),
            metrics=metrics,
            evaluated=record.summary() if record else "",
        )

    def _step(self, facts: CommitFacts, change: FileChange) -> AdapterStep:
        before, after = self._headers.get(change.old), self._headers.get(change.new)
        rank = after.get("rank") if after else None
        return AdapterStep(
            path=_folder(change.path),
            kind=self._kind(facts, change, before, after),
            weights=after.weights_md5 if after else None,
            base=after.base_model if after else None,
            rank=int(rank) if rank and rank.isdecimal() else None,
            run=self._runs.get(after.weights_md5) if after else None,
            renamed_from=_folder(change.renamed_from) if change.renamed_from else None,
        )

    def _kind(
        self,
        facts: CommitFacts,
        change: FileChange,
        before: Manifest | None,
        after: Manifest | None,
    ) -> str:
        if change.status == "D":
            return "removed"
        is_new = before is None or after is None or before.weights_md5 != after.weights_md5
        if not is_new:
            return "renamed" if change.renamed_from else "reconfigured"
        if "Soup-Step" in facts.trailers:
            return "checkpoint"
        if (after is not None and after.is_merged) or len(facts.parents) > 1:
            return "merged"
        if after is not None and after.weights_md5 in self._runs:
            return "trained"
        if (facts.commit, change.path) not in self._pointers:
            return "trained"  # a stage of dvc.yaml made it: no pointer of its own
        return "added" if before is None else "updated"

    def _names(self, commit: str) -> list[str]:
        names = []
        if commit == self._head:
            names.append(f"HEAD -> {self._branch}" if self._branch else "HEAD")
        for ref in self._refs.get(commit, []):
            room, _, name = ref.removeprefix("refs/").partition("/")
            if not (commit == self._head and room == "heads" and name == self._branch):
                names.append(f"tag: {name}" if room == "tags" else name)
        return names

    def _evaluated(self, facts: CommitFacts) -> EvalRecord | None:
        noted = [*self._notes.get(facts.commit, [])]
        for change in _manifests(facts):
            noted += self._notes.get(change.new, [])
        return latest(noted)


def _without(facts: CommitFacts) -> str:
    """The kind of a commit that changed no adapter: it pinned something, or joined two lines."""
    if len(facts.parents) > 1:
        return "joined"
    return "branched" if "Soup-Config" in facts.trailers else "pinned"


def _manifests(facts: CommitFacts) -> list[FileChange]:
    return [c for c in facts.changes if c.path.rpartition("/")[2] == MANIFEST]


def _sides(change: FileChange) -> list[str]:
    return [oid for oid in (change.old, change.new) if oid.strip("0")]


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or "."


def _pointers(git: GitRepo, commits: Sequence[CommitFacts]) -> set[tuple[str, str]]:
    """The (commit, manifest) with a pointer file of their own beside them."""
    asked = [(c.commit, change.path) for c in commits for change in _manifests(c)]
    names = [
        f"{commit}:{inside_folder(_folder(path), WEIGHTS + POINTER_SUFFIX)}"
        for commit, path in asked
    ]
    ids = git.blob_ids(names) if names else []
    return {place for place, found in zip(asked, ids, strict=True) if found is not None}


# -- how it is drawn --------------------------------------------------------------------------


def _drawn(lines: Sequence[DrawnLine], commits: Sequence[LogCommit]) -> list[str]:
    by_id = {commit.commit: commit for commit in commits}
    out = []
    for line in lines:
        if line.commit is None:
            out.append(line.drawing.rstrip())
        elif line.is_detail:
            commit = by_id[line.commit]
            out.append(f"{line.drawing}{printable(commit.author)}: {printable(commit.subject)}")
        else:
            out.append(line.drawing + _first_line(by_id[line.commit]))
    return out


def _first_line(commit: LogCommit) -> str:
    names = f"({', '.join(commit.refs)})" if commit.refs else ""
    words = [commit.commit[:7], commit.date[:10], commit.what, names]
    if commit.evaluated:
        words.append(f"  {commit.evaluated}")
    return " ".join(printable(word) for word in words if word)
