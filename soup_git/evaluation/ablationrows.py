"""The rows of an ablation, in the shards and groups that are measured together.

A group is also what another worker is asked about, and answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from soup_git.core.digests import sha256_hex
from soup_git.training.prepared import Encoded


class Rows:
    """All rows, by their numbers: as tokens, cut to what the model takes, and in an order of theirs."""

    def __init__(
        self, sequences: Sequence[Encoded], window: int | None, batch_size: int, shards: int
    ) -> None:
        self.cut = [
            s if window is None else Encoded(s.ids[:window], s.in_loss[:window]) for s in sequences
        ]
        self.counts = np.array([sum(s.in_loss[1:]) for s in self.cut], dtype=np.float64)
        """Of each row, its tokens in the loss."""
        self.scored = [i for i in _shuffled(self.cut) if self.counts[i]]
        """Those with a token in the loss."""
        self.shards = min(shards, max(len(self.scored), 1))
        self._batch_size = batch_size
        self.most_cells = 0
        """Of a group; 0 is no bound but the batch size."""

    def shortest(self, count: int) -> list[Encoded]:
        return [
            self.cut[i] for i in sorted(self.scored, key=lambda i: len(self.cut[i].ids))[:count]
        ]

    def in_shards(self) -> list[list[list[int]]]:
        """Rows drawn at random into shards; in the groups of one, alike in length together."""
        bounds = np.linspace(0, len(self.scored), self.shards + 1).round().astype(int)
        return [self._grouped(self.scored[start:end]) for start, end in itertools.pairwise(bounds)]

    def _grouped(self, rows: Sequence[int]) -> list[list[int]]:
        groups: list[list[int]] = []
        for row in sorted(rows, key=lambda i: (len(self.cut[i].ids), i)):
            width = len(self.cut[row].ids)
            full = not groups or len(groups[-1]) >= self._batch_size
            if not full and self.most_cells:
                full = (len(groups[-1]) + 1) * width > self.most_cells
            if full:
                groups.append([])
            groups[-1].append(row)
        # The race looks at the rows so far: they should not be the short ones.
        return [groups[i] for i in np.random.default_rng(0).permutation(len(groups))]


@dataclass(frozen=True)
class RowGroup:
    """Rows that are measured together, without some parts: what a worker is asked."""

    rows: tuple[int, ...]
    """Their numbers, for whoever asks."""
    sequences: tuple[Encoded, ...]
    """Their tokens: nothing else of a dataset is needed."""
    parts: tuple[int, ...]
    """Which are taken out, one by one; by their places in the list of parts."""
    with_nothing: bool
    """All of the list taken out at once, too."""


@dataclass(frozen=True)
class GroupLosses:
    """Summed losses of a group's rows, float64; NaN where it was stopped before."""

    whole: Any
    """With all: (rows,)."""
    nothing: Any
    """With none: (rows,)."""
    without: Any
    """Minus those with all, of the same model: (parts, rows)."""


class Crew(Protocol):
    """Others that measure row groups, each with a model of its own."""

    @property
    def workers(self) -> int: ...

    def measured(
        self, groups: Sequence[RowGroup], seconds: float
    ) -> Iterator[tuple[RowGroup, GroupLosses | None]]:
        """Each group as it is done; after so many seconds what there is, None for nothing."""
        ...


def _shuffled(sequences: Sequence[Encoded]) -> Iterator[int]:
    """Rows in an order that their own tokens decide, not the file's."""
    keys = [sha256_hex(repr(s.ids).encode()) for s in sequences]
    yield from sorted(range(len(keys)), key=lambda i: (keys[i], i))
