"""The search for probes that may lie: Bayes over the culprit, greedy for information.

The same `ask`, `tell`, `answer` as `core.bisection`. A position may be probed again, and is
wherever another answer is expected to tell most.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from soup_git.arithmetic.posterior import (
    Posterior,
    Rates,
    demanded,
    is_one_rate,
    largest_cell,
    likeliest,
    most_informative,
    posterior,
    quantile_positions,
)
from soup_git.core.bisection import Answer, Found, Verdict, most_probes

_LEAST_BITS = 1e-9
"""Below this no further answer tells anything, but for rounding."""
_PATIENCE = 50


class NoisySearch:
    """Probes until one culprit has the asked confidence, or nothing more can be learned.

    Several probes at a time lie at quantiles of the posterior, and are told together: so
    the answer depends on what they say, not on which one ends first.
    """

    def __init__(
        self, count: int, rates: Rates, confidence: float, most: int | None = None
    ) -> None:
        """`most` bounds the probes; a coin toss would be asked for ever."""
        self.count = count
        self.confidence = confidence
        self._rates = rates
        self._most = most if most is not None else _PATIENCE * most_probes(count)
        # Arrays and no lists: numpy reads them where they lie.
        self._good = array("q", [0]) * count
        self._bad = array("q", [0]) * count
        self._usable = array("q", range(count))
        self._believed: Posterior | None = None
        self._next: tuple[int, float] | None = None
        self._awaited = 0
        self.probes = 0

    def tell(self, position: int, verdict: Verdict) -> None:
        self.probes += 1
        self._awaited = max(0, self._awaited - 1)
        self._believed = self._next = None
        if verdict == Verdict.good:
            self._good[position] += 1
        elif verdict == Verdict.bad:
            self._bad[position] += 1
        elif position in self._usable:
            self._usable.remove(position)

    def is_needed(self, position: int) -> bool:
        return 0 <= position < self.count

    def ask(self, free: int, running: Sequence[int]) -> list[int]:
        if running or not self._usable:
            return []
        asked = self._choose(min(free, self._most - self.probes))
        self._awaited = len(asked)
        return asked

    def _choose(self, count: int) -> list[int]:
        if self._fresh_ends:
            return self._fresh_ends[:count]
        if count == 1:
            return [self._best[0]]
        return quantile_positions(self.belief, count, self._usable)

    def answer(self) -> Answer | None:
        if self._awaited:
            return None
        if self.probes < self._most and (self._fresh_ends or self._can_learn):
            return None
        return self.best_guess()

    def best_guess(self) -> Answer:
        """A culprit when it has the confidence; else the fewest that together have it."""
        found = likeliest(self.belief, self._demanded)
        if len(found) > 1:
            return Answer(Found.UNRESOLVED, tuple(sorted(found)))
        kind = Found.ALL_OK if found[0] == self.count else Found.BROKEN_AT
        return Answer(kind, tuple(found))

    @property
    def belief(self) -> Posterior:
        """The posterior over the n + 1 culprits, after all that was told."""
        if self._believed is None:
            self._believed = posterior(self._good, self._bad, self._rates)
        return self._believed

    @property
    def _demanded(self) -> float:
        return demanded(self.belief, self._rates, self.confidence)

    @property
    def _fresh_ends(self) -> list[int]:
        ends = dict.fromkeys((0, self.count - 1))
        return [x for x in ends if x in self._usable and not self._good[x] + self._bad[x]]

    @property
    def _can_learn(self) -> bool:
        """Whether the culprit is still open, and a probe could tell."""
        if not self._usable or largest_cell(self.belief, self._usable) >= self._demanded:
            return False
        if is_one_rate(self.belief, self._rates, self.confidence):
            return False
        return self._best[1] >= _LEAST_BITS

    @property
    def _best(self) -> tuple[int, float]:
        """The position to probe next, and the bits to expect of it."""
        if self._next is None:
            self._next = most_informative(self.belief, self._usable)
        return self._next
