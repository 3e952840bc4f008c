"""Whether a noisy bisection is right as often as it claims, and what it costs.

    python benchmarks/bisection.py [--trials 400] [--quick]

Simulated histories of 16 to 4,096 checkpoints, the first broken one anywhere or nowhere with
equal chance, and verdicts that lie at rates from 0 to 0.3. Searched with the rate known
(`--noise`) and with the rate estimated (`--confidence`), at a confidence of 0.95. Beside it:
plain bisection with majority votes, told the rate, with as many votes as give it the same
reliability, each vote ending as soon as it is decided.

Then the wall-clock of `--jobs`, with probes that take a fixed time on threads.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from concurrent.futures import Future

import numpy as np

from soup_git.arithmetic.posterior import known_rates, unknown_rates
from soup_git.core.bisection import PlainSearch, Search, Verdict, most_probes
from soup_git.core.noisybisection import NoisySearch
from soup_git.evaluation.bisecting import drive
from soup_git.evaluation.executors import Flag, pool
from soup_git.evaluation.probes import Outcome

CONFIDENCE = 0.95
SIZES = (16, 64, 256, 1024, 4096)
RATES = (0.0, 0.05, 0.1, 0.2, 0.3)


def lies(position: int, first_bad: int, rate: float, chance: random.Random) -> Verdict:
    is_bad = (position >= first_bad) != (chance.random() < rate)
    return Verdict.bad if is_bad else Verdict.good


def bayes(
    size: int, rate: float, known: bool, first_bad: int, chance: random.Random
) -> tuple[bool, int]:
    rates = known_rates(rate, rate) if known else unknown_rates()
    search = NoisySearch(size, rates, CONFIDENCE)
    while (answer := search.answer()) is None:
        for position in search.ask(1, []):
            search.tell(position, lies(position, first_bad, rate, chance))
    return answer.candidates == (first_bad,), search.probes


def votes_needed(size: int, rate: float) -> int:
    """The odd number of votes with which every majority of a whole search is right, at 0.95."""
    for votes in range(1, 400, 2):
        wrong = sum(
            math.comb(votes, k) * rate**k * (1 - rate) ** (votes - k)
            for k in range((votes + 1) // 2, votes + 1)
        )
        if (1 - wrong) ** most_probes(size) >= CONFIDENCE:
            return votes
    raise SystemExit(f"no number of votes is enough for {size} and {rate}")


def majority(size: int, rate: float, first_bad: int, chance: random.Random) -> tuple[bool, int]:
    search, votes, probes = PlainSearch(size), votes_needed(size, rate), 0
    while (answer := search.answer()) is None:
        position = search.ask(1, [])[0]
        counts = {Verdict.good: 0, Verdict.bad: 0}
        while max(counts.values()) <= votes // 2:
            counts[lies(position, first_bad, rate, chance)] += 1
            probes += 1
        winner = max(counts, key=lambda verdict: counts[verdict])
        if (position, winner) == (0, Verdict.bad):
            return first_bad == 0, probes
        if (position, winner) == (size - 1, Verdict.good):
            return first_bad == size, probes
        search.tell(position, winner)
    return answer.candidates == (first_bad,), probes


def row(size: int, rate: float, trials: int) -> str:
    cells = []
    for name in ("known", "estimated", "majority"):
        chance = random.Random(f"{size} {rate} {name}")
        right, probes = [], []
        for _ in range(trials):
            first_bad = chance.randint(0, size)
            if name == "majority":
                found, count = majority(size, rate, first_bad, chance)
            else:
                found, count = bayes(size, rate, name == "known", first_bad, chance)
            right.append(found)
            probes.append(count)
        share = sum(right) / trials
        error = math.sqrt(max(share * (1 - share), CONFIDENCE * (1 - CONFIDENCE)) / trials)
        kept = "" if share >= CONFIDENCE - 2 * error else " !"
        tail = np.percentile(probes, 95)
        cells.append(f"{share:.3f} ± {error:.3f}{kept} | {np.mean(probes):.1f} | {tail:.0f}")
    return f"| {size} | {rate} | {' | '.join(cells)} |"


def confidence_table(trials: int, sizes: tuple[int, ...]) -> None:
    print(f"Confidence {CONFIDENCE}, {trials} searches a row; right ± its standard error.\n")
    columns = " | ".join(f"{n}: right | probes | 95 %" for n in ("known", "estimated", "majority"))
    print(f"| checkpoints | flip rate | {columns} |\n|--:|--:|{'--:|' * 9}")
    for size in sizes:
        for rate in RATES:
            print(row(size, rate, trials), flush=True)


def ends_table(trials: int) -> None:
    """The two culprits at the ends, where a search has no neighbour to lean on; and lopsided noise."""
    print(f"\nRate estimated, 256 checkpoints, {trials} searches a cell.\n")
    print("| good judged bad | bad judged good | first is bad | nothing broke | anywhere |")
    print("|--:|--:|--:|--:|--:|")
    for alarm, miss in ((0.1, 0.1), (0.3, 0.3), (0.3, 0.0), (0.0, 0.3)):
        cells = []
        for place in (0, 256, None):
            chance = random.Random(f"{alarm} {miss} {place}")
            right = 0
            for _ in range(trials):
                first_bad = chance.randint(0, 256) if place is None else place
                search = NoisySearch(256, unknown_rates(), CONFIDENCE)
                while (answer := search.answer()) is None:
                    for x in search.ask(1, []):
                        rate = miss if x >= first_bad else alarm
                        search.tell(x, lies(x, first_bad, rate, chance))
                right += answer.candidates == (first_bad,)
            cells.append(f"{right / trials:.3f}")
        print(f"| {alarm} | {miss} | {' | '.join(cells)} |", flush=True)


def wall_clock(
    search: Search, first_bad: int, rate: float, jobs: int, seconds: float
) -> tuple[float, int]:
    chance, started = random.Random(first_bad), time.perf_counter()
    count = 0

    def judge(position: int, flag: Flag) -> Outcome:
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            if flag.is_set():
                return Outcome(None, None, seconds)
            time.sleep(0.001)
        return Outcome(lies(position, first_bad, rate, chance), 0, seconds)

    with pool(jobs) as made:

        def start(position: int, flag: Flag) -> Future[Outcome]:
            nonlocal count
            count += 1
            return made.executor.submit(judge, position, flag)

        drive(search, made, start, lambda *_: None, jobs=jobs)
    return time.perf_counter() - started, count


def jobs_table(seconds: float) -> None:
    print(f"\n1,000 checkpoints, {1000 * seconds:.0f} ms a probe; mean of 5 culprits.\n")
    print("| probe | jobs | wall-clock | speed-up | probes started |\n|---|--:|--:|--:|--:|")
    for name, rate in (("certain", None), ("lies at 0.1, known", 0.1)):
        base = 0.0
        for jobs in (1, 2, 4, 8, 16):
            taken = []
            for first_bad in (3, 251, 500, 777, 998):
                search: Search = PlainSearch(1000)
                if rate is not None:
                    search = NoisySearch(1000, known_rates(rate, rate), CONFIDENCE)
                taken.append(wall_clock(search, first_bad, rate or 0.0, jobs, seconds))
            mean = float(np.mean([t for t, _ in taken]))
            base = base or mean
            started = np.mean([c for _, c in taken])
            print(
                f"| {name} | {jobs} | {mean:.2f} s | {base / mean:.1f} × | {started:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="only the small histories")
    options = parser.parse_args()
    sizes = SIZES[:2] if options.quick else SIZES
    confidence_table(options.trials, sizes)
    ends_table(options.trials)
    jobs_table(0.05)


if __name__ == "__main__":
    main()
