"""Texts that belong together: rows to tokens, and the losses of sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from soup_git.core.yamllines import Where
from soup_git.data.rows import BadRowError, DataRow
from soup_git.errors import FatalError
from soup_git.training.methods.ready import for_batches
from soup_git.training.prepared import Encoded, Example, Reading
from soup_git.training.schema import SoupConfig

AMONG_THE_BATCH = ("contrastive", "symmetric")


def texts(row: DataRow, reading: Reading) -> Example:
    """Each text's tokens. Raises FatalError, naming the row, for a text without any."""
    parts = {}
    for name, text in row.values.items():
        ids = list(reading.tokenizer(text=text)["input_ids"])
        if not ids:
            raise FatalError(
                f"{row.place}: the tokenizer makes nothing of {name}", hint="change it"
            )
        parts[name] = Encoded(ids, [False] * len(ids))
    return Example(parts, {"place": row.place})


def columns(examples: Sequence[Example], reading: Reading) -> dict[str, list[Any]]:
    """A column per text; for cosine a row per pair, and how near it should be."""
    names = list(examples[0].parts)
    for example in examples:
        if list(example.parts) != names:
            raise FatalError(
                f"{example.values['place']}: of the rows some have a negative, and some have none",
                hint="give all of them one, or none",
            )
    ids = {name: [example.parts[name].ids for example in examples] for name in names}
    if reading.config.training.embedding_loss != "cosine":
        return dict(ids)
    count = len(examples)
    return {
        "anchor": ids["anchor"] * 2,
        "positive": ids["positive"] + ids["negative"],
        "label": [1.0] * count + [0.0] * count,
    }


def check(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """Options go with the loss that reads them."""
    training = config.training
    among = training.embedding_loss in AMONG_THE_BATCH
    if ("training", "embedding_temperature") in given and not among:
        what = f"is for embedding_loss: {' or '.join(AMONG_THE_BATCH)}"
        yield ("training", "embedding_temperature"), what
    if ("training", "embedding_margin") in given and training.embedding_loss != "triplet":
        yield ("training", "embedding_margin"), "is for embedding_loss: triplet"
    if among and training.batch_size == 1:
        what = "compares with the other rows of a batch: at least 2"
        yield ("training", "batch_size"), f"embedding_loss: {training.embedding_loss} {what}"


def check_row(row: DataRow, config: SoupConfig) -> None:
    """Raises BadRowError for a row without what the loss compares with."""
    loss = config.training.embedding_loss
    if loss not in AMONG_THE_BATCH and "negative" not in row.values:
        raise BadRowError(f"embedding_loss: {loss} needs a negative")


def equip(model: Any, reading: Reading, _examples: Sequence[Example]) -> dict[str, Any]:
    """The model with its pooling, the loss, and what batches rows."""
    from soup_git.training.methods import embeddingtrainer
    from soup_git.training.methods.batches import NamedBatches

    embedder = embeddingtrainer.embedder(model, reading.config.training.embedding_pooling)
    return {
        "embedder": embedder,
        "loss": embeddingtrainer.loss(embedder, reading.config.training),
        "data_collator": NamedBatches(for_batches(model, reading)),
    }
