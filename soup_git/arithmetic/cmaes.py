"""CMA-ES: a search that learns the scale and the correlations of what it searches.

Hansen, The CMA Evolution Strategy: A Tutorial, 2016, arXiv 1604.00772: rank-µ and rank-one
update, cumulative step-size adaptation, the better half recombined with logarithmic
weights, the worse half with negative ones (active CMA, Jastrebski & Arnold 2006).

A search is a value. `ask` depends on it alone, because the numbers of a generation come
from a counter-based generator keyed by the seed; `tell` returns the next value. So a search
that was stopped and read back from JSON goes on with the very bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from soup_git.arithmetic.floats import Array

_SMALLEST_SHARE = 1e-14
"""Of the largest variance. On a plateau of equal losses a direction would shrink below rounding."""


class _Constants(NamedTuple):
    """The tutorial's table 1 for one dimension and population."""

    weights: Array
    parents: int
    parent_mass: float
    path_rate: float
    step_rate: float
    step_damping: float
    one_rate: float
    mu_rate: float
    expected_length: float


@dataclass(frozen=True, eq=False)
class Search:
    """The distribution N(mean, step²·covariance) of a minimisation, and its two paths."""

    mean: Array
    step: float
    covariance: Array
    path: Array
    step_path: Array
    population: int
    seed: int
    generation: int = 0

    @property
    def dimension(self) -> int:
        return len(self.mean)

    @cached_property
    def _constants(self) -> _Constants:
        return _constants(self.dimension, self.population)

    @cached_property
    def _axes(self) -> tuple[Array, Array]:
        """Eigenvectors of the covariance (columns) and the roots of its eigenvalues."""
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors, np.sqrt(values)

    def ask(self) -> Array:
        """The points of this generation, float64 population×dimension; the same each time."""
        bits = np.random.Philox(key=self.seed, counter=[0, 0, 0, self.generation])
        normal = np.random.Generator(bits).standard_normal((self.population, self.dimension))
        vectors, lengths = self._axes
        return np.asarray(self.mean + self.step * ((normal * lengths) @ vectors.T))

    def tell(self, points: Array, losses: Sequence[float]) -> Search:
        """The search after `points` had `losses`; lower is better, inf ranks last.

        Equal losses rank in the order of the points. Raises ValueError where the numbers
        of points and losses are not the population, or a loss is no number.
        """
        values = np.asarray(losses, np.float64)
        if points.shape != (self.population, self.dimension) or values.shape != (self.population,):
            raise ValueError(
                f"{len(values)} losses of points {points.shape}; a generation has"
                f" {self.population}×{self.dimension}"
            )
        if np.isnan(values).any():
            raise ValueError("a loss is not a number; inf says that a point failed")
        c, n = self._constants, self.dimension
        vectors, lengths = self._axes
        steps = (points[np.argsort(values, kind="stable")] - self.mean) / self.step
        move = c.weights[: c.parents] @ steps[: c.parents]

        whitened = vectors @ ((vectors.T @ move) / lengths)
        step_path = _followed(self.step_path, c.step_rate, c.parent_mass, whitened)
        length = float(np.linalg.norm(step_path)) / c.expected_length
        # A path that grows fast says "larger steps", which are not to be learnt as a direction.
        settled = math.sqrt(1 - (1 - c.step_rate) ** (2 * (self.generation + 1)))
        is_settled = length / settled < 1.4 + 2 / (n + 1)
        path = _followed(self.path, c.path_rate, c.parent_mass, move if is_settled else 0.0 * move)

        weights = c.weights.copy()
        worse = weights < 0
        if worse.any():
            # Each bad step is taken as long as an average one: the covariance stays positive.
            squares = np.square((steps[worse] @ vectors) / lengths).sum(axis=1)
            weights[worse] *= n / np.maximum(squares, 1e-300)
        stalled = 0.0 if is_settled else c.path_rate * (2 - c.path_rate)
        kept = 1 - c.one_rate * (1 - stalled) - c.mu_rate * float(c.weights.sum())
        covariance = kept * self.covariance + c.one_rate * np.outer(path, path)
        covariance += c.mu_rate * ((steps.T * weights) @ steps)
        growth = min(1.0, c.step_rate / c.step_damping * (length - 1))
        return replace(
            self,
            mean=self.mean + self.step * move,
            step=self.step * math.exp(growth),
            covariance=_held_open(covariance),
            path=path,
            step_path=step_path,
            generation=self.generation + 1,
        )

    def state(self) -> dict[str, Any]:
        """As JSON, from which `resumed` makes an equal search, bit for bit."""
        return {
            "mean": self.mean.tolist(),
            "step": self.step,
            "covariance": self.covariance.tolist(),
            "path": self.path.tolist(),
            "step_path": self.step_path.tolist(),
            "population": self.population,
            "seed": self.seed,
            "generation": self.generation,
        }


