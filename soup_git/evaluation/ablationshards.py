"""An ablation by several workers: row groups are tasks, each worker has a model of its own.

A task is small and picklable: adapters by digest, the rows as tokens. A worker that is asked
for the first time brings the weights from the DVC cache or its remote and loads the base
once. What it answers depends on the task alone, so it is safe to repeat.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Self

from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json
from soup_git.evaluation.ablation import Ablation
from soup_git.evaluation.ablationparts import Part
from soup_git.evaluation.ablationrows import GroupLosses, RowGroup
from soup_git.evaluation.candidate import Candidate, of_adapter
from soup_git.evaluation.executors import Flag, Pool
from soup_git.evaluation.removal import on_model
from soup_git.evaluation.runner import BaseChoice, Runner
from soup_git.storage.materials import Materials, brought, workspace_of_worker
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Question:
    """What is taken out of what: all that a worker needs to know but the rows."""

    root: str
    """The caller's work tree, for a worker that was not started in a clone of its own."""
    adapter: Materials
    against: Materials | None
    """What parts are put back to; None is the base."""
    base: BaseChoice
    is_base_asked: bool
    """The base was named by the user: adapters are asked on it whatever they name."""
    parts: tuple[Part, ...]
    reuse: bool
    """Layers below a part are not run again."""
    threads: int | None
    """Of the CPU, for each worker; None is the runner's choice."""

    @cached_property
    def digest(self) -> str:
        """sha256 of all that the losses of a row depend on, and of the threads."""
        both = [a for a in (self.adapter, self.against) if a is not None]
        body = {
            "adapters": [[a.weights_md5, sha256_hex(a.config)] for a in both],
            "base": self.base.key(),
            "parts": [asdict(part) for part in self.parts],
            "reuse": self.reuse,
            "threads": self.threads,
        }
        return sha256_hex(canonical_json(body).encode())


def measure(question: Question, group: RowGroup, stop: Flag) -> GroupLosses | None:
    """The losses of a group of rows, by this process's model; None when nobody waits for them."""
    import torch

    if stop.is_set():
        return None
    with _idle_model(question, group) as job, torch.no_grad():
        if question.threads is not None:
            torch.set_num_threads(question.threads)  # it is a thread's own setting
        return job.measure_group(group, is_stopped=stop.is_set)


def share_threads(jobs: int) -> int:
    """CPU threads for each of `jobs` models; this thread has them from now on.

    So passes are timed as they will be measured.
    """
    import torch

    threads: int = max(1, torch.get_num_threads() // jobs)
    torch.set_num_threads(threads)
    return threads


class Shards:
    """The crew of an ablation: the workers of a pool.

    `own` is a model that the caller has loaded already; where workers are threads of this
    process, the first of them takes it. Use it as a context: afterwards what this process
    has loaded for the question is let go.
    """

    def __init__(self, pool: Pool, question: Question, own: Ablation | None) -> None:
        self._pool = pool
        self._question = question
        self._own = own

    def __enter__(self) -> Self:
        if self._own is not None:
            _give_back(self._question.digest, _Loaded(self._own, ExitStack()))
        return self

    def __exit__(self, *_: object) -> None:
        _forget(self._question.digest)

    @property
    def workers(self) -> int:
        return self._pool.workers

    def measured(
        self, groups: Sequence[RowGroup], seconds: float
    ) -> Iterator[tuple[RowGroup, GroupLosses | None]]:
        """Each group as it is done; after so many seconds what there is, None for nothing."""
        stop = self._pool.flag()
        late = time.monotonic() + seconds
        submit = self._pool.executor.submit
        try:
            asked = {submit(measure, self._question, group, stop): group for group in groups}
            waiting = set(asked)
            while waiting:
                left = None if stop.is_set() else _seconds_until(late)
                done, waiting = wait(waiting, left, FIRST_COMPLETED)
                if time.monotonic() >= late:
                    stop.set()
                for future in done:
                    yield asked[future], future.result()
        finally:
            stop.set()


def _seconds_until(late: float) -> float:
    return min(max(0.0, late - time.monotonic()), threading.TIMEOUT_MAX)


# -- a process's models ------------------------------------------------------------------------


@dataclass
class _Loaded:
    job: Ablation
    inside: ExitStack
    """What the job was made in: closing it lets go of the model."""


_IDLE: dict[str, list[_Loaded]] = {}
"""Question's digest -> its models that measure nothing now."""
_LOCK = threading.Lock()
_LOADING = threading.Lock()


@contextmanager
def _idle_model(question: Question, group: RowGroup) -> Iterator[Ablation]:
    """A model that nobody uses, or a new one; those of other questions are let go."""
    with _LOCK:
        others = [digest for digest in _IDLE if digest != question.digest]
        idle = _IDLE.get(question.digest)
        found = idle.pop() if idle else None
    for digest in others:
        _forget(digest)
    if found is None:
        # transformers changes torch's own functions while it loads: one thread at a time.
        with _LOADING:
            found = _load(question, group)
    try:
        yield found.job
    except BaseException:
        found.inside.close()
        raise
    _give_back(question.digest, found)


def _give_back(digest: str, loaded: _Loaded) -> None:
    with _LOCK:
        _IDLE.setdefault(digest, []).append(loaded)


def _forget(digest: str) -> None:
    with _LOCK:
        idle = _IDLE.pop(digest, [])
    for loaded in idle:
        loaded.inside.close()


def _load(question: Question, group: RowGroup) -> _Loaded:
    """A model with the question's adapters on it; `group` are rows to try the layers on."""
    with ExitStack() as inside:
        workspace = workspace_of_worker(question.root)
        inside.callback(workspace.git.close)
        one = _candidate(workspace, question, question.adapter)
        other = question.against and _candidate(workspace, question, question.against)
        runner = inside.enter_context(
            Runner(question.base, workspace.root, threads=question.threads)
        )
        model, target = inside.enter_context(on_model(runner, one, other or None))
        job = Ablation(target, model, group.sequences, question.parts, 1, question.reuse)
        inside.enter_context(job)
        return _Loaded(job, inside.pop_all())


def _candidate(workspace: Workspace, question: Question, needed: Materials) -> Candidate:
    found = of_adapter(brought(workspace, needed))
    if not question.is_base_asked:
        return found
    named = {"base_model_name_or_path": question.base.base, "revision": question.base.revision}
    return replace(found, config={**found.config, **named})
