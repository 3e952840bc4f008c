"""The search for merge weights on made-up landscapes: what it promises whatever the scores are."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.errors import ExitCode, FatalError
from soup_git.evaluation.search import FAILED, Evolution, Plan, Scored, State, state_of


def landscape(target):
    """Best where the weights are `target`, a row per group."""
    wanted = np.array(target)

    def score(weights):
        return Scored(1.0 - float(np.square(np.array(weights) - wanted).sum()), 0.05, 1.0, 0.9)

    return score


def at_once(score):
    def submit(weights):
        future = Future()
        try:
            future.set_result(score(weights))
        except KeyboardInterrupt as error:
            future.set_exception(error)
        return future

    return submit


def evolution(score, plan, **how):
    names = [f"input {k}" for k in range(plan.inputs)]
    return Evolution(plan, names, at_once(score), **{"clock": lambda: 0.0, **how})


def test_it_finds_weights_inside_the_simplex_better_than_any_start():
    found = evolution(landscape([[0.6, 0.3, 0.1]]), Plan(3)).run()
    assert found.value > 0.999 > max(s.value for s in found.state.starts)
    assert np.allclose(found.weights, [[0.6, 0.3, 0.1]], atol=0.02)
    assert sum(found.weights[0]) == pytest.approx(1.0)
    assert found.ended == "converged"


def test_raw_weights_reach_what_no_share_can():
    found = evolution(landscape([[1.2, 0.8]]), Plan(2, param="raw")).run()
    assert np.allclose(found.weights, [[1.2, 0.8]], atol=0.1)
    shares = evolution(landscape([[1.2, 0.8]]), Plan(2)).run()
    assert found.value > 0.99 > shares.value


def test_groups_have_weights_of_their_own():
    plan = Plan(2, groups=("attention", "mlp"))
    found = evolution(landscape([[0.9, 0.1], [0.2, 0.8]]), plan).run()
    assert np.allclose(found.weights, [[0.9, 0.1], [0.2, 0.8]], atol=0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 16), st.integers(0, 2**32), st.booleans(), st.integers(2, 9))
def test_the_result_is_never_worse_than_the_best_start(inputs, seed, raw, population):
    def score(weights):
        # A landscape without any shape, the same for the same weights.
        return Scored(random.Random(f"{seed}{weights}").random())

    plan = Plan(inputs, param="raw" if raw else "softmax", population=population, max_generations=4)
    found = evolution(score, plan).run()
    starts = [s.value for s in found.state.starts]
    assert len(starts) == inputs + 1
    assert found.value >= max(starts)
    assert score(found.weights).value == found.value
    assert found.start_value == max(starts)


def test_adapters_alone_and_the_blend_are_scored_first():
    asked = []

    def score(weights):
        asked.append(weights[0])
        return Scored(sum(weights[0]))

    evolution(score, Plan(3)).run()
    third = 1 / 3
    assert asked[:4] == [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (third, third, third)]
    assert asked[4] == asked[3], "the blend again, to know the noise"


def test_three_generations_without_improvement_are_enough():
    found = evolution(lambda _: Scored(0.5, 0.1), Plan(4, population=5)).run()
    assert (found.ended, len(found.state.generations)) == ("converged", 4)
    assert found.origin == "input 0 alone"


def test_an_improvement_within_noise_does_not_count():
    calls = iter(range(10_000))

    def score(_weights):
        return Scored(0.5 + 1e-6 * next(calls) * (-1) ** next(calls), 0.01)

    assert evolution(score, Plan(2, population=4)).run().ended == "converged"


def test_failures_rank_last_are_recorded_and_reported():
    def score(weights):
        if weights[0][0] > 0.5:
            return Scored(None, error="out of memory")
        return landscape([[0.5, 0.5]])(weights)

    found = evolution(score, Plan(2, max_generations=5, population=6)).run()
    recorded = [s for g in found.state.generations for s in g.scores]
    assert FAILED in recorded
    assert recorded.count(FAILED) + 1 == found.state.failures["out of memory"]
    assert found.weights[0][0] <= 0.5
    assert found.state.search.mean[0] < 0.2


def test_a_generation_that_fails_whole_is_no_step():
    plan = Plan(2, population=4, max_generations=2)
    asked = []

    def score(weights):
        asked.append(weights)
        return Scored(0.5) if len(asked) <= 4 else Scored(None, error="gone")

    found = evolution(score, plan).run()
    assert found.value == 0.5
    assert found.state.generations[0].scores == (FAILED,) * 4
    assert len(set(asked[4:12])) == 8, "other candidates the second time"


def test_where_every_start_fails_nothing_is_found():
    with pytest.raises(FatalError, match="every evaluation failed: no base") as caught:
        evolution(lambda _: Scored(None, error="no base"), Plan(2)).run()
    assert caught.value.code == ExitCode.FATAL


def test_with_noise_the_mean_is_returned_and_not_the_luckiest():
    draws = random.Random(1)

    def score(weights):
        true = landscape([[0.55, 0.45]])(weights).value
        return Scored(true + draws.gauss(0, 0.2), 0.05)

    found = evolution(score, Plan(2, population=20, max_generations=30)).run()
    assert found.noise > 0
    assert found.origin.startswith("the mean after") or found.weights == found.start
    lucky = found.state.best[0]
    assert found.value < lucky, "it was scored again"
    assert abs(found.weights[0][0] - 0.55) < 0.2


# -- budget ------------------------------------------------------------------------------------


class Clock:
    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        return self.now

    def scored(self, score):
        def timed(weights):
            self.now += self.seconds
            found = score(weights)
            return Scored(found.value, found.stderr, self.seconds, self.seconds)

        return timed


def test_the_budget_is_respected_and_leaves_room_for_what_comes_after():
    clock = Clock(2.0)
    score = clock.scored(landscape([[0.3, 0.7]]))
    found = evolution(score, Plan(2, budget=60, population=50), clock=clock).run()
    assert found.ended == "budget"
    assert 50 < clock.now <= 60
    assert found.value >= max(s.value for s in found.state.starts)


def test_a_budget_too_small_for_the_starts_names_one_that_would_do():
    clock = Clock(30.0)
    with pytest.raises(FatalError, match="do not fit into 60 s") as caught:
        evolution(clock.scored(landscape([[0.5, 0.5]])), Plan(2, budget=60), clock=clock).run()
    assert "--budget 4m" in caught.value.hint
    assert clock.now == 30.0, "known after the first"


# -- the same whatever happens -----------------------------------------------------------------


def answer(found):
    return found.weights, found.value, [g.scores for g in found.state.generations]


@pytest.mark.parametrize("after", [1, 3, 5, 9, 14, 23])
def test_a_killed_search_goes_on_with_the_same_bits(after):
    score, plan = landscape([[0.6, 0.3, 0.1]]), Plan(3, max_generations=8, population=7, seed=5)
    whole = evolution(score, plan).run()
    done = []

    def killed(weights):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(weights)
        return score(weights)

    first = evolution(killed, plan)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    state = state_of(json.loads(json.dumps(first.state.body())))
    assert state.evaluations == after
    rest = evolution(score, plan, state=state).run()
    assert answer(rest) == answer(whole)
    assert rest.state.evaluations == whole.state.evaluations, "nothing was paid twice"


def test_a_finished_budget_can_be_extended():
    clock = Clock(1.0)
    score = clock.scored(landscape([[0.6, 0.4]]))
    plan = Plan(2, budget=60, population=9, max_generations=12)
    first = evolution(score, plan, clock=clock)
    assert first.run().ended == "budget"
    more = Plan(2, budget=600, population=9, max_generations=12)
    whole = evolution(landscape([[0.6, 0.4]]), more).run()
    clock.now = 0.0
    rest = evolution(score, more, clock=clock, state=first.state).run()
    assert answer(rest) == answer(whole)


def test_how_many_are_scored_at_once_changes_nothing():
    base = landscape([[0.6, 0.3, 0.1]])

    def slow(weights):
        time.sleep(random.random() / 500)
        return base(weights)

    plan = Plan(3, max_generations=6, population=8)
    with ThreadPoolExecutor(4) as pool:
        parallel = Evolution(
            plan, ["a", "b", "c"], lambda w: pool.submit(slow, w), window=4, clock=lambda: 0.0
        ).run()
    assert answer(parallel) == answer(evolution(base, plan).run())


@pytest.mark.parametrize("body", [{}, {"starts": 3}, State().body() | {"search": {"mean": []}}])
def test_a_damaged_state_is_refused(body):
    with pytest.raises((KeyError, TypeError, ValueError)):
        state_of(body)
