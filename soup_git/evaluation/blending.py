"""Candidates of a search for merge weights: the merge of a few adapters, in memory.

A weighted sum of updates is stored as factors side by side, so two merges of the same
adapters differ in how the columns of B are scaled and in nothing else. The factors are
stacked once, a candidate scales each input's columns, and no file is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from soup_git.arithmetic.floats import Array
from soup_git.core.groups import Grouping, GroupWeights
from soup_git.evaluation.candidate import Candidate, in_memory
from soup_git.storage.basemodel import BaseModel
from soup_git.storage.mergeinputs import Input, Recipe, is_plain
from soup_git.storage.merging import merge_in_memory

Weights = tuple[tuple[float, ...], ...]
"""A row per group of modules (one where all are weighed alike), a weight per adapter."""


def weighed(
    inputs: Sequence[Input], weights: Weights, grouping: Grouping | None, groups: Sequence[str]
) -> list[Input]:
    """The inputs with these weights, in their order; equal rows weigh all modules alike."""
    columns = list(zip(*weights, strict=True))
    if grouping is None or len(set(weights)) == 1:
        return [Input(i.opened, column[0]) for i, column in zip(inputs, columns, strict=True)]
    return [
        Input(
            i.opened,
            sum(column) / len(column),
            GroupWeights(grouping, dict(zip(groups, column, strict=True))),
        )
        for i, column in zip(inputs, columns, strict=True)
    ]


class Blend:
    """Merges of `inputs` under one recipe, one after the other. Not for several threads."""

    def __init__(
        self,
        inputs: Sequence[Input],
        recipe: Recipe,
        base: BaseModel | None = None,
        grouping: Grouping | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        self._inputs, self._recipe, self._base = inputs, recipe, base
        self._grouping, self._groups = grouping, groups
        self._stack = None
        if recipe.is_exact and is_plain(inputs):
            self._stack = merge_in_memory([replace(i, weight=1.0) for i in inputs], recipe)
            self._scaled = {
                name: np.empty_like(self._stack.tensors[name]) for name in self._stack.stacks
            }

    def candidate(self, name: str, weights: Weights) -> Candidate:
        """The merge with these weights. It is overwritten by the next one.

        Raises FatalError where the merge itself is refused.
        """
        if self._stack is None:
            inputs = weighed(self._inputs, weights, self._grouping, self._groups)
            merged = merge_in_memory(inputs, self._recipe, self._base)
            return in_memory(name, merged.config, merged.tensors)
        return in_memory(name, self._stack.config, self._rescaled(weights))

    def _rescaled(self, weights: Weights) -> Mapping[str, Array]:
        if self._stack is None:
            return {}
        rows = {group: np.asarray(row) for group, row in zip(self._groups, weights, strict=False)}
        for name, (module, widths) in self._stack.stacks.items():
            row = rows[self._grouping.of(module)] if self._grouping else np.asarray(weights[0])
            left = self._stack.tensors[name]
            scale = np.repeat(row, widths).astype(left.dtype)
            np.multiply(left, scale, out=self._scaled[name])
        return {**self._stack.tensors, **self._scaled}
