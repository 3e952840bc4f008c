"""What a measured probe of a training says, and the estimate that follows for the whole of it.

Nothing here is a constant of a model or a card: every number was measured on this machine
with this config, or is a product of such numbers and of counts that the config decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json

# Keys of `training` that change how many steps there are, or what they learn, and not how
# long one takes or what it needs.
_FREE = frozenset(
    {"epochs", "max_steps", "lr", "scheduler", "warmup_ratio", "warmup_steps", "weight_decay",
     "seed", "save_steps", "save_total_limit", "eval_steps", "logging_steps", "resume", "eval_gate"}
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """Seconds of something done several times: quantiles, not a mean that one hiccup moves."""

    median: float
    low: float
    """The tenth percentile, and `high` the ninetieth; the extremes of fewer than ten."""
    high: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        ordered = sorted(seconds)

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            below = math.floor(place)
            above = min(below + 1, len(ordered) - 1)
            return ordered[below] + (place - below) * (ordered[above] - ordered[below])

        return cls(at(0.5), at(0.1), at(0.9), len(ordered))


@dataclass(frozen=True)
class Measurement:
    """What one probe measured. Times in seconds, sizes in bytes."""

    device: str
    steps_per_epoch: int
    step: Spread
    warm_up_steps: int
    """Steps before the measured ones, which are slower for reasons of their own."""
    first_step_seconds: float
    load_seconds: float
    """From the start of the process to the first step."""
    tokens_per_second: float | None
    padding: float | None
    """Share of the tokens computed that are padding."""
    peak_memory: int
    """Resident memory of the process at its highest."""
    peak_gpu_memory: int | None
    """As the allocator of torch counts it."""
    longest_row_fits: bool | None
    longest_tokens: int | None
    """Of a batch of the longest rows, which one short probe would rarely meet."""
    checkpoint_bytes: int
    adapter_bytes: int
    checkpoint_seconds: float
    eval_batches: int
    """Of one whole evaluation during training; 0 without validation rows."""
    eval_batch_seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Measurement:
        """Raises KeyError, TypeError where `raw` is of another version."""
        known = {field.name: raw[field.name] for field in fields(cls)}
        return cls(**{**known, "step": Spread(**raw["step"])})


@dataclass(frozen=True)
class Estimate:
    """For the whole training; `low` and `high` with the faster and slower of the steps."""

    steps: int
    seconds: float
    low: float
    high: float
    evaluations: int
    checkpoints: int
    disk_bytes: int
    """What it needs at once: resumable checkpoints, one being written, every saved adapter."""


def estimate(measured: Measurement, training: Mapping[str, Any]) -> Estimate:
    """`training` is that block of soup.yaml with its defaults."""
    per_epoch = max(measured.steps_per_epoch, 1)
    steps = training["max_steps"] or math.ceil(training["epochs"] * per_epoch)
    evaluations = 0
    if measured.eval_batches:
        every = training["eval_steps"] or per_epoch
        evaluations = steps // every + (1 if steps % every else 0)
    checkpoints = math.ceil(steps / training["save_steps"])
    evaluating = evaluations * measured.eval_batches * (measured.eval_batch_seconds or 0.0)
    beside = measured.load_seconds + evaluating + checkpoints * measured.checkpoint_seconds
    kept = min(checkpoints, training["save_total_limit"]) + 1
    return Estimate(
        steps=steps,
        seconds=beside + steps * measured.step.median,
        low=beside + steps * measured.step.low,
        high=beside + steps * measured.step.high,
        evaluations=evaluations,
        checkpoints=checkpoints,
        disk_bytes=kept * measured.checkpoint_bytes + (checkpoints + 1) * measured.adapter_bytes,
    )


def measurement_key(config: Mapping[str, Any], data: str, env_hash: str, machine: str) -> str:
    """Equal where a step takes the same time and memory: config, rows, packages, machine.

    `config` is soup.yaml with its defaults, `data` digests of its rows and its base.
    """
    training = {k: v for k, v in config["training"].items() if k not in _FREE}
    decides = {k: v for k, v in config.items() if k not in {"output", "training"}}
    whole = [decides, training, data, env_hash, machine]
    return sha256_hex(canonical_json(whole).encode())
