"""Texts with labels, and pairs of texts with scores: rows to tokens, labels to numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from soup_git.core.yamllines import Where, nearest
from soup_git.data.rows import BadRowError, DataRow, in_short
from soup_git.errors import FatalError
from soup_git.training.methods.ready import for_batches
from soup_git.training.prepared import Encoded, Example, Reading
from soup_git.training.schema import SoupConfig

# What a head learns from labels of a kind -> the loss in transformers. "score" is one logit
# whose sigmoid is the label: a classifier of two, or a degree between them.
_PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
    "score": "multi_label_classification",
}


def kind(config: SoupConfig) -> str:
    """single_label, multi_label, regression or score."""
    if config.task == "classifier":
        return config.training.classifier_kind or "single_label"
    if config.task == "reranker":
        return "score"
    return config.training.classifier_kind or ("score" if count(config) == 1 else "single_label")


def count(config: SoupConfig) -> int:
    """How many numbers the model answers with."""
    training = config.training
    return training.num_labels or len(training.label_names or "-")


def head(config: SoupConfig) -> dict[str, Any]:
    """What the model with its new head is made with."""
    return {"num_labels": count(config), "problem_type": _PROBLEMS[kind(config)]}


def one_number(_config: SoupConfig) -> dict[str, Any]:
    """The head of a reward model."""
    return {"num_labels": 1}


def check(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """The number of labels, their names and their kind agree."""
    names, training = config.training.label_names, config.training
    if names is not None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        yield ("training", "label_names"), f"{twice} is there twice"
    number_of: Where = ("training", "num_labels")
    if names is not None and training.num_labels not in {None, len(names)}:
        yield number_of, f"is {training.num_labels}, but label_names has {len(names)}"
    if kind(config) == "single_label" and count(config) < 2:
        what = "needs label_names, or num_labels of at least 2"
        yield number_of if number_of in given else ("task",), f"{config.task} {what}"
    if config.task == "cross_encoder" and kind(config) == "multi_label":
        yield ("training", "classifier_kind"), "a pair of texts has one label"


def check_row(row: DataRow, config: SoupConfig) -> None:
    """Raises BadRowError for a label that the head has no place for."""
    if "label" in row.values:
        number(row.values["label"], config)


def number(label: Any, config: SoupConfig) -> int | list[float]:
    """A label as the loss reads it: a class, or a number for each output. Raises BadRowError."""
    wanted, size = kind(config), count(config)
    if wanted == "single_label":
        return _class(label, config)
    if wanted == "multi_label":
        return _several(label, config)
    values = label if isinstance(label, list) else [label]
    if len(values) != size or not all(isinstance(value, int | float) for value in values):
        numbers = "a number" if size == 1 else f"{size} numbers"
        raise BadRowError(f"label should be {numbers}, it is {in_short(label)}")
    if wanted == "score" and not 0 <= values[0] <= 1:
        raise BadRowError(f"label should be from 0 to 1, it is {in_short(label)}")
    return [float(value) for value in values]


def _class(label: Any, config: SoupConfig) -> int:
    names, size = config.training.label_names, count(config)
    if isinstance(label, str):
        if names is None:
            raise BadRowError(f"label {in_short(label)} needs its place in training.label_names")
        if label not in names:
            raise BadRowError(
                f"label {in_short(label)} is not in training.label_names{nearest(label, names)}"
            )
        return names.index(label)
    if not isinstance(label, int) or not 0 <= label < size:
        raise BadRowError(
            f"label should be a name or a number from 0 to {size - 1}, it is {in_short(label)}"
        )
    return label


def _several(label: Any, config: SoupConfig) -> list[float]:
    size = count(config)
    if not isinstance(label, list):
        raise BadRowError(f"label should be a list, it is {in_short(label)}")
    if all(isinstance(item, str) for item in label):
        held = {_class(item, config) for item in label}
        return [float(i in held) for i in range(size)]
    if len(label) != size or any(item not in (0, 1) for item in label):
        raise BadRowError(f"label should be names, or {size} times 0 or 1: {in_short(label)}")
    return [float(item) for item in label]


# ---- rows to tokens ---------------------------------------------------------------------------


def text(row: DataRow, reading: Reading) -> Example:
    """A text and its label."""
    part, types = _tokens(row, row.values["text"], None, reading)
    return Example({"text": part}, _values([row.values["label"]], [types], reading))


def pair(row: DataRow, reading: Reading) -> Example:
    """Two texts and the label of both; or a query with a document that answers and others."""
    values = row.values
    if "query" in values:
        documents = {"positive": values["positive"]}
        documents |= {f"negative {i}": t for i, t in enumerate(values["negatives"], 1)}
        labels = [1] + [0] * len(values["negatives"])
        query = values["query"]
    else:
        documents, labels, query = {"pair": values["text_pair"]}, [values["label"]], values["text"]
    found = {name: _tokens(row, query, other, reading) for name, other in documents.items()}
    parts = {name: part for name, (part, _) in found.items()}
    return Example(parts, _values(labels, [types for _, types in found.values()], reading))


def columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """A row for each text or pair of texts."""
    parts = [part for example in examples for part in example.parts.values()]
    table: dict[str, list[Any]] = {
        "input_ids": [part.ids for part in parts],
        "attention_mask": [[1] * len(part.ids) for part in parts],
        "labels": [label for example in examples for label in example.values["labels"]],
    }
    types = [t for example in examples for t in example.values["token_type_ids"]]
    if types[0] is not None:
        cut = zip(types, parts, strict=True)
        table["token_type_ids"] = [t[: len(part.ids)] for t, part in cut]
    return table


def _values(labels: list[Any], types: list[Any], reading: Reading) -> dict[str, Any]:
    return {
        "labels": [number(label, reading.config) for label in labels],
        "token_type_ids": types,
    }


def _tokens(
    row: DataRow, first: str, second: str | None, reading: Reading
) -> tuple[Encoded, list[int] | None]:
    """The tokens of one text or of two, and which of the two each belongs to, where the
    tokenizer says it. One that has no sign of its own between two texts gets its end of text."""
    tokenizer = reading.tokenizer
    if second is None or tokenizer.sep_token is not None:
        encoding = tokenizer(text=first, text_pair=second)
    else:
        if tokenizer.eos_token is None:
            raise FatalError(
                f"the tokenizer of {reading.config.base} has nothing to put between two texts",
                hint="set sep_token in its tokenizer_config.json",
            )
        encoding = tokenizer(text=f"{first}{tokenizer.eos_token}{second}")
    ids = list(encoding["input_ids"])
    if not ids:
        raise FatalError(f"{row.place}: the tokenizer makes nothing of this text", hint="change it")
    return Encoded(ids, [False] * len(ids)), encoding.get("token_type_ids")


def equip(model: Any, reading: Reading, _examples: Sequence[Example]) -> dict[str, Any]:
    """What batches texts."""
    from transformers import DataCollatorWithPadding

    for_batches(model, reading)
    return {"data_collator": DataCollatorWithPadding(reading.tokenizer)}
