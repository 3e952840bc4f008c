"""Evaluations that CMA-ES needs to a target, ours and pycma's: the table in docs/howto/evolve.md.

    python benchmarks/cmaes.py [--seeds 15]

Both start at the same points with the same step and the default population. A run that
has not reached the target within the limit counts as unsolved; medians are over the runs that
have. Rastrigin has many minima: both get a population of 20·n and a wide step there, and it is
the share of solved runs that counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import warnings
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from soup_git.arithmetic import cmaes
from soup_git.arithmetic.floats import Array

Function = Callable[[Array], float]


def sphere(x: Array) -> float:
    return float(x @ x)


def ellipsoid(x: Array) -> float:
    """Axes of lengths 1 to 1000: condition 1e6."""
    return float(np.square(x) @ np.logspace(0, 6, len(x)))


def rosenbrock(x: Array) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def rastrigin(x: Array) -> float:
    return float((x * x - 10 * np.cos(2 * np.pi * x) + 10).sum())


FUNCTIONS: dict[str, Function] = {
    "sphere": sphere, "ellipsoid": ellipsoid, "rosenbrock": rosenbrock, "rastrigin": rastrigin,
}  # fmt: skip
DIMENSIONS = (2, 3, 4, 5, 8, 10, 15)
TARGET, FLAT, LIMIT = 1e-8, 1e-12, 100_000


def setting(function: Function, dimension: int) -> tuple[float, int]:
    """(step, population)."""
    if function is rastrigin:
        return 2.0, 20 * dimension
    return 0.5, cmaes.default_population(dimension)


def start(dimension: int, seed: int) -> Array:
    return np.random.default_rng([dimension, seed]).uniform(-2, 2, dimension)


def ours(function: Function, dimension: int, seed: int) -> int | None:
    step, population = setting(function, dimension)
    where = start(dimension, seed).tolist()
    search = cmaes.begin(where, step, seed=seed, population=population)
    for generation in range(1, LIMIT // search.population + 1):
        points = search.ask()
        losses = [function(x) for x in points]
        if min(losses) <= TARGET:
            return generation * search.population
        if max(losses) - min(losses) < FLAT:
            return None  # in a minimum that is not the lowest
        search = search.tell(points, losses)
    return None


def theirs(function: Function, dimension: int, seed: int) -> int | None:
    import cma

    step, population = setting(function, dimension)
    options = {
        "popsize": population,
        "seed": seed + 1, "verbose": -9, "ftarget": TARGET, "maxfevals": LIMIT, "tolfun": FLAT,
        "tolfunhist": 0, "tolx": 1e-14, "tolstagnation": 10**9, "tolflatfitness": 10**9,
    }  # fmt: skip
    es = cma.CMAEvolutionStrategy(start(dimension, seed), step, options)
    while not es.stop():
        points = es.ask()
        es.tell(points, [function(x) for x in points])
    return int(es.result.evaluations) if es.best.f <= TARGET else None


def compare(name: str, dimension: int, seeds: int) -> tuple[list[int], list[int]]:
    """Evaluations of the solved runs: (ours, pycma's)."""
    found: tuple[list[int], list[int]] = ([], [])
    for seed in range(seeds):
        for runs, solve in zip(found, (ours, theirs), strict=True):
            count = solve(FUNCTIONS[name], dimension, seed)
            if count is not None:
                runs.append(count)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS), choices=FUNCTIONS)
    given = parser.parse_args()
    seeds = given.seeds
    warnings.simplefilter("ignore")
    print("| function | n | git-soup | pycma | ratio | solved |\n|---|---|---|---|---|---|")
    for name in given.functions:
        for dimension in DIMENSIONS:
            a, b = compare(name, dimension, seeds)
            one, two = (statistics.median(x) if x else float("nan") for x in (a, b))
            solved = f"{len(a)}/{seeds}, {len(b)}/{seeds}"
            print(
                f"| {name} | {dimension} | {one:.0f} | {two:.0f} | {one / two:.2f} | {solved} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
