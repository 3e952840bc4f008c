"""Rows of tokens to batches. Imported late: it loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from soup_git.training.prepared import MASKED


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """int64, (rows, the longest one's length), filled up on the right with `value`."""
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row, dtype=torch.long) for row in rows],
        batch_first=True,
        padding_value=value,
    )


class TokenBatches:
    """Rows `{"input_ids", "labels"}` to a batch with its mask."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [row["input_ids"] for row in rows]
        return {
            "input_ids": padded(ids, self._pad),
            "attention_mask": padded([[1] * len(row) for row in ids], 0),
            "labels": padded([row["labels"] for row in rows], MASKED),
        }


class NamedBatches:
    """Rows of several texts by name to a batch of each (`anchor_input_ids`), and labels."""

    valid_label_columns = ("label",)
    """sentence-transformers asks: what no sampler compares."""

    def __init__(self, pad: int) -> None:
        self._pad = pad

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"return_loss": True}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name == "label":
                batch[name] = torch.tensor(values)
                continue
            batch[f"{name}_input_ids"] = padded(values, self._pad)
            batch[f"{name}_attention_mask"] = padded([[1] * len(row) for row in values], 0)
        return batch
