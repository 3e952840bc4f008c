"""DVC experiments: queued, run by DVC's own workers, and read back at git's speed.

They live in a linked work tree under git's own folder. Queueing writes the config into the
work tree, stashes it and resets the files: the user's own files are not the place for that.
And where `.git/config` has a key twice (a user's own second refspec), DVC's copy of it fails;
in a linked work tree there is no such file to copy. Refs are shared, so `dvc exp show` finds
the results anywhere.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from soup_git.errors import FatalError
from soup_git.storage.dvcrepo import DvcRepo, is_dvc
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.workspace import Workspace

_DONE = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38,62})/(.+)")
_QUEUE = "refs/exps/celery/stash"
_STASHED = re.compile(r"(?:commit: )?dvc-exp:[0-9a-f]+:(?P<baseline>[0-9a-f]+):(?P<name>[^:]+)")
# TaskStatus of dvc.repo.experiments.executor.base: waits, is prepared, runs; has run.
_BEFORE, _COLLECTED_NEXT = {0, 1, 2}, 3


@dataclass(frozen=True)
class Experiment:
    """One experiment. Its commit is the result, or while it waits the stash that it runs from."""

    name: str
    baseline: str
    commit: str
    state: str
    """done, queued, running or failed."""
    log: Path | None = None
    """What its stages said, where they ran on this machine."""


class Experiments:
    """The experiments of a repository, and the work tree in which DVC makes them."""

    def __init__(self, workspace: Workspace) -> None:
        self._git = workspace.git
        self._workspace = workspace
        self.tree = workspace.git.common_dir / "soup" / "sweep"

    @cached_property
    def _dvc(self) -> DvcRepo:
        return DvcRepo(self.tree, self._workspace.dvc.root, self._git.common_dir)

    def prepare(self, baseline: str, untracked: Sequence[str]) -> None:
        """Have the work tree at `baseline`; `untracked` folders of the user's appear in it."""
        # Hooks would restore weights that nothing here needs.
        quiet = ("-c", "core.hooksPath=/dev/null")
        if not self._is_linked:
            shutil.rmtree(self.tree, ignore_errors=True)
            self._git.run("worktree", "prune")
            place = str(self.tree)
            self._git.run(
                *quiet, "worktree", "add", "--quiet", "--force", "--detach", place, baseline
            )
        else:
            inner = GitRepo(self.tree)
            inner.run(*quiet, "checkout", "--quiet", "--force", "--detach", baseline)
        Workspace(GitRepo(self.tree)).dvc.share_cache()
        for path in untracked:
            here = self.tree / path
            if not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                here.symlink_to((self._workspace.root / path).resolve(), target_is_directory=True)

    @property
    def _is_linked(self) -> bool:
        """Whether the work tree is this repository's: a copied repository has the original's."""
        link = self.tree / ".git"
        ours = f"gitdir: {self._git.common_dir / 'worktrees'}/"
        return link.is_file() and link.read_text("utf-8").startswith(ours)

    def queue(self, name: str, overrides: Sequence[str], copied: Sequence[str]) -> None:
        """Queue one experiment; each override is `FILE:++key=value`."""
        words = [word for override in overrides for word in ("--set-param", override)]
        copies = [word for path in copied for word in ("--copy-paths", path)]
        self._dvc.run("exp", "run", "--queue", "--name", name, *words, *copies)

    def start(self, jobs: int) -> None:
        """Have DVC's workers running; they go on by themselves until the queue is empty."""
        self._dvc.run_apart("queue", "start", "--jobs", str(jobs), log=self._tmp / "start.log")

    def stop(self, *, kill: bool) -> None:
        """End the workers: after the experiments that run now, or with them."""
        if self.exist and self.has_workers:
            self._dvc.run("queue", "stop", *(["--kill"] if kill else []))

    def forget(self) -> None:
        """Drop what is queued, and every record of what ran, failed or was killed.

        Only while no worker lives. Results stay: they are refs.
        """
        if self.exist:
            # All or none: DVC reads a success's record when it looks for failures.
            self._dvc.run("queue", "remove", "--all")
            for folder in [*self._tmp.glob("run/*"), *self._tmp.glob("tmp*")]:
                shutil.rmtree(folder)

    def remove(self, found: Sequence[Experiment]) -> None:
        """Delete finished experiments. Their refs are all there is of them in git."""
        for experiment in found:
            ref = f"refs/exps/{experiment.baseline[:2]}/{experiment.baseline[2:]}/{experiment.name}"
            self._git.run("update-ref", "-d", ref, experiment.commit)

    @property
    def exist(self) -> bool:
        return (self.tree / ".dvc" / "tmp" / "exps").is_dir()

    @property
    def has_workers(self) -> bool:
        """Whether one of DVC's workers lives: a record that was left by a dead one is none."""
        records = (self._tmp / "celery").glob("dvc-exp-worker-*.json")
        return any(_lives(_json(record)) for record in records)

    @property
    def _tmp(self) -> Path:
        return self.tree / ".dvc" / "tmp" / "exps"

    def all(self) -> list[Experiment]:
        """Every experiment that git or the queue knows, oldest commit first, then what waits."""
        found = {e.name: e for e in [*self._ran(), *self._queued()]}
        found |= {e.name: e for e in self._done()}
        order = {"done": 0, "failed": 1, "running": 2, "queued": 3}
        return sorted(found.values(), key=lambda e: order[e.state])

    def _done(self) -> Iterator[Experiment]:
        form = "--format=%(objectname) %(refname)"
        for line in self._git.lines("for-each-ref", "--sort=creatordate", form, "refs/exps"):
            commit, _, ref = line.partition(" ")
            match = _DONE.fullmatch(ref)
            if match:
                log = self._logs.get(match[3])
                yield Experiment(match[3], match[1] + match[2], commit, "done", log)

    @property
    def _logs(self) -> dict[str, Path]:
        return {e.name: e.log for e in self._ran() if e.log is not None}

    def _queued(self) -> Iterator[Experiment]:
        if self._git.resolve(_QUEUE) is None:
            return
        # The reflog is the queue; its newest entry comes first, and the oldest runs first.
        for line in reversed(self._git.lines("log", "-g", "--format=%H %gs", _QUEUE)):
            commit, _, message = line.partition(" ")
            match = _STASHED.match(message)
            if match:
                yield Experiment(match["name"], match["baseline"], commit, "queued")

    def _ran(self) -> Iterator[Experiment]:
        """What a worker took up here, the latest last: it runs, or it failed or was killed."""
        records = sorted((self._tmp / "run").glob("*/*.run"), key=lambda p: p.stat().st_mtime)
        has_workers = bool(records) and self.has_workers
        for record in records:
            info = _json(record)
            name, baseline = info.get("name"), info.get("baseline_rev")
            if isinstance(name, str) and isinstance(baseline, str):
                runs = has_workers and _is_under_way(info, _json(record.with_suffix(".json")))
                state, log = "running" if runs else "failed", record.with_suffix(".out")
                found = log if log.is_file() else None
                yield Experiment(name, baseline, record.stem, state, found)

    def failures(self) -> set[str]:
        """The commits of experiments that failed, also of those that wait to run again."""
        done = {e.name for e in self._done()}
        return {e.commit for e in self._ran() if e.state == "failed" and e.name not in done}


