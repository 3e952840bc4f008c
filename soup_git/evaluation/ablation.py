"""Leave-one-out on the real model: what each module of an adapter does to the loss.

A part (a module, or a layer's modules) is taken out, and the loss on the same rows is
measured again: the difference is its effect. Layers below it are not run again
(`prefixreuse`). Where the budget does not reach for all parts, integrated gradients on one
gate per module say which are likely to matter (Sundararajan et al. 2017, arXiv 1703.01365;
Gauss-Legendre with 4 points), the measuring is spent on these, and those that are surely
not among the largest are let go as the rows come in.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol, Self

import numpy as np

from soup_git.core.digests import sha256_hex
from soup_git.errors import FatalError
from soup_git.evaluation.ablationplan import SHORTLIST, WANTED, Plan, Speed, make_plan
from soup_git.evaluation.model import Model
from soup_git.evaluation.prefixreuse import LayerStack, find_layers
from soup_git.evaluation.removal import Adapted
from soup_git.evaluation.statistics import CONFIDENCE, Paired, paired_means
from soup_git.training.prepared import Encoded

MODULE, LAYER = "module", "layer"
EXACT, ESTIMATED, UNRESOLVED = "exact", "estimated", "unresolved"
AUDITED = 3
"""Parts that are measured although nothing speaks for them."""
_RACE_CONFIDENCE = 0.99
_RACE_ROWS = 16
_KEPT_BYTES = 1 << 30
_LOGITS = 1 << 26  # numbers of a row of tokens × vocabulary that are looked at together
_POINTS = 4
_SUM_OFF = 0.2
_LAYER_NAME = re.compile(r"((?:.*?\.)?\d+)\..+")

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Part:
    """What is taken out at once."""

    name: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class PartEffect:
    """The loss without a part minus the loss with all, in nats a token; None is not known."""

    name: str
    status: str
    """`exact`: measured on every row; `estimated`: on some, or by gradients; `unresolved`:
    the budget ended while it could still be one of the largest."""
    effect: float | None
    stderr: float | None
    low: float | None
    high: float | None
    rows: int
    """On which it was measured."""
    gradient_estimate: float | None
    place: int | None
    """Among the exact ones by size: the best place that the rows allow, from 1."""
    place_to: int | None
    """The worst. Where it is not `place`, the rows do not tell it from its neighbours."""
    audited: bool


@dataclass(frozen=True)
class Total:
    """All parts taken out at once, as one part is."""

    loss: float
    """Of the adapter."""
    loss_without: float
    effect: float
    stderr: float | None
    low: float | None
    high: float | None
    rows: int
    gradient_sum: float | None


@dataclass(frozen=True)
class Outcome:
    total: Total
    parts: list[PartEffect]
    """By the size of the effect, the largest first."""
    notes: list[str]
    seconds: float


def parts_of(modules: Sequence[str], per: str, patterns: Sequence[str]) -> list[Part]:
    """What to take out: modules, or the layers they are in, where all patterns match.

    A pattern is matched against the module's name and its layer's, from their start or
    after any dot. Raises FatalError where none matches.
    """
    chosen = list(modules)
    if not chosen:
        raise FatalError(
            "the two adapters differ in no module that can be put back",
            hint="git soup diff A B shows in what they do",
        )
    for pattern in patterns:
        found = [m for m in chosen if _matches(m, pattern) or _matches(layer_of(m), pattern)]
        if not found:
            raise FatalError(
                f"no layer or module matches {pattern!r}; the first of {len(chosen)} is"
                f" {chosen[0]}",
                hint="quote the pattern: --layer 'layers.3' or --layer 'layers.*.mlp.*'",
            )
        chosen = found
    if per == MODULE:
        return [Part(name, (name,)) for name in chosen]
    layers: dict[str, list[str]] = {}
    for name in chosen:
        layers.setdefault(layer_of(name), []).append(name)
    return [Part(layer, tuple(names)) for layer, names in layers.items()]


def layer_of(module: str) -> str:
    """`model.layers.3` of a module in it; what is in no numbered layer is its own."""
    found = _LAYER_NAME.fullmatch(module)
    return found[1] if found else module


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


@dataclass(frozen=True)
class RowGroup:
    """Rows that are measured together, without some parts: what a worker is asked."""

    rows: tuple[int, ...]
    """Their numbers, for whoever asks."""
    sequences: tuple[Encoded, ...]
    """Their tokens: nothing else of a dataset is needed."""
    parts: tuple[int, ...]
    """Which are taken out, one by one; by their places in the list of parts."""
    with_nothing: bool
    """All of the list taken out at once, too."""


@dataclass(frozen=True)
class GroupLosses:
    """Summed losses of a group's rows, float64; NaN where it was stopped before."""

    whole: Any
    """With all: (rows,)."""
    nothing: Any
    """With none: (rows,)."""
    without: Any
    """Minus those with all, of the same model: (parts, rows)."""


