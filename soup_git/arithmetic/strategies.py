"""The registry of merge strategies. A row is its paper, one line, and a pure function.

Three kinds. `Linear` strategies are Σ c·ΔW with coefficients per module, exact in the
factors. `Elementwise` ones act on entries, in the coordinates that `--space` names. `Core`
ones act on the small matrices of the updates in their shared basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from soup_git.arithmetic import elementwise
from soup_git.arithmetic.elementwise import Elementwise
from soup_git.arithmetic.factors import Update, inner, measure
from soup_git.arithmetic.floats import Array


@dataclass(frozen=True)
class Linear:
    """Coefficients of Σ c·ΔW from the updates of one module and the weights."""

    coefficients: Callable[[Sequence[Update], Sequence[float]], list[float]]
    exact: bool = False
    """Stored as concatenated factors where no rank is asked for."""


@dataclass(frozen=True)
class Core:
    """(coordinates q×q per adapter, weights, rank) -> merged q×q (float64), and what was cut off."""

    merge: Callable[[Sequence[Array], Sequence[float], int], tuple[Array, float]]


@dataclass(frozen=True)
class Strategy:
    summary: str
    paper: str
    method: Linear | Elementwise | Core
    settings: tuple[str, ...] = ()
    """Which of density, seed it reads."""
    columns: bool = False
    """Acts on KnOTS' aligned right factors instead of the space asked for."""
    inputs: int | None = None
    searches: bool = False
    """Its weights come from a suite's scores, which nobody gives a merge of branches."""


def as_given(_updates: Sequence[Update], weights: Sequence[float]) -> list[float]:
    return list(weights)


def spherical(updates: Sequence[Update], weights: Sequence[float]) -> list[float]:
    """Coefficients of slerp between two updates; t is the second one's share of the weights.

    sin((1−t)θ)/sin θ and sin(tθ)/sin θ with θ the angle of the two ΔW as vectors; a straight
    line where one is zero, missing, or they nearly point the same way.
    """
    if len(updates) != 2:
        return list(weights)
    t = weights[1] / (weights[0] + weights[1])
    lengths = [measure(update)[0] for update in updates]
    if min(lengths) == 0.0:
        return [1 - t, t]
    cosine = max(-1.0, min(1.0, inner(updates[0], updates[1]) / lengths[0] / lengths[1]))
    if abs(cosine) > _STRAIGHT:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


_STRAIGHT = 0.9995


def isotropic(
    coordinates: Sequence[Array], weights: Sequence[float], rank: int
) -> tuple[Array, float]:
    """Σ w·C with every non-zero singular value replaced by their mean, the leading `rank` kept."""
    u, s, vt = np.linalg.svd(_weighted(coordinates, weights))
    kept = int(np.count_nonzero(s > 1e-7 * s[0]))
    # Equal singular values have no leading ones: the truncation must be by those replaced.
    level, top = float(s[:kept].mean()) if kept else 0.0, min(kept, rank)
    return level * (u[:, :top] @ vt[:top]), level * math.sqrt(kept - top)


def singular_vectors(
    coordinates: Sequence[Array], weights: Sequence[float], rank: int
) -> tuple[Array, float]:
    """The leading singular vectors of each, whitened against each other, with their own σ."""
    share = max(1, rank // len(coordinates))
    us, ss, vs = [], [], []
    for core, weight in zip(coordinates, weights, strict=True):
        u, s, vt = np.linalg.svd(core)
        us.append(u[:, :share])
        ss.append(weight * s[:share])
        vs.append(vt[:share].T)
    merged = (_polar(np.hstack(us)) * np.concatenate(ss)) @ _polar(np.hstack(vs)).T
    return np.asarray(merged), 0.0


def _polar(columns: Array) -> Array:
    """The nearest matrix with orthonormal columns (Procrustes)."""
    u, _, vt = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(u @ vt)


def _weighted(coordinates: Sequence[Array], weights: Sequence[float]) -> Array:
    return np.asarray(sum(w * c for w, c in zip(weights, coordinates, strict=True)))


_TIES = "TIES-Merging, Yadav et al. 2023, arXiv 2306.01708"
_DARE = "DARE, Yu et al. 2023, arXiv 2311.03099"
_DENSITY, _RANDOM = ("density",), ("density", "seed")
_trimmed_mean = Elementwise(elementwise.keep_largest, elect=True)

STRATEGIES: dict[str, Strategy] = {
    "linear": Strategy(
        "the weighted sum of the updates, exact; the default, and what field evidence favours",
        "Task arithmetic, Ilharco et al. 2022, arXiv 2212.04089",
        Linear(as_given, exact=True),
    ),
    "cmaes": Strategy(
        "linear, its weights searched for: those that score best on the suite of --eval",
        "CMA-ES, Hansen 2016, arXiv 1604.00772",
        Linear(as_given, exact=True),
        ("seed",),
        searches=True,
    ),
    "svd": Strategy(
        "linear, then the best approximation of rank --rank",
        "Eckart & Young 1936",
        Linear(as_given),
    ),
    "slerp": Strategy(
        "along the arc between two updates, which keeps their length",
        "Shoemake 1985; of updates as in mergekit",
        Linear(spherical),
        inputs=2,
    ),
    "ties": Strategy(
        "keep the largest entries, elect a sign by mass, mean over those that agree",
        _TIES,
        _trimmed_mean,
        _DENSITY,
    ),
    "dare": Strategy(
        "drop entries at random, rescale the rest by 1/density, sum",
        _DARE,
        Elementwise(elementwise.keep_random, elect=False),
        _RANDOM,
    ),
    "dare_ties": Strategy(
        "drop at random and rescale as dare, then elect and average as ties",
        f"{_DARE}; {_TIES}",
        Elementwise(elementwise.keep_random, elect=True),
        _RANDOM,
    ),
    "magnitude_prune": Strategy(
        "keep the largest entries, sum",
        "as PEFT's magnitude_prune; Han et al. 2015, arXiv 1506.02626",
        Elementwise(elementwise.keep_largest, elect=False),
        _DENSITY,
    ),
    "breadcrumbs": Strategy(
        "drop the smallest entries and the largest hundredth, sum",
        "Model Breadcrumbs, Davari & Belilovsky 2023, arXiv 2312.06795",
        Elementwise(elementwise.keep_middle, elect=False),
        _DENSITY,
    ),
    "della": Strategy(
        "drop at random, small entries more often, rescale, then elect and average as ties",
        "DELLA-Merging, Deep et al. 2024, arXiv 2406.11617",
        Elementwise(elementwise.keep_by_magnitude, elect=True),
        _RANDOM,
    ),
    "knots": Strategy(
        "ties on right factors aligned by one SVD of all updates",
        "KnOTS, Stoica et al. 2024, arXiv 2410.19735",
        _trimmed_mean,
        _DENSITY,
        columns=True,
    ),
    "iso_c": Strategy(
        "linear with all singular values set to their mean, so that no task dominates",
        "Iso-C, Marczak et al. 2025, arXiv 2502.04959",
        Core(isotropic),
    ),
    "tsv_m": Strategy(
        "the leading singular vectors of each, whitened against each other",
        "TSV-Merge, Gargiulo et al. 2024, arXiv 2412.00081",
        Core(singular_vectors),
    ),
}
