"""What the commits of training runs say, read for all runs with two questions to git.

Trailers come from whoever pushed: what is no number is None, and a chain ends at the first
commit that is no checkpoint of its run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

from soup_git.core.names import NAME
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.runs import RUNS

_KEYS = ("Soup-Run", "Soup-Step", "Soup-Loss", "Soup-Learning-Rate", "Soup-Elapsed", "Soup-Adapter")


@dataclass(frozen=True)
class RecordedCheckpoint:
    commit: str
    date: str
    """The committer's, ISO 8601."""
    step: int
    loss: float | None
    learning_rate: float | None
    elapsed_seconds: float | None
    adapter: str
    """Its folder in the commit's tree."""


@dataclass(frozen=True)
class RecordedRun:
    run: str
    launched_from: str | None
    """The commit before the first checkpoint."""
    checkpoints: tuple[RecordedCheckpoint, ...]
    """Earliest first, never empty."""


def recorded_runs(git: GitRepo, run: str | None = None) -> list[RecordedRun]:
    """Every run with a checkpoint, the newest first; with `run`, that one alone if it is there."""
    ref = RUNS + run if run is not None else RUNS.rstrip("/")
    named = ((name.removeprefix(RUNS), tip) for name, tip in git.refs(ref).items())
    # A ref by another name cannot be written as run/ID.
    tips = {name: tip for name, tip in named if NAME.fullmatch(name)}
    if not tips:
        return []
    commits = {found.commit: found for found in _commits(git, list(tips.values()))}
    runs = [made for name, tip in tips.items() if (made := _chain(name, tip, commits))]
    return sorted(runs, key=lambda r: (r.checkpoints[-1].date, r.run), reverse=True)


@dataclass(frozen=True)
class _Commit:
    commit: str
    parent: str | None
    date: str
    trailers: dict[str, str]


def _commits(git: GitRepo, tips: list[str]) -> Iterator[_Commit]:
    """The commits with a run's trailer that are reachable from the tips."""
    fields = ["%H", "%P", "%cI"]
    fields += [f"%(trailers:key={key},valueonly,separator=%x2C)" for key in _KEYS]
    done = git.run(
        "log", "--no-show-signature", "--grep=^Soup-Run: ", "--stdin", "-z",
        "--format=" + "%x00".join(fields), input="".join(f"{tip}\n" for tip in tips).encode(),
    )  # fmt: skip
    parts = os.fsdecode(done.stdout).split("\0")
    for at in range(0, len(parts) - 1, len(fields)):
        commit, parents, date, *values = parts[at : at + len(fields)]
        trailers = dict(zip(_KEYS, (value.strip() for value in values), strict=True))
        yield _Commit(commit, next(iter(parents.split()), None), date, trailers)


def _chain(name: str, tip: str, commits: dict[str, _Commit]) -> RecordedRun | None:
    """The checkpoints from a ref's tip back to where another history begins."""
    found: list[RecordedCheckpoint] = []
    at: str | None = tip
    run = commits[tip].trailers["Soup-Run"] if tip in commits else ""
    while at in commits and commits[at].trailers["Soup-Run"] == run:
        here = commits[at]
        step = here.trailers["Soup-Step"]
        if not (step.isascii() and step.isdecimal() and len(step) <= 12):
            break
        found.append(
            RecordedCheckpoint(
                commit=at,
                date=here.date,
                step=int(step),
                loss=number_of(here.trailers["Soup-Loss"]),
                learning_rate=number_of(here.trailers["Soup-Learning-Rate"]),
                elapsed_seconds=number_of(here.trailers["Soup-Elapsed"].removesuffix("s")),
                adapter=here.trailers["Soup-Adapter"],
            )
        )
        at = here.parent
    return RecordedRun(name, at, tuple(reversed(found))) if found else None


def number_of(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
