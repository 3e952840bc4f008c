"""One module of a merge: computed from its inputs, and put where it belongs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from soup_git.arithmetic import dora
from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import Array, Stored, to_bits, work_dtype
from soup_git.arithmetic.merging import Task, merge
from soup_git.errors import FatalError
from soup_git.storage.basemodel import BaseModel
from soup_git.storage.mergeinputs import Recipe
from soup_git.storage.mergeplan import Planned


@dataclass(frozen=True)
class MergedModule:
    module: str
    rank: int
    inputs: int
    residual: float | None
    """‖ΔW − written‖/‖ΔW‖: what the rank cost; None where it is not defined."""


class Sink(Protocol):
    """Where merged tensors go."""

    def put(self, name: str, bits: Array, start: int = 0) -> None:
        """`bits`, in the tensor's storage dtype, `start` elements into `name`."""


def write_module(
    out: Sink, p: Planned, recipe: Recipe, base: BaseModel | None
) -> tuple[MergedModule, float, float]:
    """Compute and write one module: (its row, ‖merged‖, ‖what the rank lost‖)."""
    try:
        is_whole = p.is_kept and p.parts[0][1].magnitude is not None
        if p.magnitude is not None and not is_whole:
            return _write_dora(out, p, recipe, base)
        norm, lost = _write_factors(out, p, recipe)
        _write_bias(out, p)
        if is_whole:
            _write_magnitude(out, p)
    except ValueError as error:
        raise FatalError(f"{p.name} cannot be merged: {error}", hint="git soup diff A B") from None
    except OverflowError as error:
        raise FatalError(
            f"{p.name}: {error}, the dtype of the inputs",
            hint="smaller --weights, or float32 inputs",
        ) from None
    residual = lost / norm if norm > 0 else (None if math.isnan(norm) else 0.0)
    return MergedModule(p.name, p.rank, len(p.parts), residual), norm, lost


def _write_factors(out: Sink, p: Planned, recipe: Recipe) -> tuple[float, float]:
    experts = [i.opened.updates(module) for i, module in p.parts]
    left, right = p.parts[0][1].left, p.parts[0][1].right
    lefts, squares = [], [0.0, 0.0]
    for number, updates in enumerate(zip(*experts, strict=True)):
        at = number * p.rank * updates[0].shape[1]
        if recipe.is_exact or p.is_kept:
            lefts.append(_concatenated(out, p, updates, at))
            continue
        found = merge(_task(p, updates, number), recipe.strategy, recipe.space, recipe.settings)
        squares = [squares[0] + found.norm**2, squares[1] + found.residual**2]
        for start, values in found.right_blocks():
            out.put(right, to_bits(values, p.dtype), at + start)
        if len(experts[0]) > 1:
            lefts.append(to_bits(found.left, p.dtype))
            continue
        for start, values in found.left_blocks():
            out.put(left, to_bits(values, p.dtype), start)
    if lefts:
        # PEFT interleaves the experts along B's rank axis.
        out.put(left, lefts[0] if len(lefts) == 1 else np.stack(lefts, axis=2))
    return math.sqrt(squares[0]), math.sqrt(squares[1])


def _task(p: Planned, updates: Sequence[Update], number: int) -> Task:
    return Task(
        name=p.name if p.parts[0][1].experts == 1 else f"{p.name}.{number}",
        updates=updates,
        weights=[i.weight for i, _ in p.parts],
        digests=[i.digest for i, _ in p.parts],
        rank=p.rank,
        work=work_dtype(p.dtype),
    )


def _concatenated(out: Sink, p: Planned, updates: Sequence[Update], at: int) -> Array:
    """Σ w·s·B·A = [B_1 … B_N]·[f_1·A_1; …; f_N·A_N]·scale: writes A, returns B."""
    for (found, _), update in zip(p.parts, updates, strict=True):
        factor = found.weight * update.scale / p.scale
        out.put(p.parts[0][1].right, _scaled(update.right, factor, p.dtype), at)
        at += update.right.bits.size
    return np.concatenate([_scaled(u.left, 1.0, p.dtype) for u in updates], axis=1)


def _scaled(stored: Stored, factor: float, dtype: str) -> Array:
    """`factor` times a tensor, in the bits of `dtype`; the very bytes where nothing changes."""
    if factor == 1.0 and stored.dtype == dtype:
        return stored.bits
    work = work_dtype(stored.dtype, dtype)
    return to_bits(stored.read(work=work) * work(factor), dtype)


def _write_bias(out: Sink, p: Planned) -> None:
    """lora_bias: ΔW comes with s·b, so the merged bias is Σ w·s·b over the result's scale."""
    if p.bias is None:
        return
    total = np.zeros(p.parts[0][0].opened.file.entries[p.parts[0][1].left].shape[0])
    for found, module in p.parts:
        if module.bias is not None:
            value = found.opened.file[module.bias].read(work=np.float64)
            total += found.weight * module.scale / p.scale * value
    out.put(p.bias, to_bits(total, p.dtype))


def _write_magnitude(out: Sink, p: Planned) -> None:
    """DoRA's, of a module that is kept: the direction is the same, and so is what scales it."""
    found, module = p.parts[0]
    if p.magnitude is not None and module.magnitude is not None:
        value = found.opened.file[module.magnitude].read(work=np.float64)
        out.put(p.magnitude, to_bits(value.reshape(-1), p.dtype))


def _write_dora(
    out: Sink, p: Planned, recipe: Recipe, base: BaseModel | None
) -> tuple[MergedModule, float, float]:
    first = p.parts[0][1]
    if base is None or not recipe.is_exact:
        why = (
            "needs the base weights" if recipe.is_exact else "is exact with --strategy linear only"
        )
        raise FatalError(
            f"{p.name} is DoRA: its update is scaled by the norms of the base's rows, so a merge {why}",
            hint="git soup merge … --strategy linear --base FOLDER-OF-THE-BASE-MODEL",
        )
    if first.experts != 1 or len(p.parts[0][0].opened.file.entries[first.right].shape) != 2:
        raise ValueError("DoRA is merged in linear layers only")
    if p.parts[0][0].opened.settings.get("fan_in_fan_out") or any(m.bias for _, m in p.parts):
        raise ValueError("DoRA with fan_in_fan_out or lora_bias is not merged")
    updates = [i.opened.updates(module)[0] for i, module in p.parts]
    left, right, magnitude = dora.merge(
        base.tensor(f"{p.name}.weight"),
        [u.left.read(work=np.float64) * u.scale for u in updates],
        [u.right.read(work=np.float64) for u in updates],
        [
            i.opened.file[m.magnitude].read(work=np.float64).reshape(-1) if m.magnitude else None
            for i, m in p.parts
        ],
        [i.weight for i, _ in p.parts],
    )
    out.put(first.right, to_bits(right, p.dtype))
    out.put(first.left, to_bits(left / p.scale, p.dtype))
    out.put(p.magnitude or "", to_bits(magnitude, p.dtype))
    return MergedModule(p.name, p.rank, len(p.parts), 0.0), 0.0, 0.0