def _is_under_way(info: dict[str, Any], process: dict[str, Any]) -> bool:
    """By DVC's record of an experiment and that of its process, which comes later.

    DVC ends a record in the same state after a result and after a kill; the first has a ref.
    """
    status = info.get("status")
    if status in _BEFORE:
        return not process or _lives(process)
    return status == _COLLECTED_NEXT


def _json(path: Path) -> dict[str, Any]:
    """A record of DVC's; {} while it is being written."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lives(record: dict[str, Any]) -> bool:
    pid = record.get("pid")
    return type(pid) is int and record.get("returncode") is None and is_dvc(pid)


def find_experiment(experiments: Experiments, name: str) -> Experiment:
    """The finished experiment called `name`, or whose name starts so."""
    found = experiments.all()
    exact = [e for e in found if e.name == name]
    matches = exact or [e for e in found if e.name.startswith(name)]
    if len(matches) != 1:
        what = f"{len(matches)} experiments are called {name}…" if matches else "there is no"
        raise FatalError(
            what if matches else f"there is no experiment {name!r}",
            hint="git soup sweep show lists them",
        )
    if matches[0].state != "done":
        raise FatalError(
            f"the experiment {matches[0].name} is {matches[0].state}: it has no result",
            hint="git soup sweep show",
        )
    return matches[0]
