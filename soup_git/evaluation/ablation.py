"""Leave-one-out on the real model: what each module of an adapter does to the loss.

A part (a module, or a layer's modules) is taken out, and the loss on the same rows is
measured again: the difference is its effect. Layers below it are not run again
(`prefixreuse`). Where the budget does not reach for all parts, integrated gradients on one
gate per module say which are likely to matter (Sundararajan et al. 2017, arXiv 1703.01365;
Gauss-Legendre with 4 points), the measuring is spent on these, and those that are surely
not among the largest are let go as the rows come in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from soup_git.evaluation.ablationeffects import Effects, Outcome
from soup_git.evaluation.ablationparts import Part, drawn
from soup_git.evaluation.ablationpasses import Batch, Passes
from soup_git.evaluation.ablationplan import SHORTLIST, Plan, Speed, make_plan
from soup_git.evaluation.ablationrows import Crew, GroupLosses, RowGroup, Rows
from soup_git.evaluation.model import Model
from soup_git.evaluation.prefixreuse import LayerStack
from soup_git.evaluation.removal import Adapted
from soup_git.training.prepared import Encoded

AUDITED = 3
"""Parts that are measured although nothing speaks for them."""
_POINTS = 4

Progress = Callable[[int, int, str], None]


@dataclass
class Ablation:
    """One adapter on one set of rows. Use it as a context: the model is its own inside."""

    adapted: Adapted
    model: Model
    sequences: Sequence[Encoded]
    parts: Sequence[Part]
    shards: int = 4
    reuse: bool = True
    """False runs every layer every time: what the reuse is measured against."""
    progress: Progress | None = None
    crew: Crew | None = None
    """Who measures; None is this model itself."""
    clock: Callable[[], float] = time.monotonic
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        model = self.model
        self._rows = Rows(self.sequences, model.window, model.batch_size, self.shards)
        self.shards = self._rows.shards
        self._passes = Passes(self.adapted, model)
        self._found = Effects(self.parts, self._rows.counts, self._rows.scored)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        import torch

        self._exit.enter_context(torch.no_grad())
        if self.reuse:
            why = self._passes.reuse_layers(self._rows.shortest(2), self._exit)
            if why is not None:
                self.notes.append(f"every layer is run every time: {why}")
            self._rows.most_cells = self._passes.most_cells
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def rows(self) -> int:
        """Rows with a token in the loss."""
        return len(self._rows.scored)

    @property
    def tokens(self) -> int:
        return int(self._rows.counts.sum())

    @property
    def stack(self) -> LayerStack | None:
        """The layers that are not run again below a part; None where all always are."""
        return self._passes.stack

    # -- what it will take --------------------------------------------------------------------

    def plan(self, budget: float, started: float) -> Plan:
        """Time a few passes, and say what the budget (seconds since `started`) reaches for.

        Raises FatalError when it does not pay for one shard, naming one that would.
        """
        workers = self.crew.workers if self.crew is not None else 1
        startup = self.clock() - started if self.crew is not None else 0.0
        batches = self._batches()
        probe = max(batches, key=lambda b: b.cells)
        self._passes.with_all(probe)  # the first pass of a shape is slower
        speed = self._timed(probe)
        depths = [self._passes.depth(part) for part in self.parts]
        cells = sum(batch.cells for batch in batches)
        plan = make_plan(
            speed, depths, cells, budget, self.shards, self.clock() - started,
            workers=workers, startup=startup,
        )  # fmt: skip
        if not plan.fits and self.adapted.why_no_gates is None:
            seconds = self._time_of(lambda: self._gradient([probe], 0.5))
            speed = speed.with_gradients(seconds * _POINTS / probe.cells)
            plan = make_plan(
                speed, depths, cells, budget, self.shards, self.clock() - started,
                workers=workers, startup=startup,
            )  # fmt: skip
        plan.refuse_if_too_small()
        return plan

    def _timed(self, probe: Batch) -> Speed:
        passes, first = self._passes, self.parts[0]
        layers = passes.layers
        record = self._time_of(lambda: passes.with_all(probe))
        whole = self._time_of(lambda: passes.without(probe, first, 0))
        head = whole
        if self.stack is not None:
            head = self._time_of(lambda: passes.without(probe, first, layers))
        per = 1 / probe.cells
        return Speed(record * per, whole * per, min(head, whole) * per, layers)

    def _time_of(self, run: Callable[[], object]) -> float:
        """Seconds; the better of two where that costs nothing."""
        started = time.perf_counter()
        run()
        first = time.perf_counter() - started
        if first > 0.5:
            return first
        started = time.perf_counter()
        run()
        return min(first, time.perf_counter() - started)

    # -- measuring ----------------------------------------------------------------------------

    def run(self, plan: Plan, deadline: float = math.inf) -> Outcome:
        """Measure what the plan says, until `deadline` by `clock`."""
        started = self.clock()
        everything = list(range(len(self.parts)))
        if plan.fits:
            self._measure(everything, deadline, race=False)
        else:
            self._measure_likely(everything, plan, deadline)
        seconds = self.clock() - started
        total, parts, notes = self._found.outcome()
        self.notes += notes
        return Outcome(total, parts, self.notes, seconds)

    def _measure_likely(self, everything: list[int], plan: Plan, deadline: float) -> None:
        order = everything
        why = self.adapted.why_no_gates
        if why is None:
            self._rank(plan.ranking_shards)
            order = sorted(everything, key=lambda i: -abs(float(self._found.gradients[i])))
        else:
            self.notes.append(f"nothing ranked the modules, they were taken as they come: {why}")
            order = drawn(self.parts)
        seconds_of = [plan.seconds_of(self._passes.depth(part)) for part in self.parts]
        # Workers start while they are given the first of it.
        left = (deadline - self.clock() - plan.startup) * plan.workers
        reach = _affordable([seconds_of[i] for i in order], left - plan.reference_seconds)
        first = order[: max(reach, SHORTLIST)]
        others = [i for i in drawn(self.parts) if i not in first]
        self._found.audited = set(others[:AUDITED])
        self._measure([*first, *self._found.audited], deadline, race=True)
        waiting = [i for i in order if i not in first and i not in self._found.audited]
        while waiting:
            left = (deadline - self.clock()) * plan.workers - plan.reference_seconds
            reach = _affordable([seconds_of[i] for i in waiting], left)
            if not reach:
                break
            self._measure(waiting[:reach], deadline, race=True)
            waiting = waiting[reach:]

    def _measure(self, parts: list[int], deadline: float, *, race: bool) -> None:
        """Losses without each of the parts, on every row or until the deadline."""
        if self.crew is not None:
            self._measure_by(self.crew, parts, deadline, race=race)
            return
        alive, done = list(parts), 0
        batches = self._batches()
        for number, batch in enumerate(batches):
            self._reference(batch)
            for index in alive:
                if self.clock() > deadline:
                    return
                part = self.parts[index]
                self._found.sums[index, batch.rows] = self._passes.without(batch, part)
                done += 1
                self._tell(done, done + (len(batches) - number) * len(alive), part.name)
            if race and number + 1 < len(batches):
                alive = self._found.still_racing(alive)

    def _measure_by(self, crew: Crew, parts: list[int], deadline: float, *, race: bool) -> None:
        """The same by others. The race looks up at the end of a shard, whoever is fastest."""
        alive, done = list(parts), 0
        shards = self._rows.in_shards()
        if np.isnan(self._found.nothing).all():
            self._reference(self._batch(shards[0][0]))  # however slow the others are to start
        waves = shards if race else [[group for shard in shards for group in shard]]
        for number, wave in enumerate(waves):
            groups = self._row_groups(wave, alive, crew.workers)
            total = done + sum(len(group) for group in waves[number:]) * len(alive)
            for group, losses in crew.measured(groups, deadline - self.clock()):
                if losses is not None:
                    self._found.take(group, losses)
                done += len(group.parts)
                self._tell(done, total, self.parts[group.parts[-1]].name)
            if self.clock() > deadline:
                return
            if race and number + 1 < len(waves):
                alive = self._found.still_racing(alive)

    def _row_groups(
        self, wave: Sequence[list[int]], parts: Sequence[int], workers: int
    ) -> list[RowGroup]:
        """What is measured of a wave; where it has less groups than workers, parts are split."""
        pieces = min(len(parts), math.ceil(workers / len(wave)))
        return [
            RowGroup(
                tuple(rows),
                tuple(self._rows.cut[i] for i in rows),
                tuple(parts[piece::pieces]),
                piece == 0 and self._found.lacks_nothing(rows),
            )
            for rows in wave
            for piece in range(pieces)
        ]

    def measure_group(
        self, group: RowGroup, *, is_stopped: Callable[[], bool] = lambda: False
    ) -> GroupLosses:
        """What a worker answers: this model's losses on a group's own rows."""
        passes = self._passes
        batch = passes.batch(range(len(group.sequences)), group.sequences)
        whole = passes.with_all(batch)
        nothing = np.full(len(whole), np.nan)
        if group.with_nothing:
            nothing = passes.without_all(batch, self.parts)
        without = np.full((len(group.parts), len(whole)), np.nan)
        for at, index in enumerate(group.parts):
            if is_stopped():
                break
            without[at] = passes.without(batch, self.parts[index]) - whole
        return GroupLosses(whole, nothing, without)

    def _reference(self, batch: Batch) -> None:
        """The loss with all, kept for the parts; and once the loss with none of them."""
        self._found.take_whole(batch.rows, self._passes.with_all(batch))
        if self._found.lacks_nothing(batch.rows):
            self._found.nothing[batch.rows] = self._passes.without_all(batch, self.parts)

    def _rank(self, shards: int) -> None:
        """Integrated gradients of every part, on the rows of the first shards."""
        batches = self._batches(shards)
        for batch in batches:
            self._reference(batch)
        points, weights = np.polynomial.legendre.leggauss(_POINTS)
        total = np.zeros(len(self.parts))
        for number, (point, weight) in enumerate(zip(points, weights, strict=True)):
            self._tell(number, _POINTS, "gradients")
            # From −1..1 to 0..1; what a part adds is lost when it goes.
            total -= weight / 2 * self._gradient(batches, (point + 1) / 2)
        self._found.gradients = total
        self._found.gradient_rows = [int(r) for batch in batches for r in batch.rows]

    def _gradient(self, batches: Sequence[Batch], value: float) -> Any:
        """d(mean loss)/d(gate) of every part with all gates at `value`: float64, (parts,)."""
        tokens = sum(self._rows.counts[batch.rows].sum() for batch in batches)
        return self._passes.gradient(batches, self.parts, tokens, value)

    def _batches(self, shards: int | None = None) -> list[Batch]:
        """Of the first shards, or of all."""
        return [self._batch(rows) for shard in self._rows.in_shards()[:shards] for rows in shard]

    def _batch(self, rows: Sequence[int]) -> Batch:
        return self._passes.batch(rows, [self._rows.cut[i] for i in rows])

    def _tell(self, done: int, total: int, what: str) -> None:
        if self.progress is not None:
            self.progress(done, total, what)


def _affordable(seconds: Sequence[float], left: float) -> int:
    """How many of these, in their order, fit."""
    total = 0.0
    for count, each in enumerate(seconds):
        total += each
        if total > left:
            return count
    return len(seconds)
