"""Where did it break, when every answer may be wrong: the posterior over positions.

Positions 0 … n−1 are in order. The culprit is the first bad one, k; k = n is "nothing broke".
A probe at x says "bad" with probability 1 − m when k ≤ x and with probability f when k > x:
m is the rate of misses, f of false alarms. Either is known, or has a prior on a grid and is
integrated out for each k, so that the noise is estimated together with the culprit.

Noisy binary search by greatest expected information: Burnashev and Zigangirov (1974),
Waeber, Frazier and Henderson, "Bisection search with noisy responses" (2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_LEAST_RATE = 1e-6
"""A rate of exactly 0 would make one wrong answer impossible, and the posterior 0 / 0."""
_GRID = 40
_USUAL, _SMALL, _SMALL_EVERYWHERE = 0.35, 0.23, 0.25
"""Unknown rates: below the first as evals usually have them, below the others soon learned."""
_DOUBT, _LESS_DOUBT = 0.6, 0.26
"""How much of the asked doubt (1 − confidence) an answer may have where rates are unknown."""
_TINY = 1e-300


@dataclass(frozen=True)
class Rates:
    """Grid points of each rate, and the prior weight of each pair of them (sum 1)."""

    false_alarm: Floats
    miss: Floats
    weights: Floats
    """One row a false alarm's rate, one column a miss's."""

    @property
    def are_known(self) -> bool:
        return self.weights.size == 1


@dataclass(frozen=True)
class Posterior:
    """What is believed after some answers; arrays of n + 1, by culprit."""

    probability: Floats
    false_alarm: Floats
    """The rate to expect next, should the culprit be this one."""
    miss: Floats


def known_rates(false_alarm: float, miss: float) -> Rates:
    """Two rates in [0, 1) that add up to less than 1."""
    rates = [np.array([max(rate, _LEAST_RATE)]) for rate in (false_alarm, miss)]
    return Rates(rates[0], rates[1], np.ones((1, 1)))


def unknown_rates() -> Rates:
    """Two rates of which nothing is known but that "bad" is said more often of what is bad.

    Two fifths of the prior are on rates as evals usually have them, both below 0.35, the
    density growing with each. The rest is on every pair: f, m and the gap 1 − f − m are the
    shares of a Dirichlet(1.1, 1.1, 3), so that a rare failure that began (f = 0.05, m = 0.7)
    is as possible as a flaky eval that got worse (f = 0.6, m = 0.05), while a culprit behind
    which nothing changes is none: "nothing broke" is not outvoted by all of these.
    """
    angle = (np.arange(_GRID) + 0.5) / _GRID * np.pi / 2
    grid, widths = np.sin(angle) ** 2, np.sin(2 * angle)
    f, m = grid[:, None], grid[None, :]
    gap = np.maximum(1 - f - m, 0.0)
    areas = np.outer(widths, widths)
    usual = areas * f * m * (f < _USUAL) * (m < _USUAL)
    any_pair = areas * (f * m) ** 0.1 * gap**2
    return Rates(grid, grid, 0.4 * usual / usual.sum() + 0.6 * any_pair / any_pair.sum())


def posterior(good: Sequence[int], bad: Sequence[int], rates: Rates) -> Posterior:
    """The posterior after `good[x]` and `bad[x]` answers at position x, both of n entries.

    Before any answer each of the n + 1 culprits is as likely as another. The likelihood
    only changes where something was probed, so the integral over the rates is taken once
    per such stretch.
    """
    passed, alarmed = np.asarray(good, np.int64), np.asarray(bad, np.int64)
    probed = np.flatnonzero(passed + alarmed)
    # Stretch s: culprits after the s-th probed position and up to the next one.
    alarms = np.concatenate([[0], np.cumsum(alarmed[probed])])
    passes = np.concatenate([[0], np.cumsum(passed[probed])])
    innocent, top = _likelihoods(rates.false_alarm, alarms, passes)
    guilty, other_top = _likelihoods(rates.miss, passes[-1] - passes, alarms[-1] - alarms)
    weighted = innocent @ rates.weights
    total = np.maximum((weighted * guilty).sum(axis=1), _TINY)
    f = (((innocent * rates.false_alarm) @ rates.weights) * guilty).sum(axis=1) / total
    m = (weighted * guilty) @ rates.miss / total
    lengths = np.diff(np.concatenate([[-1], probed, [len(good)]]))
    logs = np.repeat(np.log(total) + top + other_top, lengths)
    weights = np.exp(logs - logs.max())
    return Posterior(weights / weights.sum(), np.repeat(f, lengths), np.repeat(m, lengths))


def _likelihoods(grid: Floats, flips: Counts, right: Counts) -> tuple[Floats, Floats]:
    """For each pair of counts r^flips·(1 − r)^right over the grid, and the log of its scale."""
    logs = np.outer(flips, np.log(grid)) + np.outer(right, np.log1p(-grid))
    top = logs.max(axis=1)
    return np.exp(logs - top[:, None]), top


def demanded(belief: Posterior, rates: Rates, confidence: float) -> float:
    """The probability at which a culprit has the asked confidence.

    Where rates are known, that confidence. Where they are learned from the same answers, a
    search that ends as soon as it looks certain is wrong more often than it claims, and most
    where a rate is large: then more is asked of it. By how much was found by simulation
    (benchmarks/rates.py).
    """
    if rates.are_known:
        return confidence
    top, last = int(belief.probability.argmax()), len(belief.probability) - 1
    # The first and "nothing broke" are about one rate; of the other there is no answer.
    seen = [belief.miss[top]] * (top < last) + [belief.false_alarm[top]] * (top > 0)
    is_small = max(seen) < (_SMALL if len(seen) == 2 else _SMALL_EVERYWHERE)
    return 1 - (1 - confidence) * (_DOUBT if is_small else _LESS_DOUBT)


def is_one_rate(belief: Posterior, rates: Rates, confidence: float) -> bool:
    """Whether "bad" is said at one middling rate everywhere, so that no probe can tell more.

    Then either nothing broke or the first was broken, and both say the same of every probe.
    """
    ends = belief.probability[[0, -1]]
    is_sure = ends.sum() >= 1 - (1 - confidence) * _LESS_DOUBT
    rate = (belief.miss[0], belief.false_alarm[-1])[int(ends.argmax())]
    return bool(not rates.are_known and is_sure and rate >= _SMALL_EVERYWHERE)


def information(belief: Posterior) -> Floats:
    """Bits that one more answer at each of the n positions should tell about the culprit."""
    p, f, m = belief.probability, belief.false_alarm, belief.miss
    # Up to x: the culprit is k ≤ x, and the position bad. After x: k > x, and it is good.
    said_bad = _up_to(p * (1 - m)) + _after(p * f)
    unsure = _up_to(p * _entropy(m)) + _after(p * _entropy(f))
    return np.maximum(_entropy(said_bad) - unsure, 0.0)


def most_informative(belief: Posterior, usable: Sequence[int]) -> tuple[int, float]:
    """The usable position to probe next, and the bits to expect of it."""
    bits = information(belief)[np.asarray(usable)]
    best = int(bits.argmax())
    return usable[best], float(bits[best])


def quantile_positions(belief: Posterior, count: int, usable: Sequence[int]) -> list[int]:
    """The usable positions nearest to the quantiles 1/(count + 1), 2/(count + 1), …"""
    targets = np.arange(1, count + 1) / (count + 1)
    chances = _up_to(belief.probability)[np.asarray(usable)]
    return [usable[int(np.abs(chances - target).argmin())] for target in targets]


def likeliest(belief: Posterior, mass: float) -> list[int]:
    """The fewest culprits that together have a probability of `mass`, likeliest first."""
    order = np.argsort(-belief.probability, kind="stable")
    enough = int(np.searchsorted(np.cumsum(belief.probability[order]), mass)) + 1
    return [int(k) for k in order[:enough]]


def largest_cell(belief: Posterior, usable: Sequence[int]) -> float:
    """The most probability of culprits that no usable position tells apart."""
    edges = np.concatenate([[0], np.asarray(usable, np.int64) + 1])
    return float(np.add.reduceat(belief.probability, edges).max())


def _up_to(values: Floats) -> Floats:
    """Of n + 1 values: the sums of the first 1, 2, … n."""
    sums: Floats = np.cumsum(values)[:-1]
    return sums


def _after(values: Floats) -> Floats:
    """Of n + 1 values: the sums of what comes after the first 1, 2, … n."""
    sums: Floats = np.cumsum(values[::-1])[::-1][1:]
    return sums


def _entropy(p: Floats) -> Floats:
    """Of a yes-or-no question, in bits."""
    q = np.clip(p, 1e-300, 1 - 1e-16)
    bits: Floats = -(q * np.log2(q) + (1 - q) * np.log2(1 - q))
    return bits
