"""The search for merge weights: what is scored, in which order, and when it is enough.

Each adapter alone and the uniform blend come first. Then CMA-ES proposes a generation at
a time, until three of them have brought nothing beyond noise, the generations or the budget
are used up. Who scores a candidate, and where, is the caller's: `submit` starts it.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from soup_git.arithmetic import cmaes
from soup_git.arithmetic.floats import Array
from soup_git.errors import FatalError
from soup_git.evaluation.blending import Weights

FAILED = -1e9
"""What a failed evaluation is recorded as."""
_LEAST_POPULATION = 8
_REPEATS = 3
_RESERVED = 3
"""Evaluations after the search: the mean, what was written, what it is compared with."""
_STEP = {"softmax": 1.0, "raw": 0.3}
_OF_ERROR = 0.01
"""An improvement of less than this share of the suite's own standard error is no improvement."""
KINDS = tuple(_STEP)

Submit = Callable[[Weights], "Future[Scored]"]


@dataclass(frozen=True)
class Scored:
    """One evaluation. `value` is higher for better; None where it failed."""

    value: float | None
    stderr: float | None = None
    seconds: float = 0.0
    model_seconds: float = 0.0
    """Of `seconds`: waiting for the model."""
    load_seconds: float = 0.0
    """Of `seconds`: loading the base."""
    failed_rows: int = 0
    error: str = ""

    @property
    def recorded(self) -> float:
        return FAILED if self.value is None else self.value


@dataclass(frozen=True)
class Plan:
    """What is searched, and how long."""

    inputs: int
    groups: tuple[str, ...] = ()
    """Groups of modules with weights of their own; none: one row of weights."""
    param: str = "softmax"
    population: int | None = None
    max_generations: int = 100
    seed: int = 0
    budget: float = 600.0
    """Seconds, those of an interrupted search included."""
    patience: int = 3
    """Generations without improvement beyond noise after which the search has converged."""

    @property
    def rows(self) -> int:
        return max(1, len(self.groups))

    @property
    def dimension(self) -> int:
        return self.rows * (self.inputs - (self.param == "softmax"))

    @property
    def candidates(self) -> int:
        """Of a generation. Fewer than 8 would have converged before they have looked around."""
        return self.population or max(_LEAST_POPULATION, cmaes.default_population(self.dimension))

    def start(self) -> cmaes.Search:
        middle = 0.0 if self.param == "softmax" else 1.0 / self.inputs
        return cmaes.begin(
            [middle] * self.dimension, _STEP[self.param], seed=self.seed, population=self.candidates
        )

    def weights(self, point: Array) -> Weights:
        """The weights that a point stands for: N−1 logits and a 0 per row, or themselves."""
        rows = point.reshape(self.rows, -1)
        if self.param == "softmax":
            logits = np.hstack([rows, np.zeros((self.rows, 1))])
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            rows = shares / shares.sum(axis=1, keepdims=True)
        return tuple(tuple(float(w) for w in row) for row in rows)

    def same(self, weights: Sequence[float]) -> Weights:
        return (tuple(weights),) * self.rows

    def starts(self) -> list[Weights]:
        """Each adapter alone, then the uniform blend."""
        alone = [[float(i == k) for i in range(self.inputs)] for k in range(self.inputs)]
        return [self.same(row) for row in [*alone, [1.0 / self.inputs] * self.inputs]]


@dataclass(frozen=True)
class Generation:
    """What one generation brought; scores as recorded, in the order of its candidates."""

    scores: tuple[float, ...]
    best: float
    """The best of all so far."""
    step: float


@dataclass
class State:
    """All that a search knows; JSON keeps it between processes."""

    starts: list[Scored] = field(default_factory=list)
    repeats: list[Scored] = field(default_factory=list)
    """The uniform blend again: what differs is noise."""
    generations: list[Generation] = field(default_factory=list)
    pending: dict[int, Scored] = field(default_factory=dict)
    """Of the generation under way: number -> score."""
    search: cmaes.Search | None = None
    best: tuple[float, Weights, str] | None = None
    marks: tuple[float, float] = (FAILED, FAILED)
    """Of a generation its best score and the mean of its better half: what the next has to pass."""
    stale: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    load_seconds: float = 0.0
    busy_seconds: float = 0.0
    """Summed over evaluations, which may have run side by side."""
    longest: float = 0.0
    evaluations: int = 0
    failed_rows: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """Why evaluations failed -> how many."""

    def body(self) -> dict[str, Any]:
        found = asdict(self)
        found["search"] = self.search.state() if self.search else None
        found["pending"] = {str(i): asdict(scored) for i, scored in self.pending.items()}
        return found


