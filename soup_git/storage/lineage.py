"""Where what a branch changed comes from: its commits, their trailers, runs and merge recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soup_git.core.lock import LOCK
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.storage.datasets import dataset_paths
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.lockdrift import config_path, lock_of
from soup_git.storage.pathhistory import MANIFESTS, PINNED, CommitFacts, path_history
from soup_git.storage.provenance import manifest_headers, runs_by_weights
from soup_git.storage.runs import LOCKS, RUNS
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

KINDS = ("adapter", "config", "data", "lock")
MOST = 500


@dataclass(frozen=True)
class AdapterOrigin:
    """An adapter as a commit left it, and what made its weights."""

    path: str
    weights_md5: str | None
    """None: the commit removed it, or its manifest cannot be read."""
    run: str | None
    """The run that ended with these weights: `refs/soup/runs/ID` or `refs/soup/locks/RUN`."""
    recipe: list[str]
    """The manifest's recipe lines; empty unless it was merged."""


@dataclass(frozen=True)
class LineageEntry:
    """One commit that touched an adapter, the config, the data or the lock."""

    commit: str
    parents: list[str]
    author: str
    date: str
    """The author's, ISO 8601."""
    subject: str
    touched: list[str]
    """Some of adapter, config, data, lock, in this order."""
    adapters: list[AdapterOrigin]
    """Those that the commit touched."""
    trailers: dict[str, str]
    """Soup-Config, Soup-Dataset, Soup-Base-Model, Soup-Version, where the message has them."""


def lineage(workspace: Workspace, base: str, head: str, *, limit: int = MOST) -> list[LineageEntry]:
    """The commits of `base..head` that touched what is versioned here, children first.

    At most `limit`, the newest. Texts are as people wrote them: not safe to show
    unescaped. Raises `FatalError` for what names no commit.
    """
    git = workspace.git
    ends = [git.commit(base), git.commit(head)]
    watched = _Watched.of([workspace.at(end) for end in ends])
    history = path_history(git, [ends[1], f"^{ends[0]}"], watched.pathspecs(), limit)
    manifests = [c for commit in history.commits for c in commit.changes if _is_manifest(c.path)]
    headers = manifest_headers(git, sorted({c.new for c in manifests if c.new.strip("0")}))
    runs = runs_by_weights(git, LOCKS, "refs/soup-remotes/*/runs/", RUNS) if headers else {}
    return [_entry(facts, watched, headers, runs) for facts in history.commits]


@dataclass(frozen=True)
class _Watched:
    """The paths that count, as either end names them."""

    configs: frozenset[str]
    data: frozenset[str]

    @classmethod
    def of(cls, snapshots: Sequence[Snapshot]) -> _Watched:
        data = {path for snapshot in snapshots for path in dataset_paths(snapshot).values()}
        locks = [lock for lock, _ in map(lock_of, snapshots) if lock is not None]
        inputs = {path for lock in locks for path in lock.inputs} - data
        return cls(
            configs=frozenset({CONFIG_FILE, *map(config_path, snapshots), *inputs}),
            data=frozenset(data | {f"{path}{POINTER_SUFFIX}" for path in data}),
        )

    def pathspecs(self) -> list[str]:
        literal = [f":(top,literal){path}" for path in sorted({LOCK, *self.configs, *self.data})]
        names = (CONFIG, f"{WEIGHTS}{POINTER_SUFFIX}")
        return [MANIFESTS, *(f":(top,glob)**/{name}" for name in names), *literal]

    def kind(self, path: str) -> str:
        if path == LOCK:
            return "lock"
        if path in self.configs:
            return "config"
        is_data = path in self.data or any(path.startswith(f"{folder}/") for folder in self.data)
        return "data" if is_data else "adapter"


def _entry(
    facts: CommitFacts, watched: _Watched, headers: Mapping[str, Manifest], runs: Mapping[str, str]
) -> LineageEntry:
    kinds = {watched.kind(change.path) for change in facts.changes}
    adapters = []
    for change in facts.changes:
        if _is_manifest(change.path):
            header = headers.get(change.new)
            md5 = header.weights_md5 if header else None
            recipe = list(header.recipe) if header else []
            folder = change.path.rpartition("/")[0] or "."
            adapters.append(AdapterOrigin(folder, md5, runs.get(md5 or ""), recipe))
    return LineageEntry(
        commit=facts.commit,
        parents=list(facts.parents),
        author=facts.author,
        date=facts.date,
        subject=facts.subject,
        touched=[kind for kind in KINDS if kind in kinds],
        adapters=adapters,
        trailers={name: facts.trailers[name] for name in PINNED if name in facts.trailers},
    )


def _is_manifest(path: str) -> bool:
    return path.rpartition("/")[2] == MANIFEST
