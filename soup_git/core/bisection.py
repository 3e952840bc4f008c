"""Which checkpoint broke it: the search alone, as `ask`, `tell` and `answer`; no I/O.

Checkpoints are positions 0 … n−1 in order. The search holds on to one assumption: once bad,
bad from there on. What contradicts it is raised, never guessed around. `core.noisybisection`
has the same three methods for probes that may lie.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Protocol


class Verdict(StrEnum):
    """What one probe says of one checkpoint."""

    good = "good"
    bad = "bad"
    skip = "skip"


class Found(StrEnum):
    """How a search ends."""

    ALL_OK = "ALL_OK"
    BROKEN_AT = "BROKEN_AT"
    UNRESOLVED = "UNRESOLVED"


@dataclass(frozen=True)
class Answer:
    found: Found
    candidates: tuple[int, ...]
    """The culprit, or all that it may be; n is "nothing broke"."""


class Contradiction(Exception):  # noqa: N818 - a finding about the history, not a fault
    """A good checkpoint after a bad one: no single checkpoint broke it."""

    def __init__(self, bad: int, good: int) -> None:
        super().__init__(f"position {good} is good, after {bad} is bad")
        self.bad, self.good = bad, good


class Search(Protocol):
    count: int

    def ask(self, free: int, running: Sequence[int]) -> list[int]:
        """Up to `free` positions to probe now, while those in `running` are being probed."""

    def tell(self, position: int, verdict: Verdict) -> None: ...

    def is_needed(self, position: int) -> bool:
        """Whether a probe of this position can still change the answer."""

    def answer(self) -> Answer | None:
        """None while there is something to ask."""

    def best_guess(self) -> Answer:
        """What is known now, for a search that has to stop."""


def most_probes(count: int) -> int:
    """The bound without skips and one at a time: both ends, then halves."""
    return (count - 1).bit_length() + 2 if count > 1 else 1


class PlainSearch:
    """Both ends first, then halves; several at a time cut the rest into even parts."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._verdicts: dict[int, Verdict] = {}
        self._good = -1
        """The last position known to be good."""
        self._bad = count
        """The first position known to be bad; `count` while none is."""

    def tell(self, position: int, verdict: Verdict) -> None:
        if verdict == Verdict.good:
            if position > self._bad:
                raise Contradiction(self._bad, position)
            self._good = max(self._good, position)
        elif verdict == Verdict.bad:
            if position < self._good:
                raise Contradiction(position, self._good)
            self._bad = min(self._bad, position)
        if self._good == self._bad:
            raise Contradiction(position, position)
        self._verdicts[position] = verdict

    def is_needed(self, position: int) -> bool:
        return position not in self._verdicts and (
            position in self._ends or self._good < position < self._bad
        )

    def ask(self, free: int, running: Sequence[int]) -> list[int]:
        chosen = [end for end in self._ends if self.is_needed(end) and end not in running][:free]
        taken = [*running, *chosen]
        open_ = [x for x in self._open if x not in taken]
        while len(chosen) < free and open_:
            chosen += self._split(free - len(chosen), taken, open_)
            taken = [*running, *chosen]
            open_ = [x for x in open_ if x not in chosen]
        return chosen

    def answer(self) -> Answer | None:
        if any(self.is_needed(end) for end in self._ends) or self._open:
            return None
        return self.best_guess()

    def best_guess(self) -> Answer:
        candidates = tuple(range(self._good + 1, self._bad + 1))
        if len(candidates) > 1:
            return Answer(Found.UNRESOLVED, candidates)
        return Answer(Found.ALL_OK if self._bad == self.count else Found.BROKEN_AT, candidates)

    @property
    def _ends(self) -> list[int]:
        return sorted({0, self.count - 1})

    @property
    def _open(self) -> list[int]:
        """Positions between the last good and the first bad that nobody has judged."""
        between = range(self._good + 1, self._bad)
        return [x for x in between if x not in self._verdicts]

    def _split(self, count: int, taken: Sequence[int], open_: Sequence[int]) -> list[int]:
        """`count` positions that leave the gaps between all that run as even as can be."""
        walls = sorted({self._good, self._bad, *(x for x in taken if self._good < x < self._bad)})
        gaps = [gap for gap in pairwise(walls) if any(gap[0] < x < gap[1] for x in open_)]
        cuts = dict.fromkeys(gaps, 0)
        for _ in range(count):
            widest = max(gaps, key=lambda gap: ((gap[1] - gap[0]) / (cuts[gap] + 1), -gap[0]))
            cuts[widest] += 1
        skipped = [s for s in sorted(self._verdicts) if self._good < s < self._bad]
        chosen: list[int] = []
        for (low, high), pieces in cuts.items():
            part = (high - low) / (pieces + 1)
            for piece in range(pieces):
                left, right = low + part * piece, low + part * (piece + 2)
                inside = [x for x in open_ if left < x < right and x not in chosen]
                if inside:
                    worth = [_worth(x, left, right, skipped) for x in inside]
                    chosen.append(inside[worth.index(max(worth))])
        return chosen


def _worth(x: int, left: float, right: float, skipped: Sequence[int]) -> float:
    """How evenly x divides, and how likely it can be judged: skips come in clusters.

    git jumps away from a skipped midpoint at random; this jumps farther the more were
    skipped, and the same way every time.
    """
    even = min(x - left, right - x)
    if not skipped:
        return even
    next_ = bisect_left(skipped, x)
    away = min(abs(x - s) for s in skipped[max(0, next_ - 1) : next_ + 1])
    return even * away / (away + len(skipped))
