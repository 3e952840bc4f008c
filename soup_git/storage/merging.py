"""A merged adapter, computed and written module by module.

What is known before any number is (names, shapes, ranks, the config) is planned first and
refused first; then modules are computed on two threads and written where they belong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soup_git.arithmetic.floats import STORAGE, Array, Stored, widest, work_dtype
from soup_git.core.manifest import CONFIG, WEIGHTS
from soup_git.storage.basemodel import BaseModel
from soup_git.storage.files import copy_bytes
from soup_git.storage.mergedmodules import MergedModule, write_module
from soup_git.storage.mergeinputs import Input, Recipe, rank_of, refuse_what_cannot_merge
from soup_git.storage.mergeplan import config_of, plan, scale_of_first, slots_of
from soup_git.storage.tensors import Slot, TensorWriter
from soup_git.storage.wholetensors import WholeTensors

_WORKERS = 2


@dataclass
class Outcome:
    modules: list[MergedModule]
    rank: int
    alpha: float
    dtype: str
    residual: float | None
    notes: list[str] = field(default_factory=list)


def write_merged(
    folder: Path, inputs: Sequence[Input], recipe: Recipe, base: BaseModel | None
) -> Outcome:
    """Write config and weights of the merge of `inputs` into `folder`.

    Raises `FatalError`, before anything is written, where modules cannot be combined.
    """
    refuse_what_cannot_merge(inputs)
    planned = plan(inputs, recipe, scale_of_first)
    extras = WholeTensors(inputs, base)
    config, rank, alpha = config_of(inputs, planned)
    slots = [slot for p in planned for slot in slots_of(p)]
    slots += extras.slots()
    notes = extras.notes()
    with TensorWriter(folder / WEIGHTS, sorted(slots, key=lambda s: s.name)) as out:
        with ThreadPoolExecutor(_WORKERS) as pool:
            measured = list(pool.map(lambda p: write_module(out, p, recipe, base), planned))
        extras.write(out)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    norm2 = sum(norm**2 for _, norm, _ in measured)
    lost2 = sum(lost**2 for _, _, lost in measured)
    residual = math.sqrt(lost2 / norm2) if norm2 > 0 else 0.0
    return Outcome(
        modules=[module for module, _, _ in measured],
        rank=rank,
        alpha=alpha,
        dtype=widest({p.dtype for p in planned}),
        residual=residual if math.isfinite(residual) else None,
        notes=notes,
    )


def copy_single(folder: Path, found: Input) -> Outcome:
    """Write an adapter as it is."""
    adapter = found.opened.adapter
    if adapter.weights is not None:
        copy_bytes(adapter.weights, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(adapter.config_data)
    return Outcome(
        modules=[
            MergedModule(m.name, rank_of(found, m), 1, 0.0) for m in found.opened.modules.values()
        ],
        rank=adapter.config.rank or 0,
        alpha=adapter.config.alpha or 0.0,
        dtype=widest({e.dtype for e in found.opened.file.entries.values()} & set(STORAGE)),
        residual=0.0,
    )


@dataclass(frozen=True)
class InMemory:
    """A merged adapter that is in no file: PEFT's config, and tensors as float32 or float64."""

    config: dict[str, Any]
    tensors: dict[str, Array]
    stacks: dict[str, tuple[str, tuple[int, ...]]]
    """Of an exact merge: a left factor's name -> its module, and the columns each input has."""


def merge_in_memory(
    inputs: Sequence[Input], recipe: Recipe, base: BaseModel | None = None
) -> InMemory:
    """What `write_merged` writes, as arrays, and of one form whatever the weights are.

    Every input keeps its place, one of weight 0 too, and the scaling is 1: merges that differ
    in nothing but weights have equal configs and shapes. Raises `FatalError` as `write_merged`.
    """
    refuse_what_cannot_merge(inputs)
    planned = plan(inputs, recipe, lambda _: 1.0)
    extras = WholeTensors(inputs, base)
    config, _, _ = config_of(inputs, planned)
    slots = [slot for p in planned for slot in slots_of(p)] + extras.slots()
    sink = _Arrays(slots)
    for p in planned:
        write_module(sink, p, recipe, base)
    extras.write(sink)
    stacks = {}
    for p in planned:
        ranks = {id(i.opened): rank_of(i, module) for i, module in p.parts}
        widths = tuple(ranks.get(id(i.opened), 0) for i in inputs)
        stacks[p.parts[0][1].left] = (p.name, widths)
    return InMemory(config, sink.values(), stacks)


class _Arrays:
    """A sink in memory."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._dtypes = {slot.name: slot.dtype for slot in slots}
        self._bits = {slot.name: np.zeros(slot.shape, STORAGE[slot.dtype]) for slot in slots}

    def put(self, name: str, bits: Array, start: int = 0) -> None:
        flat = np.ascontiguousarray(bits).reshape(-1)
        self._bits[name].reshape(-1)[start : start + flat.size] = flat

    def values(self) -> dict[str, Array]:
        return {
            name: Stored(bits, self._dtypes[name]).read(work=work_dtype(self._dtypes[name]))
            for name, bits in self._bits.items()
        }
