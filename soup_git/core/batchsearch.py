"""`training.batch_size: auto`: which sizes are tried, and which of them is the answer.

Powers of two, upwards. It ends where the next size would take more memory than there is (by
what the last ones took), where a larger batch is hardly faster, or at a size at which an epoch
would have too few steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.core.measurement import measurement_key

MOST = 64
LEAST_STEPS = 8
"""Of an epoch: the rows are divided by it."""
WORTH = 1.1
"""How many times the tokens per second of the size before make a larger one worth it."""


@dataclass(frozen=True)
class Trial:
    """Steps of `size` rows that went well; memory in bytes."""

    size: int
    tokens_per_second: float
    peak: int
    """At the highest point of a step."""
    rest: int
    """Between two steps: weights, optimizer state, libraries."""


@dataclass(frozen=True)
class Search:
    """What a search has come to so far: the parent reads it also where the child was killed."""

    device: str
    limit: int
    """Bytes of memory that a step may take."""
    sizes: tuple[int, ...]
    trials: tuple[Trial, ...] = ()
    out_of_memory: str = ""
    """What torch or the system said of the size after the last trial."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Search:
        """Raises KeyError, TypeError where `raw` is of another version."""
        known = {field.name: raw[field.name] for field in fields(cls)}
        trials = tuple(Trial(**trial) for trial in raw["trials"])
        return cls(**{**known, "sizes": tuple(raw["sizes"]), "trials": trials})


@dataclass(frozen=True)
class Decision:
    """The size to try next; where there is none, `size` is the answer, and why there."""

    next: int | None
    size: int | None = None
    """None where not even the smallest fits."""
    why: str = ""


def sizes(rows: int, smallest: int) -> tuple[int, ...]:
    """The powers of two from `smallest` (1 or 2) on, in the order in which they are tried."""
    most = min(MOST, max(1, rows // LEAST_STEPS))
    found = tuple(2**n for n in range(MOST.bit_length()) if smallest <= 2**n <= most)
    return found or (smallest,)


def predicted(trials: Sequence[Trial]) -> int:
    """Bytes that a step of twice the rows of the last trial would take at its highest.

    What a step takes beyond what is there between two grows with its rows. Where an allocator
    keeps what was freed, that is too little; then the growth from the size before says more.
    """
    last = trials[-1]
    by_rest = last.rest + 2 * (last.peak - last.rest)
    if len(trials) == 1:
        return by_rest
    return max(by_rest, last.peak + 2 * (last.peak - trials[-2].peak))


def decide(search: Search) -> Decision:
    """Go on with which size, or stop where."""
    trials = search.trials
    if not trials:
        if search.out_of_memory:
            return Decision(None, None, search.out_of_memory)
        return Decision(search.sizes[0])
    last = trials[-1]
    if len(trials) > 1 and last.tokens_per_second < WORTH * trials[-2].tokens_per_second:
        return Decision(None, trials[-2].size, f"{last.size} rows at once are hardly faster")
    rest = [size for size in search.sizes if size > last.size]
    if search.out_of_memory:
        return Decision(None, last.size, f"{2 * last.size} rows: {search.out_of_memory}")
    if not rest:
        why = "no more are tried" if last.size == MOST else "of more, an epoch had few steps"
        return Decision(None, last.size, why)
    wanted = predicted(trials)
    if wanted > search.limit:
        why = f"{rest[0]} would take {_gb(wanted)}, and {_gb(search.limit)} may be used"
        return Decision(None, last.size, why)
    return Decision(rest[0])


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def search_key(config: Mapping[str, Any], data: str, env_hash: str, machine: str) -> str:
    """Equal where a search would find the same; as `measurement_key`, whatever the size is."""
    free = {"batch_size", "gradient_accumulation_steps"}
    training = {k: v for k, v in config["training"].items() if k not in free}
    key = measurement_key({**config, "training": training}, data, env_hash, machine)
    return sha256_hex(f"batch size {key}".encode())
