"""Answers that were compared: rows to tokens, tokens to the columns of TRL's trainers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from soup_git.core.yamllines import Where
from soup_git.data.rows import DataRow
from soup_git.training.prepared import Encoded, Example, Reading
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import MIXED_LOSSES
from soup_git.training.tokens import answered

ANSWERS = ("chosen", "rejected")


def pair(row: DataRow, reading: Reading) -> Example:
    """The prompt with each of its two answers, which the loss is on."""
    prompt = row.values["prompt"]
    return Example({key: answered(row, prompt, row.values[key], reading) for key in ANSWERS})


def columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """As DPO's trainer reads them: the prompt once, up to where the answers begin."""
    table: dict[str, list[Any]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for example in examples:
        start = min(begin(part) for part in example.parts.values())
        table["prompt_ids"].append(example.parts["chosen"].ids[:start])
        for key in ANSWERS:
            table[f"{key}_ids"].append(example.parts[key].ids[start:])
    return table


def begin(part: Encoded) -> int:
    """Where the answer begins."""
    return part.in_loss.index(True)


# ---- options ----------------------------------------------------------------------------------


def losses(config: SoupConfig) -> dict[str, Any]:
    """TRL's names of the losses that task preference asks for."""
    training = config.training
    weights = training.preference_loss_weights or {str(training.preference_loss): 1.0}
    return {
        "loss_type": [MIXED_LOSSES[name] for name in weights],
        "loss_weights": list(weights.values()),
    }


def check_schedule(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """A schedule and where it ends go together."""
    pair = ("dpo_beta_schedule", "dpo_beta_end")
    for key, other in (pair, pair[::-1]):
        if ("training", key) in given and getattr(config.training, other) is None:
            yield ("training", key), f"needs {other}"


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda first, last, done: first + (last - first) * done,
    "cosine": lambda first, last, done: last + (first - last) * (1 + math.cos(math.pi * done)) / 2,
    "exponential": lambda first, last, done: first * (last / first) ** done,
}


def scheduled(config: SoupConfig, first: float, step: int, steps: int) -> float:
    """Beta for step number `step` (from 0) of `steps`: a function of these alone, so that a
    resumed run has the same."""
    name, last = config.training.dpo_beta_schedule, config.training.dpo_beta_end
    if name is None or last is None:
        return first
    return SCHEDULES[name](first, last, step / max(steps - 1, 1))
