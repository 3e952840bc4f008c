"""Drives a search: asks it what to probe, has that probed, and tells it what came out."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path

from soup_git.core.bisection import Search, Verdict
from soup_git.evaluation.executors import Flag, Pool
from soup_git.evaluation.probes import Outcome, Probe
from soup_git.storage.materials import Materials, bring, laid_out, workspace_of_worker
from soup_git.storage.workspace import Workspace

Start = Callable[[int, Flag], "Future[Outcome]"]
"""Starts the probe of a position, to be stopped by a flag."""


class Aborted(Exception):  # noqa: N818 - a probe that gave no verdict, which is no fault here
    """A probe said nothing about its checkpoint, so the search must not go on."""

    def __init__(self, position: int, outcome: Outcome) -> None:
        super().__init__(outcome.why)
        self.position, self.outcome = position, outcome


@dataclass(frozen=True)
class _Running:
    position: int
    flag: Flag


def drive(
    search: Search,
    pool: Pool,
    start: Start,
    heard: Callable[[int, Outcome], None],
    *,
    jobs: int,
    deadline: float | None = None,
    twins: Sequence[Sequence[int]] = (),
) -> bool:
    """Probe until the search has its answer; False when the deadline (monotonic) came first.

    `heard` gets every verdict before the search does: what it keeps is kept. `twins` are
    positions with equal adapters: one verdict counts for all of them. However this ends,
    no probe is left running. Raises `Aborted`.
    """
    others = {x: [y for y in group if y != x] for group in twins for x in group}
    running: dict[Future[Outcome], _Running] = {}
    try:
        while search.answer() is None:
            asked = search.ask(jobs - len(running), [r.position for r in running.values()])
            for position in asked:
                flag = pool.flag()
                running[start(position, flag)] = _Running(position, flag)
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = wait(running, timeout=left, return_when=FIRST_COMPLETED)
            if not done:
                return False
            for future in sorted(done, key=lambda f: running[f].position):
                position = running.pop(future).position
                outcome = future.result()
                if outcome.verdict is None:
                    raise Aborted(position, outcome)
                heard(position, outcome)
                for x in (position, *others.get(position, ())):
                    search.tell(x, outcome.verdict)
            for future in [f for f, r in running.items() if not search.is_needed(r.position)]:
                _stop(future, running.pop(future))
        return True
    finally:
        for future, probe in running.items():
            _stop(future, probe)


def _stop(future: Future[Outcome], probe: _Running) -> None:
    probe.flag.set()
    future.cancel()


def judge_here(
    workspace: Workspace,
    needed: Materials,
    parent: Path,
    probe: Probe,
    flag: Flag,
    echo: str | None,
) -> Outcome:
    """Lay the adapter out and judge it; its weights are here."""
    with laid_out(workspace, needed, parent) as folder:
        return probe.judge(folder, workspace.root, flag, echo)


def judge_on_worker(root: str, needed: Materials, probe: Probe, flag: Flag) -> Outcome:
    """The same in another process, maybe on another machine, in whatever clone it has.

    A worker that was started inside a clone works there; else it needs the caller's.
    """
    workspace = workspace_of_worker(root)
    bring(workspace, needed)
    with (
        contextlib.closing(workspace.git),
        tempfile.TemporaryDirectory(prefix="soup-probe-") as name,
    ):
        return judge_here(workspace, needed, Path(name), probe, flag, None)


def skipped(why: str) -> Outcome:
    """The outcome for a checkpoint that holds nothing to judge."""
    return Outcome(Verdict.skip, None, 0.0, why)
