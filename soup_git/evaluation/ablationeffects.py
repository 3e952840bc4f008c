"""The losses that an ablation has measured so far, and what they say of each part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soup_git.errors import FatalError
from soup_git.evaluation.ablationparts import Part
from soup_git.evaluation.ablationplan import WANTED
from soup_git.evaluation.ablationrows import GroupLosses, RowGroup
from soup_git.evaluation.statistics import CONFIDENCE, Paired, paired_means

EXACT, ESTIMATED, UNRESOLVED = "exact", "estimated", "unresolved"
_RACE_CONFIDENCE = 0.99
_RACE_ROWS = 16
_SUM_OFF = 0.2


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


class Effects:
    """Summed losses of each row, by its number: with all, with none, without each part.

    NaN is not measured. `scored` are the rows with a token in the loss.
    """

    def __init__(self, parts: Sequence[Part], counts: Any, scored: Sequence[int]) -> None:
        self._parts = parts
        self._counts = counts
        self._scored = np.zeros(len(counts), dtype=bool)
        self._scored[scored] = True
        self.whole = np.full(len(counts), np.nan)
        self.nothing = np.full(len(counts), np.nan)
        self.sums = np.full((len(parts), len(counts)), np.nan)
        self.gradients: Any = None
        """Of each part, on the mean loss of `gradient_rows`; None where nothing ranked them."""
        self.gradient_rows: list[int] = []
        self.audited: set[int] = set()
        """Parts that are measured although nothing speaks for them; they never leave the race."""
        self.dropped: set[int] = set()

    def take_whole(self, rows: Any, found: Any) -> None:
        _refuse_not_finite(rows, found)
        self.whole[rows] = found

    def take(self, group: RowGroup, found: GroupLosses) -> None:
        """A worker's: what its model changes is added to the losses that are here."""
        rows = np.array(group.rows, dtype=np.int64)
        _refuse_not_finite(rows, found.whole)
        if np.isnan(self.whole[rows]).any():
            self.whole[rows] = found.whole
        if group.with_nothing:
            self.nothing[rows] = found.nothing
        for index, difference in zip(group.parts, found.without, strict=True):
            self.sums[index, rows] = self.whole[rows] + difference

    def lacks_nothing(self, rows: Any) -> bool:
        """Whether the loss with none of the parts is still to be measured on some of `rows`."""
        return bool(np.isnan(self.nothing[rows]).any())

    def still_racing(self, alive: list[int]) -> list[int]:
        """Without those that are surely not among the largest, by the rows so far."""
        known = ~np.isnan(self.sums[alive]).any(axis=0)
        if known.sum() < _RACE_ROWS:
            return alive
        compared = [i for i in range(len(self._parts)) if not np.isnan(self.sums[i, known]).any()]
        if len(compared) <= WANTED:
            return alive
        paired = self._paired(compared, known)
        sizes, reach = np.abs(paired.value), paired.reach(_RACE_CONFIDENCE)
        least = np.sort(sizes - reach)[-WANTED]
        beaten = {i for i, top in zip(compared, sizes + reach, strict=True) if top < least}
        beaten -= self.audited
        self.dropped |= beaten & set(alive)
        return [i for i in alive if i not in beaten]

    def outcome(self) -> tuple[Total, list[PartEffect], list[str]]:
        """The total, the parts by the size of their effect, and what there is to say of them."""
        scored = self._scored
        exact = [i for i in range(len(self._parts)) if np.isfinite(self.sums[i, scored]).all()]
        places = self._places(exact)
        found = [self._effect(i, places.get(i)) for i in range(len(self._parts))]
        notes = []
        if self.gradients is not None:
            notes += [*self._note_sum(), *self._note_audit(found)]
        odd = [p.name for p, row in zip(self._parts, self.sums, strict=True) if np.isinf(row).any()]
        if odd:
            notes.append(f"without {', '.join(odd[:3])} the loss is not finite")
        found.sort(key=lambda p: (p.effect is None, -abs(p.effect or 0.0), p.name))
        return self.total(), found, notes

    def total(self) -> Total:
        rows = np.isfinite(self.nothing)
        effect, stderr, low, high = _interval(self._paired_all(rows))
        tokens = self._counts[rows].sum()
        return Total(
            float(self.whole[rows].sum() / tokens), float(self.nothing[rows].sum() / tokens),
            effect, stderr, low, high, int(rows.sum()),
            None if self.gradients is None else float(self.gradients.sum()),
        )  # fmt: skip

    def _places(self, exact: Sequence[int]) -> Mapping[int, tuple[int, int]]:
        if not exact:
            return {}
        if self._scored.sum() < 2:
            return dict.fromkeys(exact, (1, len(exact)))
        larger = self._paired(exact, self._scored).larger()
        best, worst = 1 + larger.sum(axis=0), len(exact) - larger.sum(axis=1)
        return {i: (int(b), int(w)) for i, b, w in zip(exact, best, worst, strict=True)}

    def _effect(self, index: int, place: tuple[int, int] | None) -> PartEffect:
        rows = np.isfinite(self.sums[index]) & self._scored
        estimate = None if self.gradients is None else float(self.gradients[index])
        effect, stderr, low, high = estimate, None, None, None
        if rows.any():
            effect, stderr, low, high = _interval(self._paired([index], rows))
        if place is not None:
            status = EXACT
        elif index in self.dropped or (not rows.any() and estimate is not None):
            status = ESTIMATED
        else:
            status = UNRESOLVED
        best, worst = place or (None, None)
        return PartEffect(
            self._parts[index].name, status, effect, stderr, low, high, int(rows.sum()), estimate,
            best, worst, index in self.audited,
        )  # fmt: skip

    def _note_sum(self) -> Iterator[str]:
        """Gradients that do not add up to what they explain rank nothing well."""
        rows = np.isin(np.arange(len(self._counts)), self.gradient_rows)
        whole = float(self._paired_all(rows).value[0])
        found = float(self.gradients.sum())
        if abs(found - whole) > _SUM_OFF * max(abs(whole), float(np.abs(self.gradients).max())):
            yield (
                f"the gradients add up to {found:+.4g}, all modules together are {whole:+.4g}:"
                " their ranking is rough"
            )

    def _note_audit(self, found: Sequence[PartEffect]) -> Iterator[str]:
        """What the parts that were drawn at random say about those that were not measured."""
        listed = [p for p in found if p.status == EXACT and not p.audited]
        drawn = [p for p in found if p.status == EXACT and p.audited]
        if not drawn or not listed:
            return
        bound = sorted((abs(p.effect or 0.0) for p in listed), reverse=True)[:WANTED][-1]
        over = [p.name for p in drawn if abs(p.effect or 0.0) > bound]
        if over:
            yield (
                f"audit: {over[0]}, drawn at random, is larger than what the gradients chose:"
                " the ranking misses some; a larger budget measures more"
            )
        else:
            yield (
                f"audit: none of {len(drawn)} drawn at random is as large as the"
                f" {min(WANTED, len(listed))} largest measured"
            )

    def _paired(self, parts: Sequence[int], rows: Any) -> Paired:
        return paired_means(self.sums[parts][:, rows], self.whole[rows], self._counts[rows])

    def _paired_all(self, rows: Any) -> Paired:
        return paired_means(self.nothing[rows][None, :], self.whole[rows], self._counts[rows])


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