def begin(
    mean: Sequence[float], step: float, *, seed: int = 0, population: int | None = None
) -> Search:
    """A search from N(mean, step²·I). `population` is 4 + ⌊3·ln n⌋ where none is given.

    Raises ValueError for no dimension, a step that is not positive, a population below 2.
    """
    start = np.array(mean, np.float64)
    n = len(start)
    population = default_population(n) if population is None else population
    if n < 1 or population < 2 or not step > 0:
        raise ValueError(f"dimension {n}, population {population}, step {step}")
    return Search(start, float(step), np.eye(n), np.zeros(n), np.zeros(n), population, seed)


def resumed(state: Mapping[str, Any]) -> Search:
    """The reverse of `Search.state`. Raises KeyError, TypeError or ValueError for anything else."""
    mean = np.array(state["mean"], np.float64)
    n = len(mean)
    return Search(
        mean=mean,
        step=float(state["step"]),
        covariance=np.array(state["covariance"], np.float64).reshape(n, n),
        path=np.array(state["path"], np.float64).reshape(n),
        step_path=np.array(state["step_path"], np.float64).reshape(n),
        population=int(state["population"]),
        seed=int(state["seed"]),
        generation=int(state["generation"]),
    )


def default_population(dimension: int) -> int:
    return 4 + int(3 * math.log(max(dimension, 1)))


def _followed(path: Array, rate: float, parent_mass: float, move: Array) -> Array:
    """An exponentially fading sum of moves whose length is that of one random move."""
    return np.asarray((1 - rate) * path + math.sqrt(rate * (2 - rate) * parent_mass) * move)


def _held_open(covariance: Array) -> Array:
    """Symmetric and positive: what rounding took below the smallest share is put back."""
    covariance = (covariance + covariance.T) / 2
    values, vectors = np.linalg.eigh(covariance)
    least = _SMALLEST_SHARE * values[-1]
    if values[0] >= least:
        return np.asarray(covariance)
    covariance = (vectors * np.maximum(values, 2 * least)) @ vectors.T
    return np.asarray((covariance + covariance.T) / 2)


def _constants(n: int, population: int) -> _Constants:
    ranked = math.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
    parents = population // 2
    good, bad = np.maximum(ranked, 0.0), np.minimum(ranked, 0.0)
    mass = float(good.sum() ** 2 / np.square(good).sum())
    bad_mass = float(bad.sum() ** 2 / np.square(bad).sum())
    step_rate = (mass + 2) / (n + mass + 5)
    one_rate = 2 / ((n + 1.3) ** 2 + mass)
    mu_rate = min(1 - one_rate, 2 * (0.25 + mass + 1 / mass - 2) / ((n + 2) ** 2 + mass))
    scale = min(
        1 + one_rate / mu_rate,
        1 + 2 * bad_mass / (mass + 2),
        (1 - one_rate - mu_rate) / (n * mu_rate),
    )
    return _Constants(
        weights=good / good.sum() + bad / -bad.sum() * scale,
        parents=parents,
        parent_mass=mass,
        path_rate=(4 + mass / n) / (n + 4 + 2 * mass / n),
        step_rate=step_rate,
        step_damping=1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + step_rate,
        one_rate=one_rate,
        mu_rate=mu_rate,
        expected_length=math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n)),
    )
