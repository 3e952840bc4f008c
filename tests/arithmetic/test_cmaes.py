"""CMA-ES against pycma on functions with known minima, and the laws of a search as a value."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.arithmetic import cmaes


def solved(function, search, target=1e-8, limit=20_000):
    while search.generation * search.population < limit:
        points = search.ask()
        losses = [function(x) for x in points]
        if min(losses) <= target:
            return (search.generation + 1) * search.population
        search = search.tell(points, losses)
    pytest.fail(f"no minimum in {limit} evaluations")


@pytest.mark.parametrize(("name", "dimension"), [("sphere", 5), ("ellipsoid", 3), ("sphere", 2)])
def test_it_needs_no_more_evaluations_than_pycma(name, dimension):
    pytest.importorskip("cma")
    import importlib.util

    path = Path(__file__).parents[2] / "benchmarks" / "cmaes.py"
    spec = importlib.util.spec_from_file_location("benchmark_cmaes", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    ours, theirs = benchmark.compare(name, dimension, 5)
    assert len(ours) == len(theirs) == 5
    assert statistics.median(ours) <= 1.15 * statistics.median(theirs)


def test_it_learns_correlations_and_scales():
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    lengths = np.logspace(0, 4, 6)
    evaluations = solved(
        lambda x: float(np.square(turn @ x) @ lengths), cmaes.begin([1.0] * 6, 0.5)
    )
    assert evaluations < 3000


def test_a_search_read_back_goes_on_with_the_same_bits():
    def step(search):
        points = search.ask()
        return search.tell(points, [float(x @ x) for x in points])

    search = cmaes.begin([0.3, -1.0, 2.0], 0.7, seed=11, population=6)
    for _ in range(5):
        search = step(search)
    again = cmaes.resumed(json.loads(json.dumps(search.state())))
    for _ in range(20):
        assert again.state() == search.state()
        assert (again.ask() == search.ask()).all()
        again, search = step(again), step(search)


def test_asking_twice_gives_the_same_points_and_another_seed_gives_others():
    one, two = cmaes.begin([0.0, 0.0], 1.0, seed=1), cmaes.begin([0.0, 0.0], 1.0, seed=2)
    assert (one.ask() == one.ask()).all()
    assert (one.ask() != two.ask()).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 15), st.integers(2, 40), st.integers(0, 2**32), st.sampled_from(["ties", "inf", "noise"])
)  # fmt: skip
def test_the_distribution_stays_one_whatever_the_losses(dimension, population, seed, kind):
    search = cmaes.begin([0.0] * dimension, 1.0, seed=seed, population=population)
    draws = np.random.default_rng(seed)
    for _ in range(12):
        points = search.ask()
        losses = {
            "ties": np.zeros(population),
            "inf": np.where(draws.random(population) < 0.5, np.inf, 1.0),
            "noise": draws.standard_normal(population),
        }[kind]
        search = search.tell(points, losses.tolist())
        assert np.isfinite(search.ask()).all()
        assert np.linalg.eigvalsh(search.covariance)[0] > 0


def test_only_the_order_of_the_losses_matters():
    search = cmaes.begin([1.0, 2.0], 0.5, seed=3)
    points = search.ask()
    losses = [float(x @ x) for x in points]
    assert (
        search.tell(points, losses).state() == search.tell(points, np.exp(losses).tolist()).state()
    )


@pytest.mark.parametrize("losses", [[1.0], [float("nan")] * 6])
def test_what_is_no_generation_is_refused(losses):
    search = cmaes.begin([1.0, 2.0], 0.5, population=6)
    with pytest.raises(ValueError, match=r"losses|not a number"):
        search.tell(search.ask(), losses)


@pytest.mark.parametrize(
    ("mean", "step", "population"), [([], 1.0, 4), ([1.0], 0.0, 4), ([1.0], 1.0, 1)]
)
def test_what_is_no_search_is_refused(mean, step, population):
    with pytest.raises(ValueError, match="dimension"):
        cmaes.begin(mean, step, population=population)