def state_of(body: Mapping[str, Any]) -> State:
    """The reverse of `State.body`. Raises KeyError, TypeError or ValueError for anything else."""
    found = dict(body)
    best = found["best"]
    return State(
        **found
        | {
            "starts": [Scored(**x) for x in found["starts"]],
            "repeats": [Scored(**x) for x in found["repeats"]],
            "generations": [
                Generation(tuple(x["scores"]), x["best"], x["step"]) for x in found["generations"]
            ],
            "pending": {int(i): Scored(**x) for i, x in found["pending"].items()},
            "search": cmaes.resumed(found["search"]) if found["search"] else None,
            "marks": tuple(found["marks"]),
            "best": best and (best[0], tuple(tuple(row) for row in best[1]), best[2]),
        }
    )


@dataclass(frozen=True)
class Found:
    """What a search ended with."""

    weights: Weights
    value: float
    origin: str
    """Which candidate it is, in words."""
    start: Weights
    """The best of the adapters alone and the uniform blend."""
    start_value: float
    start_name: str
    noise: float
    """Standard deviation of the same evaluation done again; 0 where it repeats exactly."""
    tolerance: float
    ended: str
    """Why it ended: converged, generations, budget."""
    state: State


@dataclass
class Evolution:
    """One search. `keep` is told whenever something is worth keeping, `progress` to draw it."""

    plan: Plan
    names: Sequence[str]
    """Of the adapters."""
    submit: Submit
    window: int = 1
    """Evaluations under way at once."""
    keep: Callable[[State], None] = lambda _: None
    progress: Callable[[State, int], None] = lambda _state, _total: None
    state: State = field(default_factory=State)
    clock: Callable[[], float] = time.monotonic
    _began: float = field(default=0.0, init=False)
    _before: float = field(default=0.0, init=False)

    def run(self) -> Found:
        """Search until it is enough. Raises FatalError where every start fails, or does not fit."""
        self._began, self._before = self.clock(), self.state.seconds
        self._starts()
        noise = self._noise()
        errors = [s.stderr for s in self.state.starts if s.stderr is not None]
        tolerance = max(2 * noise, _OF_ERROR * min(errors, default=0.0), 1e-12)
        ended = self._generations(tolerance)
        return self._chosen(noise, tolerance, ended)

    # -- the clock ----------------------------------------------------------------------------

    @property
    def _spent(self) -> float:
        return self._before + self.clock() - self._began

    def _has_time(self, evaluations: int = 1) -> bool:
        """Whether so many more fit into the budget, with what comes after the search."""
        wanted = (evaluations + _RESERVED) * self.state.longest
        return self._spent + wanted <= self.plan.budget

    # -- scoring ------------------------------------------------------------------------------

    def _score(
        self,
        candidates: Mapping[int, Weights],
        heard: Callable[[int, Scored], None],
        *,
        in_budget: bool = True,
    ) -> bool:
        """Score candidates, telling each one's score as it comes; False when time ran out."""
        waiting = list(candidates.items())
        running: dict[Future[Scored], int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.window:
                    if in_budget and not self._has_time():
                        waiting.clear()
                        break
                    number, weights = waiting.pop(0)
                    running[self.submit(weights)] = number
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: running[f]):
                    number, scored = running.pop(future), future.result()
                    self._count(scored)
                    candidates = {k: w for k, w in candidates.items() if k != number}
                    heard(number, scored)
                    self._tell()
        finally:
            for future in running:
                future.cancel()
        return not candidates

    def _count(self, scored: Scored) -> None:
        state = self.state
        state.evaluations += 1
        state.model_seconds += scored.model_seconds
        state.load_seconds += scored.load_seconds
        state.busy_seconds += scored.seconds
        state.longest = max(state.longest, scored.seconds - scored.load_seconds)
        state.failed_rows += scored.failed_rows
        if scored.value is None:
            state.failures[scored.error] = state.failures.get(scored.error, 0) + 1

    def _tell(self) -> None:
        self.state.seconds = self._spent
        self.keep(self.state)
        self.progress(self.state, self._total)

    @property
    def _total(self) -> int:
        return self.plan.inputs + 2 + self.plan.candidates * self.plan.max_generations

    # -- the parts of a search ----------------------------------------------------------------

    def _starts(self) -> None:
        wanted = self.plan.starts()
        found = dict(enumerate(self.state.starts))
        left = {i: w for i, w in enumerate(wanted) if i not in found}

        def heard(number: int, scored: Scored) -> None:
            found[number] = scored
            # Only those without a gap before them: a list in order is all that is kept.
            known = itertools.takewhile(found.__contains__, range(len(wanted)))
            self.state.starts = [found[i] for i in known]
            self._refuse_short_budget(len(wanted))

        self._score(left, heard, in_budget=False)
        scores = self.state.starts
        if all(scored.value is None for scored in scores):
            raise FatalError(
                f"every evaluation failed: {scores[0].error}",
                hint="git soup eval A --suite SUITE shows what is wrong; nothing was written",
            )
        if self.state.best is None:
            number = max(range(len(scores)), key=lambda i: (scores[i].recorded, -i))
            self.state.best = scores[number].recorded, wanted[number], self._start_name(number)

    def _start_name(self, number: int) -> str:
        return f"{self.names[number]} alone" if number < len(self.names) else "the uniform blend"

    def _refuse_short_budget(self, starts: int) -> None:
        needed = (starts + 1 + _RESERVED) * self.state.longest + self.state.load_seconds
        if needed > self.plan.budget:
            minutes = math.ceil(needed / 60)
            raise FatalError(
                f"one evaluation takes {self.state.longest:.0f} s: the adapters alone and their"
                f" uniform blend do not fit into {self.plan.budget:.0f} s",
                hint=f"--budget {minutes}m, or a smaller suite (max_rows)",
            )

    def _noise(self) -> float:
        """Score the uniform blend again; where that differs, often enough to know how much."""
        first = self.state.starts[-1]
        uniform = self.plan.starts()[-1]
        wanted = 1
        while len(self.state.repeats) < wanted and first.value is not None:
            self._score({0: uniform}, lambda _, s: self.state.repeats.append(s), in_budget=False)
            values = {s.value for s in [first, *self.state.repeats]}
            wanted = 1 if len(values) == 1 else _REPEATS - 1
        found = [s.value for s in [first, *self.state.repeats] if s.value is not None]
        return statistics.stdev(found) if len(found) > 1 else 0.0

    def _generations(self, tolerance: float) -> str:
        state = self.state
        if state.search is None:
            state.search = self.plan.start()
        while True:
            if state.stale >= self.plan.patience:
                return "converged"
            if len(state.generations) >= self.plan.max_generations:
                return "generations"
            points = state.search.ask()
            weights = [self.plan.weights(point) for point in points]
            left = {i: w for i, w in enumerate(weights) if i not in state.pending}
            whole = self._score(left, state.pending.__setitem__)
            for number in sorted(state.pending):
                score = state.pending[number].recorded
                if state.best is None or score > state.best[0]:
                    name = f"generation {len(state.generations) + 1}, candidate {number + 1}"
                    state.best = score, weights[number], name
            if not whole:
                return "budget"
            scores = tuple(state.pending[i].recorded for i in range(len(weights)))
            best = state.best[0] if state.best else FAILED
            self._compare(scores, tolerance)
            losses = [math.inf if s == FAILED else -s for s in scores]
            step = state.search.step
            if min(losses) < math.inf:
                state.search = state.search.tell(points, losses)
            else:
                # Nothing is known of any direction: the same place, other numbers.
                state.search = cmaes.resumed(
                    state.search.state() | {"generation": state.search.generation + 1}
                )
            state.generations.append(Generation(scores, best, step))
            state.pending = {}
            self._tell()

    def _compare(self, scores: Sequence[float], tolerance: float) -> None:
        """Whether a generation is better than those before it, and not only luckier.

        The search is measured by itself: it may need some generations to pass a good start,
        and after a lucky candidate its better half goes on to improve.
        """
        half = sorted(scores, reverse=True)[: len(scores) // 2]
        found = half[0], statistics.fmean(half)
        marks = self.state.marks
        improved = any(x > mark + tolerance for x, mark in zip(found, marks, strict=True))
        self.state.marks = max(found[0], marks[0]), max(found[1], marks[1])
        self.state.stale = 0 if improved else self.state.stale + 1

    def _chosen(self, noise: float, tolerance: float, ended: str) -> Found:
        """The best that was scored, or with noise the mean of where the search went."""
        state, starts = self.state, self.plan.starts()
        scores = [s.recorded for s in state.starts]
        top = max(range(len(scores)), key=lambda i: (scores[i], -i))
        start, start_value, start_name = starts[top], scores[top], self._start_name(top)
        value, weights, origin = state.best or (start_value, start, start_name)
        if state.generations and state.search is not None:
            mean = self.plan.weights(state.search.mean)
            mean_name = f"the mean after {len(state.generations)} generations"
            count = _REPEATS if noise else 1
            again = self._average(mean, count)
            if noise:
                # The luckiest of many is not the best of many: both are measured anew.
                start_value = self._average(start, count)
                value, weights, origin = max(
                    (start_value, start, start_name), (again, mean, mean_name), key=lambda x: x[0]
                )
            elif again > value:
                value, weights, origin = again, mean, mean_name
        return Found(
            weights, value, origin, start, start_value, start_name, noise, tolerance, ended, state
        )

    def _average(self, weights: Weights, count: int) -> float:
        found: list[float] = []
        self._score(
            dict.fromkeys(range(count), weights),
            lambda _, scored: found.append(scored.recorded),
            in_budget=False,
        )
        return statistics.fmean(found)
