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


def labelled_columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """As the trainers without a reference read them: each answer with its prompt, and labels."""
    table: dict[str, list[Any]] = {}
    for key in ANSWERS:
        parts = [example.parts[key] for example in examples]
        table[f"{key}_input_ids"] = [part.ids for part in parts]
        table[f"{key}_attention_mask"] = [[1] * len(part.ids) for part in parts]
        table[f"{key}_labels"] = [part.labels for part in parts]
    return table


def whole_columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """As the trainer of a reward model reads them: each answer with its prompt."""
    return {f"{key}_ids": [example.parts[key].ids for example in examples] for key in ANSWERS}


def judged(row: DataRow, reading: Reading) -> Example:
    """A prompt with an answer, and whether it is a good one."""
    values = row.values
    part = answered(row, values["prompt"], values["completion"], reading)
    return Example({"completion": part}, {"label": values["label"]})


def judged_columns(examples: Sequence[Example], reading: Reading) -> dict[str, list[Any]]:
    """As KTO's trainer reads them: with a foreign answer each, to measure how far the model has
    come from the base. It is the one before in the batch, and the last one's for the first."""
    parts = [example.parts["completion"] for example in examples]
    answers = [part.ids[begin(part) :] for part in parts]
    table = {
        "prompt_ids": [part.ids[: begin(part)] for part in parts],
        "completion_ids": answers,
        "label": [example.values["label"] for example in examples],
    }
    training = reading.config.training
    if training.trl.get("loss_type", "kto") == "kto":
        size = training.rows_per_batch
        batches = [answers[i : i + size] for i in range(0, len(answers), size)]
        table["KL_completion_ids"] = [a for batch in batches for a in (batch[-1:] + batch[:-1])]
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


def check_cpo(config: SoupConfig, _given: set[Where]) -> Iterator[tuple[Where, str]]:
    """SimPO's loss is a task of its own."""
    if config.training.trl.get("loss_type") == "simpo":
        yield ("training", "trl", "loss_type"), "that is task: simpo"


def check_kto(config: SoupConfig, _given: set[Where]) -> Iterator[tuple[Where, str]]:
    """The distance from the base is measured with another row's answer."""
    if config.training.batch_size == 1:
        yield ("training", "batch_size"), "task kto needs other answers in a batch: at least 2"


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
