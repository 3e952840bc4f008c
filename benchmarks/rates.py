"""Whether a noisy bisection keeps its word under any pair of rates, and what that costs.

    python benchmarks/rates.py [--trials 1000] [--checkpoints 128] [--peer]

Simulated histories with the first broken one anywhere or nowhere with equal chance, an eval
that says "bad" of what is bad at one rate and of what is good at another, and a search that is
told neither (`--confidence 0.95`) or both (`--noise`). "Wrong" is an answer that is not the
truth; what is neither right nor wrong is UNRESOLVED. `--peer` adds git_bayesect
(`pip install git_bayesect scipy`), which presumes that something broke, and so gets histories in
which something did.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from soup_git.arithmetic.posterior import known_rates, unknown_rates
from soup_git.core.bisection import Found, Verdict
from soup_git.core.noisybisection import NoisySearch

CONFIDENCE = 0.95
PAIRS = ((1.0, 0.0), (0.95, 0.05), (0.8, 0.2), (0.7, 0.3), (0.3, 0.05), (0.95, 0.6), (0.5, 0.1),
         (1.0, 0.5), (0.5, 0.0))  # fmt: skip
"""P(bad|bad), P(bad|good)."""

Judge = Callable[[int], bool]


def ours(size: int, judge: Judge, pair: tuple[float, float] | None) -> tuple[int | None, int]:
    """(the culprit or None, probes)"""
    rates = unknown_rates() if pair is None else known_rates(pair[1], 1 - pair[0])
    search = NoisySearch(size, rates, CONFIDENCE)
    while (answer := search.answer()) is None:
        for position in search.ask(1, []):
            search.tell(position, Verdict.bad if judge(position) else Verdict.good)
    return None if answer.found == Found.UNRESOLVED else answer.candidates[0], search.probes


def peers(size: int, judge: Judge) -> tuple[int | None, int]:
    """git_bayesect counts from the newest: its index i is our n − 1 − i."""
    from git_bayesect import Bisector

    search = Bisector([1.0] * size)
    while search.distribution.max() < CONFIDENCE and search.num_total_observations < 2000:
        index = search.select()
        search.record(index, judge(size - 1 - index))
    found = size - 1 - int(search.distribution.argmax())
    sure = search.distribution.max() >= CONFIDENCE
    return (found if sure else None), search.num_total_observations


def trial(seed: int, who: str, size: int, pair: tuple[float, float]) -> tuple[bool, bool, int]:
    """(right, wrong, probes)"""
    chance = random.Random(f"{seed} {who} {size} {pair}")
    truth = chance.randint(0, size - 1 if who == "peer" else size)

    def judge(position: int) -> bool:
        return chance.random() < pair[0 if position >= truth else 1]

    if who == "peer":
        found, probes = peers(size, judge)
    else:
        found, probes = ours(size, judge, pair if who == "known" else None)
    return found == truth, found not in {None, truth}, probes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=128)
    parser.add_argument("--peer", action="store_true", help="beside git_bayesect")
    options = parser.parse_args()
    names = ["estimated", "known", *(["peer"] if options.peer else [])]
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / options.trials)
    print(f"{options.checkpoints} checkpoints, {options.trials} searches, ± {error:.3f}\n")
    columns = " | ".join(f"{n}: right | wrong | probes" for n in names)
    print(f"| bad of bad | bad of good | {columns} |\n|--:|--:|{'--:|' * 3 * len(names)}")
    with ProcessPoolExecutor() as pool:
        for pair in PAIRS:
            cells = []
            for who in names:
                one = partial(trial, who=who, size=options.checkpoints, pair=pair)
                found = np.array(list(pool.map(one, range(options.trials), chunksize=20)), float)
                right, wrong, probes = found.mean(axis=0)
                kept = "" if wrong <= 1 - CONFIDENCE + 2 * error else " !"
                cells.append(f"{right:.3f} | {wrong:.3f}{kept} | {probes:.1f}")
            print(f"| {pair[0]} | {pair[1]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