class Crew(Protocol):
    """Others that measure row groups, each with a model of its own."""

    @property
    def workers(self) -> int: ...

    def measured(
        self, groups: Sequence[RowGroup], seconds: float
    ) -> Iterator[tuple[RowGroup, GroupLosses | None]]:
        """Each group as it is done; after so many seconds what there is, None for nothing."""
        ...


@dataclass(frozen=True)
class _Batch:
    """Rows that go together, as tensors on the model's device."""

    rows: Any
    """Which rows: int64, (rows,), numpy."""
    ids: Any
    mask: Any
    row: Any
    place: Any
    target: Any
    """Of each token in the loss: its row in the batch, its place, the token."""
    cells: int
    """rows × width: what a pass costs."""


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
    stack: LayerStack | None = field(default=None, init=False)
    notes: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        window = self.model.window
        self._cut = [
            s if window is None else Encoded(s.ids[:window], s.in_loss[:window])
            for s in self.sequences
        ]
        self._counts = np.array([sum(s.in_loss[1:]) for s in self._cut], dtype=np.float64)
        self._rows = [i for i in _shuffled(self._cut) if self._counts[i]]
        self.shards = min(self.shards, max(len(self._rows), 1))
        size = len(self.parts), len(self._cut)
        self._sums = np.full(size, np.nan)
        self._whole = np.full(size[1], np.nan)
        self._nothing = np.full(size[1], np.nan)
        self._gradients: Any = None
        self._gradient_rows: list[int] = []
        self._audited: set[int] = set()
        self._dropped: set[int] = set()
        self._most_cells = 0
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        import torch

        self._exit.enter_context(torch.no_grad())
        if self.reuse:
            self._enter_stack()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def rows(self) -> int:
        """Rows with a token in the loss."""
        return len(self._rows)

    @property
    def tokens(self) -> int:
        return int(self._counts.sum())

    # -- what it will take --------------------------------------------------------------------

    def plan(self, budget: float, started: float) -> Plan:
        """Time a few passes, and say what the budget (seconds since `started`) reaches for.

        Raises FatalError when it does not pay for one shard, naming one that would.
        """
        workers = self.crew.workers if self.crew is not None else 1
        startup = self.clock() - started if self.crew is not None else 0.0
        batches = [batch for shard in self._shards() for batch in shard]
        probe = max(batches, key=lambda b: b.cells)
        self._pass(probe, record=True)  # the first pass of a shape is slower
        speed = self._timed(probe)
        depths = [self._depth(part) for part in self.parts]
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

    def _timed(self, probe: _Batch) -> Speed:
        layers = len(self.stack) if self.stack else 0
        record = self._time_of(lambda: self._pass(probe, record=True))
        whole = self._time_of(lambda: self._pass(probe, self.parts[0], depth=0))
        head = whole
        if self.stack is not None:
            head = self._time_of(lambda: self._pass(probe, self.parts[0], depth=layers))
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
        return self._outcome(self.clock() - started)

    def _measure_likely(self, everything: list[int], plan: Plan, deadline: float) -> None:
        order = everything
        why = self.adapted.why_no_gates
        if why is None:
            self._rank(plan.ranking_shards)
            order = sorted(everything, key=lambda i: -abs(float(self._gradients[i])))
        else:
            self.notes.append(f"nothing ranked the modules, they were taken as they come: {why}")
            order = _drawn(self.parts)
        seconds_of = [plan.seconds_of(self._depth(part)) for part in self.parts]
        # Workers start while they are given the first of it.
        left = (deadline - self.clock() - plan.startup) * plan.workers
        reach = _affordable([seconds_of[i] for i in order], left - plan.reference_seconds)
        first = order[: max(reach, SHORTLIST)]
        others = [i for i in _drawn(self.parts) if i not in first]
        self._audited = set(others[:AUDITED])
        self._measure([*first, *self._audited], deadline, race=True)
        waiting = [i for i in order if i not in first and i not in self._audited]
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
        batches = [batch for shard in self._shards() for batch in shard]
        for number, batch in enumerate(batches):
            self._reference(batch)
            for index in alive:
                if self.clock() > deadline:
                    return
                part = self.parts[index]
                self._sums[index, batch.rows] = self._pass(batch, part, depth=self._depth(part))
                done += 1
                self._tell(done, done + (len(batches) - number) * len(alive), part.name)
            if race and number + 1 < len(batches):
                alive = self._still_racing(alive)

    def _measure_by(self, crew: Crew, parts: list[int], deadline: float, *, race: bool) -> None:
        """The same by others. The race looks up at the end of a shard, whoever is fastest."""
        alive, done = list(parts), 0
        shards = [self._grouped(rows) for rows in self._rows_of_shards()]
        if np.isnan(self._nothing).all():
            self._reference(self._batch(shards[0][0]))  # however slow the others are to start
        waves = shards if race else [[group for shard in shards for group in shard]]
        for number, wave in enumerate(waves):
            groups = self._row_groups(wave, alive, crew.workers)
            total = done + sum(len(group) for group in waves[number:]) * len(alive)
            for group, losses in crew.measured(groups, deadline - self.clock()):
                if losses is not None:
                    self._take(group, losses)
                done += len(group.parts)
                self._tell(done, total, self.parts[group.parts[-1]].name)
            if self.clock() > deadline:
                return
            if race and number + 1 < len(waves):
                alive = self._still_racing(alive)

    def _row_groups(
        self, wave: Sequence[list[int]], parts: Sequence[int], workers: int
    ) -> list[RowGroup]:
        """What is measured of a wave; where it has less groups than workers, parts are split."""
        pieces = min(len(parts), math.ceil(workers / len(wave)))
        return [
            RowGroup(
                tuple(rows),
                tuple(self._cut[i] for i in rows),
                tuple(parts[piece::pieces]),
                piece == 0 and bool(np.isnan(self._nothing[rows]).any()),
            )
            for rows in wave
            for piece in range(pieces)
        ]

    def _take(self, group: RowGroup, found: GroupLosses) -> None:
        rows = np.array(group.rows, dtype=np.int64)
        _refuse_not_finite(rows, found.whole)
        if np.isnan(self._whole[rows]).any():
            self._whole[rows] = found.whole
        if group.with_nothing:
            self._nothing[rows] = found.nothing
        for index, difference in zip(group.parts, found.without, strict=True):
            self._sums[index, rows] = self._whole[rows] + difference

    def measure_group(
        self, group: RowGroup, *, is_stopped: Callable[[], bool] = lambda: False
    ) -> GroupLosses:
        """What a worker answers: this model's losses on a group's own rows."""
        batch = self._tensors(range(len(group.sequences)), group.sequences)
        whole = self._pass(batch, record=True)
        nothing = np.full(len(whole), np.nan)
        if group.with_nothing:
            nothing = self._without_all(batch)
        without = np.full((len(group.parts), len(whole)), np.nan)
        for at, index in enumerate(group.parts):
            if is_stopped():
                break
            part = self.parts[index]
            without[at] = self._pass(batch, part, depth=self._depth(part)) - whole
        return GroupLosses(whole, nothing, without)

    def _without_all(self, batch: _Batch) -> Any:
        every = Part("", tuple(name for part in self.parts for name in part.modules))
        return self._pass(batch, every, depth=self._depth(every))

    def _reference(self, batch: _Batch) -> None:
        """The loss with all, kept for the parts; and once the loss with none of them."""
        found = self._pass(batch, record=True)
        _refuse_not_finite(batch.rows, found)
        self._whole[batch.rows] = found
        if np.isnan(self._nothing[batch.rows]).any():
            self._nothing[batch.rows] = self._without_all(batch)

    def _still_racing(self, alive: list[int]) -> list[int]:
        """Without those that are surely not among the largest, by the rows so far."""
        known = ~np.isnan(self._sums[alive]).any(axis=0)
        if known.sum() < _RACE_ROWS:
            return alive
        compared = [i for i in range(len(self.parts)) if not np.isnan(self._sums[i, known]).any()]
        if len(compared) <= WANTED:
            return alive
        paired = self._paired(compared, known)
        sizes, reach = np.abs(paired.value), paired.reach(_RACE_CONFIDENCE)
        least = np.sort(sizes - reach)[-WANTED]
        beaten = {i for i, top in zip(compared, sizes + reach, strict=True) if top < least}
        beaten -= self._audited
        self._dropped |= beaten & set(alive)
        return [i for i in alive if i not in beaten]

    def _rank(self, shards: int) -> None:
        """Integrated gradients of every part, on the rows of the first shards."""
        batches = [batch for shard in self._shards()[:shards] for batch in shard]
        for batch in batches:
            self._reference(batch)
        points, weights = np.polynomial.legendre.leggauss(_POINTS)
        total = np.zeros(len(self.parts))
        for number, (point, weight) in enumerate(zip(points, weights, strict=True)):
            self._tell(number, _POINTS, "gradients")
            # From −1..1 to 0..1; what a part adds is lost when it goes.
            total -= weight / 2 * self._gradient(batches, (point + 1) / 2)
        self._gradients = total
        self._gradient_rows = [int(r) for batch in batches for r in batch.rows]

    def _gradient(self, batches: Sequence[_Batch], value: float) -> Any:
        """d(mean loss)/d(gate) of every part with all gates at `value`: float64, (parts,)."""
        import torch

        names = [name for part in self.parts for name in part.modules]
        tokens = sum(self._counts[batch.rows].sum() for batch in batches)
        if self.stack is not None:
            self.stack.forget()
        found = np.zeros(len(names))
        for batch in batches:
            with torch.enable_grad(), self.adapted.gated(names, float(value)) as gates:
                (self._losses(batch).sum() / tokens).backward()
            found += [0.0 if g.grad is None else float(g.grad) for g in gates]
        each = iter(found)
        return np.array([sum(float(next(each)) for _ in part.modules) for part in self.parts])

    # -- one pass -----------------------------------------------------------------------------

    def _pass(
        self, batch: _Batch, part: Part | None = None, *, depth: int = 0, record: bool = False
    ) -> Any:
        """Summed losses per row (float64, numpy), without a part, from a layer on."""
        with ExitStack() as inside:
            if part is not None:
                inside.enter_context(self.adapted.without(part.modules))
            if self.stack is not None:
                way = self.stack.recording() if record else self.stack.from_layer(depth)
                inside.enter_context(way)
            return self._losses(batch).cpu().numpy()

    def _losses(self, batch: _Batch) -> Any:
        """Summed nats per row over its tokens in the loss: float64, (rows,)."""
        import torch

        logits = self.model.model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).logits
        found = torch.zeros(len(batch.rows), dtype=torch.float64, device=logits.device)
        step = max(1, _LOGITS // logits.shape[-1])
        for start in range(0, len(batch.target), step):
            some = slice(start, start + step)
            row, target = batch.row[some], batch.target[some]
            before = logits[row, batch.place[some] - 1].float()
            chosen = torch.log_softmax(before, dim=-1).gather(1, target.unsqueeze(1)).squeeze(1)
            found = found.index_add(0, row, -chosen.double())
        return found

    def _depth(self, part: Part) -> int:
        if self.stack is None:
            return 0
        return min(self.stack.depth(f"base_model.model.{name}") for name in part.modules)

    def _enter_stack(self) -> None:
        stack = find_layers(self.adapted.model, self.adapted.hooked)
        if stack is None:
            self.notes.append("every layer is run every time: no stack of layers was found")
            return
        shortest = sorted(self._rows, key=lambda i: len(self._cut[i].ids))[:2]
        probe = self._batch(shortest)
        with ExitStack() as trial:
            trial.enter_context(stack)
            why = stack.why_not(lambda: self._losses(probe))
            if why is not None:
                self.notes.append(f"every layer is run every time: {why}")
                return
            kept = max(1, stack.kept_bytes // max(probe.cells, 1))
            self._most_cells = _KEPT_BYTES // kept
            self._exit.push(trial.pop_all())
        self.stack = stack

    # -- rows ---------------------------------------------------------------------------------

    def _shards(self) -> list[list[_Batch]]:
        """Rows drawn at random into shards; inside one, alike in length together."""
        return [
            [self._batch(group) for group in self._grouped(rows)] for rows in self._rows_of_shards()
        ]

    def _rows_of_shards(self) -> list[list[int]]:
        bounds = np.linspace(0, len(self._rows), self.shards + 1).round().astype(int)
        return [self._rows[start:end] for start, end in itertools.pairwise(bounds)]

    def _grouped(self, rows: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = []
        for row in sorted(rows, key=lambda i: (len(self._cut[i].ids), i)):
            width = len(self._cut[row].ids)
            full = not groups or len(groups[-1]) >= self.model.batch_size
            if not full and self._most_cells:
                full = (len(groups[-1]) + 1) * width > self._most_cells
            if full:
                groups.append([])
            groups[-1].append(row)
        # The race looks at the rows so far: they should not be the short ones.
        return [groups[i] for i in np.random.default_rng(0).permutation(len(groups))]

    def _batch(self, rows: Sequence[int]) -> _Batch:
        return self._tensors(rows, [self._cut[i] for i in rows])

    def _tensors(self, rows: Sequence[int], some: Sequence[Encoded]) -> _Batch:
        """`some` are the tokens of `rows`."""
        import torch

        width = max(len(s.ids) for s in some)
        device, pad = self.model.model.device, self.model.pad
        tokens = [
            (r, p, s.ids[p])
            for r, s in enumerate(some)
            for p in range(1, len(s.ids))
            if s.in_loss[p]
        ]

        def tensor(values: object) -> Any:
            return torch.tensor(values, device=device, dtype=torch.long)

        return _Batch(
            rows=np.array(rows, dtype=np.int64),
            ids=tensor([s.ids + [pad] * (width - len(s.ids)) for s in some]),
            mask=tensor([[1] * len(s.ids) + [0] * (width - len(s.ids)) for s in some]),
            row=tensor([r for r, _, _ in tokens]),
            place=tensor([p for _, p, _ in tokens]),
            target=tensor([t for _, _, t in tokens]),
            cells=len(some) * width,
        )

    def _tell(self, done: int, total: int, what: str) -> None:
        if self.progress is not None:
            self.progress(done, total, what)

    # -- what came out ------------------------------------------------------------------------

    def _paired(self, parts: Sequence[int], rows: Any) -> Paired:
        return paired_means(self._sums[parts][:, rows], self._whole[rows], self._counts[rows])

    def _outcome(self, seconds: float) -> Outcome:
        scored = np.zeros(len(self._whole), dtype=bool)
        scored[self._rows] = True
        exact = [i for i in range(len(self.parts)) if np.isfinite(self._sums[i, scored]).all()]
        places = self._places(exact, scored)
        found = [self._effect(i, places.get(i), scored) for i in range(len(self.parts))]
        total = self._total()
        if self._gradients is not None:
            self._note_sum()
            self._note_audit(found)
        odd = [p.name for p, row in zip(self.parts, self._sums, strict=True) if np.isinf(row).any()]
        if odd:
            self.notes.append(f"without {', '.join(odd[:3])} the loss is not finite")
        found.sort(key=lambda p: (p.effect is None, -abs(p.effect or 0.0), p.name))
        return Outcome(total, found, self.notes, seconds)

    def _places(self, exact: Sequence[int], scored: Any) -> Mapping[int, tuple[int, int]]:
        if not exact:
            return {}
        if scored.sum() < 2:
            return dict.fromkeys(exact, (1, len(exact)))
        larger = self._paired(exact, scored).larger()
        best, worst = 1 + larger.sum(axis=0), len(exact) - larger.sum(axis=1)
        return {i: (int(b), int(w)) for i, b, w in zip(exact, best, worst, strict=True)}

    def _effect(self, index: int, place: tuple[int, int] | None, scored: Any) -> PartEffect:
        rows = np.isfinite(self._sums[index]) & scored
        estimate = None if self._gradients is None else float(self._gradients[index])
        effect, stderr, low, high = estimate, None, None, None
        if rows.any():
            effect, stderr, low, high = _interval(self._paired([index], rows))
        if place is not None:
            status = EXACT
        elif index in self._dropped or (not rows.any() and estimate is not None):
            status = ESTIMATED
        else:
            status = UNRESOLVED
        best, worst = place or (None, None)
        return PartEffect(
            self.parts[index].name, status, effect, stderr, low, high, int(rows.sum()), estimate,
            best, worst, index in self._audited,
        )  # fmt: skip

    def _note_sum(self) -> None:
        """Gradients that do not add up to what they explain rank nothing well."""
        rows = np.isin(np.arange(len(self._counts)), self._gradient_rows)
        whole = float(
            paired_means(self._nothing[rows][None, :], self._whole[rows], self._counts[rows]).value[
                0
            ]
        )
        found = float(self._gradients.sum())
        if abs(found - whole) > _SUM_OFF * max(abs(whole), float(np.abs(self._gradients).max())):
            self.notes.append(
                f"the gradients add up to {found:+.4g}, all modules together are {whole:+.4g}:"
                " their ranking is rough"
            )

    def _note_audit(self, found: Sequence[PartEffect]) -> None:
        """What the parts that were drawn at random say about those that were not measured."""
        listed = [p for p in found if p.status == EXACT and not p.audited]
        drawn = [p for p in found if p.status == EXACT and p.audited]
        if not drawn or not listed:
            return
        bound = sorted((abs(p.effect or 0.0) for p in listed), reverse=True)[:WANTED][-1]
        over = [p.name for p in drawn if abs(p.effect or 0.0) > bound]
        if over:
            self.notes.append(
                f"audit: {over[0]}, drawn at random, is larger than what the gradients chose:"
                " the ranking misses some; a larger budget measures more"
            )
        else:
            self.notes.append(
                f"audit: none of {len(drawn)} drawn at random is as large as the"
                f" {min(WANTED, len(listed))} largest measured"
            )

    def _total(self) -> Total:
        rows = np.isfinite(self._nothing)
        paired = paired_means(self._nothing[rows][None, :], self._whole[rows], self._counts[rows])
        effect, stderr, low, high = _interval(paired)
        tokens = self._counts[rows].sum()
        return Total(
            float(self._whole[rows].sum() / tokens), float(self._nothing[rows].sum() / tokens),
            effect, stderr, low, high, int(rows.sum()),
            None if self._gradients is None else float(self._gradients.sum()),
        )  # fmt: skip


def _interval(paired: Paired) -> tuple[float, float | None, float | None, float | None]:
    value, stderr = float(paired.value[0]), float(paired.stderr[0])
    if not math.isfinite(stderr):
        return value, None, None, None
    reach = float(paired.reach(CONFIDENCE)[0])
    return value, stderr, value - reach, value + reach


def _refuse_not_finite(rows: Any, losses: Any) -> None:
    if np.isfinite(losses).all():
        return
    row = int(rows[int(np.argmin(np.isfinite(losses)))])
    raise FatalError(
        f"the loss of row {row + 1} is not finite, with nothing taken out",
        hint="git soup show ADAPTER says whether its weights are; else it is the row",
    )


def _affordable(seconds: Sequence[float], left: float) -> int:
    """How many of these, in their order, fit."""
    total = 0.0
    for count, each in enumerate(seconds):
        total += each
        if total > left:
            return count
    return len(seconds)


def _shuffled(sequences: Sequence[Encoded]) -> Iterator[int]:
    """Rows in an order that their own tokens decide, not the file's."""
    keys = [sha256_hex(repr(s.ids).encode()) for s in sequences]
    yield from sorted(range(len(keys)), key=lambda i: (keys[i], i))


def _drawn(parts: Sequence[Part]) -> list[int]:
    """The parts in an order that says nothing about them, the same every time."""
    keys = [sha256_hex(part.name.encode()) for part in parts]
    return sorted(range(len(keys)), key=lambda i: keys[i])
