"""How sure a score is: standard errors, paired differences, confidence intervals.

A metric is a function of the sum of its rows' statistics: a mean of (score, 1), the
exponential of a mean, corpus BLEU of n-gram counts. The jackknife therefore serves all of
them (Efron 1982; for a mean it is the textbook s/√n exactly), and for two adapters on the
same rows it is the paired standard error. Where every row is right or wrong, a handful of
rows that all agree would have no variance at all, so the plus-four estimate stands in for
one proportion (Agresti and Coull 1998) and Bonett and Price (2012) for the difference of
two paired ones. Intervals are Student's t, or normal for proportions; nothing is drawn at
random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Row = tuple[float, ...]
Rows = Sequence[Row | None]
"""Per row its statistics; None where the row could not be scored."""

CONFIDENCE = 0.95
MEAN, EXP_MEAN, BLEU = "mean", "exp_mean", "bleu"


@dataclass(frozen=True)
class Estimate:
    """A metric's value on n rows; `stderr` None where one row is too few to tell."""

    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline over the rows that both have, with its interval."""

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def is_noise(self) -> bool:
        """Whether no difference at all lies within the interval; also where there is none."""
        return self.low is None or self.high is None or self.low <= 0.0 <= self.high


def estimate(kind: str, rows: Rows, *, binary: bool = False) -> Estimate | None:
    """The value and its standard error; None when no row was scored."""
    scored = [row for row in rows if row is not None]
    if not scored:
        return None
    known = _matrix(scored)
    value = _STATISTICS[kind](known.sum(axis=0))
    if binary:
        n = len(known)
        shrunk = (float(known[:, 0].sum()) + 2) / (n + 4)
        return Estimate(value, math.sqrt(shrunk * (1 - shrunk) / (n + 4)), n)
    return Estimate(value, _jackknife(_left_out(kind, known)), len(known))


def difference(
    kind: str, candidate: Rows, baseline: Rows, *, binary: bool = False
) -> Difference | None:
    """Candidate minus baseline, row by row; None when no row was scored on both sides."""
    pairs = [
        (ours, theirs)
        for ours, theirs in zip(candidate, baseline, strict=True)
        if ours is not None and theirs is not None
    ]
    if not pairs:
        return None
    ours, theirs = _matrix([o for o, _ in pairs]), _matrix([t for _, t in pairs])
    statistic = _STATISTICS[kind]
    value = statistic(ours.sum(axis=0)) - statistic(theirs.sum(axis=0))
    n = len(pairs)
    if binary:
        return _of_proportions(ours[:, 0], theirs[:, 0], value)
    stderr = _jackknife(_left_out(kind, ours) - _left_out(kind, theirs))
    if stderr is None:
        return Difference(value, None, None, None, n)
    reach = t_quantile(0.5 + CONFIDENCE / 2, n - 1) * stderr
    return Difference(value, stderr, value - reach, value + reach, n)


def _of_proportions(ours: Any, theirs: Any, value: float) -> Difference:
    n = len(ours)
    gained = (float(((ours > theirs) * 1).sum()) + 1) / (n + 2)
    lost = (float(((ours < theirs) * 1).sum()) + 1) / (n + 2)
    stderr = math.sqrt((gained + lost - (gained - lost) ** 2) / (n + 2))
    reach = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * stderr
    middle = gained - lost
    return Difference(value, stderr, max(-1.0, middle - reach), min(1.0, middle + reach), n)


def _matrix(rows: Sequence[Row]) -> Any:
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def _left_out(kind: str, rows: Any) -> Any:
    """The statistic without each row in turn: float64, (rows,)."""
    total = rows.sum(axis=0)
    return np.array([_STATISTICS[kind](total - row) for row in rows], dtype=np.float64)


def _jackknife(left_out: Any) -> float | None:
    n = len(left_out)
    if n < 2:
        return None
    squares = float(((left_out - left_out.mean()) ** 2).sum())
    return math.sqrt((n - 1) / n * squares)


def _mean(total: Any) -> float:
    return float(total[0] / total[1]) if total[1] else 0.0


def _exp_mean(total: Any) -> float:
    # Beyond this a perplexity is no number any more; the loss beside it still is.
    return math.exp(min(_mean(total), 700.0))


def _bleu(total: Any) -> float:
    from sacrebleu.metrics.bleu import BLEU as SACREBLEU

    counts = [round(x) for x in total]
    found = SACREBLEU.compute_bleu(
        counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp"
    )
    return float(found.score)


_STATISTICS: dict[str, Callable[[Any], float]] = {MEAN: _mean, EXP_MEAN: _exp_mean, BLEU: _bleu}


def t_quantile(p: float, freedom: int) -> float:
    """Student's t: exact for 1 and 2 degrees of freedom, above to 1% (3) and better.

    Source: Abramowitz and Stegun 26.7.5, the expansion around the normal quantile.
    """
    if freedom < 1:
        return math.inf
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**k for k, term in enumerate(terms, 1))


@dataclass(frozen=True)
class Paired:
    """Differences of mean losses over the same rows, several candidates at once.

    `left_out` (candidates, rows): each difference without each row in turn, centred. It
    holds all that is needed to compare the candidates with each other, row by row.
    """

    value: Any
    stderr: Any
    left_out: Any

    @property
    def rows(self) -> int:
        return int(self.left_out.shape[1])

    def reach(self, confidence: float = CONFIDENCE) -> Any:
        """Half the width of each interval; infinite where one row is all there is."""
        return t_quantile(0.5 + confidence / 2, self.rows - 1) * self.stderr

    def larger(self, confidence: float = CONFIDENCE) -> Any:
        """(candidates, candidates) of bool: whether |value| of the first is surely the larger."""
        sizes, signs = np.abs(self.value), np.where(self.value < 0, -1.0, 1.0)
        centred = self.left_out * signs[:, None]
        inner = centred @ centred.T
        squares = np.diag(inner)
        spread = np.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0.0)
        n = self.rows
        stderr = np.sqrt((n - 1) / n * spread)
        gap = sizes[:, None] - sizes[None, :]
        return gap > t_quantile(0.5 + confidence / 2, n - 1) * stderr


def paired_means(sums: Any, baseline: Any, counts: Any) -> Paired:
    """Means over all tokens of `sums` minus those of `baseline`: `difference` for many at once.

    `sums` (candidates, rows), `baseline` (rows,) and `counts` (rows,) are float64: per row
    the summed loss and the tokens it is over.
    """
    differences = sums - baseline[None, :]
    total, tokens = differences.sum(axis=1), counts.sum()
    value = total / tokens
    rest = tokens - counts
    left_out = (total[:, None] - differences) / np.where(rest > 0, rest, 1.0)[None, :]
    left_out = left_out - left_out.mean(axis=1, keepdims=True)
    n = len(counts)
    stderr = np.sqrt((n - 1) / n * (left_out**2).sum(axis=1))
    if n < 2:
        stderr = np.full(len(value), math.inf)
    return Paired(value, stderr, left_out)
