"""The steps of an answer, each right or wrong: rows to tokens, judgements to labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from soup_git.data.rows import DataRow
from soup_git.errors import FatalError
from soup_git.training.methods.ready import for_batches
from soup_git.training.prepared import MASKED, Encoded, Example, Reading
from soup_git.training.schema import SoupConfig


def steps(row: DataRow, reading: Reading) -> Example:
    """The prompt, then each step and the separator, on whose last token the label is.

    Prompt, steps and separators become tokens one by one, so that the separator is the same
    tokens after every step, and whoever asks the model finds it again. Raises FatalError, naming
    the row, for a separator without tokens.
    """
    tokenizer, between = reading.tokenizer, reading.config.training.step_separator

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text=text, add_special_tokens=False)["input_ids"])

    separator = tokens(between)
    if not separator:
        raise FatalError(
            f"{row.place}: the tokenizer makes nothing of the separator {between!r}",
            hint="another training.step_separator",
        )
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids += tokens(row.values["prompt"])
    judged: set[int] = set()
    for step in row.values["completions"]:
        ids += tokens(step) + separator
        judged.add(len(ids) - 1)
    part = Encoded(ids, [i in judged for i in range(len(ids))])
    return Example({"steps": part}, {"labels": row.values["labels"]})


def columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """As a classifier of tokens reads them: 1 where a right step ends, 0 where a wrong one."""
    parts = [example.parts["steps"] for example in examples]
    labels = []
    for example, part in zip(examples, parts, strict=True):
        judgements = iter(example.values["labels"])
        labels.append([int(next(judgements)) if end else MASKED for end in part.in_loss])
    return {"input_ids": [part.ids for part in parts], "labels": labels}


def right_or_wrong(_config: SoupConfig) -> dict[str, Any]:
    """The head: for each token a number for wrong and one for right."""
    return {"num_labels": 2}


def equip(model: Any, reading: Reading, _examples: Sequence[Example]) -> dict[str, Any]:
    """What batches texts and their labels."""
    from soup_git.training.methods.batches import TokenBatches

    return {"data_collator": TokenBatches(for_batches(model, reading))}
