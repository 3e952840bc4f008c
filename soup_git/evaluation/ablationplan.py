"""What an ablation costs, and what of it a budget pays for: arithmetic on measured seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from soup_git.core.durations import LARGEST_BUDGET, spoken
from soup_git.errors import FatalError

WANTED = 10
"""How many of the largest are to be found when not all can be measured."""
SHORTLIST = 14
"""Measured first: 1.4 × wanted held the truth."""
LEAST_SHARD = 30.0
"""Seconds of a shard at least."""
_SHARE = 0.9  # of the budget that is planned with; passes are not all alike
_RANKING_SHARE = 0.3


@dataclass(frozen=True)
class Speed:
    """Seconds per cell (a token, or the padding beside it) of one pass, as timed."""

    record: float
    """With all, its layers' outputs kept."""
    whole: float
    """Every layer, with something taken out."""
    head: float
    """No layer, only what comes after them."""
    layers: int
    """0: they cannot be entered one by one."""
    gradients: float | None = None
    """The whole ranking."""

    def with_gradients(self, seconds: float) -> Speed:
        return replace(self, gradients=seconds)

    def of(self, depth: int) -> float:
        """A pass that enters at layer `depth`."""
        if not self.layers:
            return self.whole
        return self.whole - (self.whole - self.head) * depth / self.layers


@dataclass(frozen=True)
class Plan:
    parts: int
    cells: int
    speed: Speed
    budget: float
    spent: float
    """Seconds of the budget that loading and timing took."""
    shards: int
    mean_seconds: float
    """Of one part on all rows."""
    exact_seconds: float
    """Of all parts on all rows, the reference included."""
    workers: int = 1
    """They share the measuring; seconds of work are of one of them."""
    startup: float = 0.0
    """Seconds until workers have loaded what they need, as it took here."""

    @property
    def seconds_per_shard(self) -> float:
        return self.budget / self.shards

    @property
    def left(self) -> float:
        return max(0.0, self.budget * _SHARE - self.spent - self.startup)

    @property
    def fits(self) -> bool:
        return self.exact_seconds / self.workers <= self.left

    @property
    def reference_seconds(self) -> float:
        """With all and with none, on all rows."""
        return self.cells * (self.speed.record + self.speed.whole)

    @property
    def elapsed_seconds(self) -> float:
        """From now until all parts are measured on all rows, by all workers."""
        return self.startup + self.exact_seconds / self.workers

    @property
    def ranking_seconds(self) -> float:
        """On all rows."""
        return self.cells * (self.speed.gradients or 0.0)

    @property
    def ranking_shards(self) -> int:
        """On the rows of how many shards the ranking is made."""
        each = (self.ranking_seconds + self.reference_seconds) / self.shards
        return max(1, min(self.shards, int(_RANKING_SHARE * self.left / each) if each else 1))

    @property
    def affordable(self) -> int:
        """How many parts can be measured on all rows."""
        if self.fits:
            return self.parts
        ranking = self.ranking_seconds * self.ranking_shards / self.shards
        left = (self.left - ranking) * self.workers - self.reference_seconds
        return max(0, min(self.parts, int(left / self.mean_seconds)))

    @property
    def least_budget(self) -> float:
        """Seconds that pay for one shard: its ranking, its reference, its shortlist."""
        shard = self.reference_seconds + min(SHORTLIST, self.parts) * self.mean_seconds
        shard = self.ranking_seconds + shard / self.workers
        least = min(shard, self.exact_seconds / self.workers) / self.shards
        return (self.spent + self.startup + least) / _SHARE

    def seconds_of(self, depth: int) -> float:
        """A part at a depth, on all rows."""
        return self.cells * self.speed.of(depth)

    def refuse_if_too_small(self) -> None:
        least = self.least_budget
        if least <= self.budget:
            return
        shard = f"one of {self.shards} shards" if self.shards > 1 else "the one shard"
        what = f"a budget of {spoken(self.budget)} does not pay for {shard}"
        if least > LARGEST_BUDGET:
            raise FatalError(
                f"{what}, nor does the largest, 24 h", hint="a smaller dataset, or more --shards"
            )
        minutes = math.ceil(least / 60)
        raise FatalError(f"{what}: {spoken(least)} would", hint=f"--budget {minutes}m")


def make_plan(
    speed: Speed,
    depths: Sequence[int],
    cells: int,
    budget: float,
    shards: int,
    spent: float,
    *,
    workers: int = 1,
    startup: float = 0.0,
) -> Plan:
    """The plan for parts at these depths; seconds throughout."""
    seconds = cells * sum(map(speed.of, depths))
    reference = cells * (speed.record + speed.whole)
    return Plan(
        len(depths), cells, speed, budget, spent, shards, seconds / len(depths),
        seconds + reference, workers, startup,
    )  # fmt: skip


def check_shards(budget: float, shards: int, shown: str) -> None:
    """Raises FatalError when a shard gets less than 30 s, naming the budget that would do."""
    if budget / shards >= LEAST_SHARD:
        return
    enough = max(60, math.ceil(shards * LEAST_SHARD / 60) * 60)
    raise FatalError(
        f"a budget of {shown} over {shards} shards is {spoken(budget / shards)} a shard; a shard"
        f" needs {LEAST_SHARD:.0f} s",
        hint=f"--budget {enough // 60}m, or --shards {max(1, int(budget // LEAST_SHARD))}",
    )
