"""Levels, noise and slopes of a noisy curve, from medians: one wild point moves none of them.

Everything takes plain lists; a curve has at most some thousand points, and the slope looks at
no more than `_PAIRED` of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

# Of a normal distribution: its standard deviation per median absolute deviation, and the
# standard error of a median per that of a mean.
SIGMA_PER_MAD = 1.4826
MEDIAN_ERROR = 1.2533
_PAIRED = 120


@dataclass(frozen=True)
class Level:
    """Where a stretch of a curve lies: its median, and the standard error of that."""

    value: float
    error: float


@dataclass(frozen=True)
class Slope:
    """Change per step, and its standard error."""

    value: float
    error: float


def noise(values: Sequence[float]) -> float:
    """The standard deviation of single points around a curve that changes slowly.

    From differences of neighbours, which a trend hardly moves: the median of |y[i+1] - y[i]|,
    scaled as for a normal distribution. Zero for fewer than three points.
    """
    steps = [b - a for a, b in pairwise(values)]
    if len(steps) < 2:
        return 0.0
    middle = median(steps)
    return SIGMA_PER_MAD * median(abs(step - middle) for step in steps) / math.sqrt(2)


def level(values: Sequence[float], sigma: float) -> Level:
    """The level of a stretch whose points scatter by `sigma`."""
    return Level(median(values), MEDIAN_ERROR * sigma / math.sqrt(len(values)))


def rolling(values: Sequence[float], width: int) -> list[float]:
    """Medians of each `width` neighbouring points: one fewer than points for each further one."""
    return [median(values[i : i + width]) for i in range(len(values) - width + 1)]


def slope(xs: Sequence[float], ys: Sequence[float]) -> Slope:
    """Theil's and Sen's slope: the median of those of all pairs of points.

    Its error is that of a least squares slope with the residuals' robust spread, times what a
    median costs. A long curve is thinned evenly first.
    """
    every = max(1, math.ceil(len(xs) / _PAIRED))
    xs, ys = xs[::every], ys[::every]
    pairs = [
        (ys[j] - ys[i]) / (xs[j] - xs[i])
        for i in range(len(xs))
        for j in range(i + 1, len(xs))
        if xs[j] != xs[i]
    ]
    if not pairs:
        return Slope(0.0, math.inf)
    value = median(pairs)
    rest = [y - value * x for x, y in zip(xs, ys, strict=True)]
    middle = median(rest)
    spread = SIGMA_PER_MAD * median(abs(r - middle) for r in rest)
    centre = sum(xs) / len(xs)
    width = math.sqrt(sum((x - centre) ** 2 for x in xs))
    return Slope(value, MEDIAN_ERROR * spread / width)
