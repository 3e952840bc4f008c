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
_LARGEST_UNKNOWN = 0.5
"""From here on "bad" says nothing: good and bad could trade places."""
_GRID = 40


@dataclass(frozen=True)
class Rates:
    """Grid points of each rate with the logarithm of their prior weights (which sum to 1)."""

    false_alarm: Floats
    miss: Floats
    log_weights: Floats


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
    return Rates(rates[0], rates[1], np.zeros(1))


def unknown_rates() -> Rates:
    """Two rates of which nothing is known but that they lie below 1/2.

    The density grows with the rate. An even one stopped too early at a rate of 0.3: right
    in 91 of 100 searches that claimed 95; this one keeps the claim for two probes more.
    """
    grid = (np.arange(_GRID) + 0.5) / _GRID * _LARGEST_UNKNOWN
    return Rates(grid, grid, np.log(grid / grid.sum()))


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
    misses = passes[-1] - passes
    hits = alarms[-1] - alarms
    innocent, f = _integrate(rates.false_alarm, rates.log_weights, alarms, passes)
    guilty, m = _integrate(rates.miss, rates.log_weights, misses, hits)
    lengths = np.diff(np.concatenate([[-1], probed, [len(good)]]))
    logs = np.repeat(innocent + guilty, lengths)
    weights = np.exp(logs - logs.max())
    return Posterior(weights / weights.sum(), np.repeat(f, lengths), np.repeat(m, lengths))


def _integrate(
    grid: Floats, log_weights: Floats, flips: Counts, right: Counts
) -> tuple[Floats, Floats]:
    """For each pair of counts: log ∫ r^flips (1 − r)^right dprior, and the mean of r after it."""
    logs = np.outer(flips, np.log(grid)) + np.outer(right, np.log1p(-grid)) + log_weights
    top = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - top)
    total = weights.sum(axis=1)
    return np.log(total) + top[:, 0], weights @ grid / total


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
