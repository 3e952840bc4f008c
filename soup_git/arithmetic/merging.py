"""One module's merge: updates and weights in, factors out, in the space that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from soup_git.arithmetic.elementwise import Coordinates, Elementwise, Settings, keep_all, merge_rows
from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import Array, Stored
from soup_git.arithmetic.lowrank import (
    Blocks,
    LowRank,
    Shared,
    best,
    frame,
    randomized,
    shared,
    weighted_sum,
)
from soup_git.arithmetic.strategies import Core, Linear, Strategy

SPACES = ("shared", "delta", "factors")
_PLAIN_SUM = Elementwise(keep_all, elect=False)


@dataclass(frozen=True)
class Task:
    """One module of a merge: what each adapter that has it brings, and how to join it."""

    name: str
    updates: Sequence[Update]
    weights: Sequence[float]
    digests: Sequence[str]
    """Of the adapters: what a random mask may depend on, besides seed and name."""
    rank: int
    work: Any


def merge(task: Task, strategy: Strategy, space: str, settings: Settings) -> LowRank:
    """The merged update as factors of rank `task.rank`, and what the rank cost.

    Raises ValueError where `space` is `factors` and the ranks differ.
    """
    method = strategy.method
    if isinstance(method, Linear):
        if space == "factors":
            return _in_factors(task, _PLAIN_SUM, settings)
        weights = method.coefficients(task.updates, task.weights)
        return weighted_sum(task.updates, weights, task.rank, task.work)
    if isinstance(method, Core):
        basis = shared(task.updates, task.work)
        coordinates, cut = method.merge(basis.coordinates, task.weights, task.rank)
        found = basis.best(coordinates, task.rank)
        return replace(
            found, norm=math.hypot(found.norm, cut), residual=math.hypot(found.residual, cut)
        )
    if strategy.columns:
        return _in_columns(task, method, settings)
    return _SPACES[space](task, method, settings)


def _keys(task: Task, settings: Settings, part: str) -> list[bytes]:
    return [f"{settings.seed}\0{task.name}{part}\0{digest}".encode() for digest in task.digests]


def _in_shared(task: Task, method: Elementwise, settings: Settings) -> LowRank:
    """On the q×q coordinates in the basis of all updates; q is at most the sum of the ranks."""
    basis = shared(task.updates, task.work)
    cores = [_Matrix(_kept(c)) for c in basis.coordinates]
    merged = _collect(task, method, cores, settings, "", task.weights, np.float64)
    return basis.best(merged, task.rank)


def _in_columns(task: Task, method: Elementwise, settings: Settings) -> LowRank:
    """KnOTS: [ΔW_1 … ΔW_N] = U·Σ·[V_1 … V_N]; the method acts on the V_i (q×d_in)."""
    basis = shared(task.updates, task.work)
    aligned = [_Matrix(_kept(_aligned(basis, core))) for core in basis.cores]
    merged = _collect(task, method, aligned, settings, "", task.weights, task.work)
    right = frame([_kept(merged)], task.work, wide=True)
    middle = (basis.u * basis.sigma) @ right.core.T
    return best(basis.left, middle, right, task.rank, basis.shape)


def _aligned(basis: Shared, core: Array) -> Array:
    """V_i, q×d_in."""
    coordinates = (basis.u.T @ core).T / basis.sigma
    ((_, found),) = basis.right.lift(coordinates)
    return found.copy()


def _in_factors(task: Task, method: Elementwise, settings: Settings) -> LowRank:
    """On A and on B, as PEFT does; it depends on the factors' basis, and is no merge of ΔW.

    Each side gets √|w·s|, A also the sign. PEFT: `LoraModel.add_weighted_adapter`.
    """
    if len({update.rank for update in task.updates}) > 1:
        ranks = ", ".join(str(update.rank) for update in task.updates)
        raise ValueError(f"{task.name} has ranks {ranks}; factors of unequal rank cannot be added")
    effective = [w * u.scale for w, u in zip(task.weights, task.updates, strict=True)]
    roots = [abs(e) ** 0.5 for e in effective]
    signed = [root if e >= 0 else -root for root, e in zip(roots, effective, strict=True)]
    peft = Settings(settings.density, settings.seed, peft=True)
    lefts, rights = (
        [_Matrix(u.left) for u in task.updates],
        [_Matrix(u.right) for u in task.updates],
    )
    return LowRank(
        task.updates[0].shape,
        task.updates[0].rank,
        lambda: _blocks(task, method, lefts, peft, ".lora_B", roots, task.work),
        lambda: _blocks(task, method, rights, peft, ".lora_A", signed, task.work),
        norm=float("nan"),
        residual=0.0,
    )


def _in_delta(task: Task, method: Elementwise, settings: Settings) -> LowRank:
    """On the entries of ΔW themselves; one dense module in memory, then a randomised SVD."""
    dense = [_Product(update, task.work) for update in task.updates]
    merged = _collect(task, method, dense, settings, "", task.weights, task.work)
    return randomized(merged, task.rank)


def _collect(
    task: Task,
    method: Elementwise,
    coordinates: Sequence[Coordinates],
    settings: Settings,
    part: str,
    weights: Sequence[float],
    work: Any,
) -> Array:
    out = np.empty(coordinates[0].shape, work)
    for start, rows in _blocks(task, method, coordinates, settings, part, weights, work):
        out.reshape(-1)[start : start + rows.size] = rows.reshape(-1)
    return out


def _blocks(
    task: Task,
    method: Elementwise,
    coordinates: Sequence[Coordinates],
    settings: Settings,
    part: str,
    weights: Sequence[float],
    work: Any,
) -> Blocks:
    keys, width = _keys(task, settings, part), coordinates[0].shape[1]
    for start, rows in merge_rows(method, coordinates, weights, keys, settings, work):
        yield start * width, rows


_SPACES = {"shared": _in_shared, "delta": _in_delta, "factors": _in_factors}


class _Matrix:
    """A matrix that is there, as coordinates."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self.shape = (stored.shape[0], stored.shape[1])

    def rows(self, start: int, stop: int, out: Array) -> Array:
        return self._stored.read(slice(start, stop), out.dtype.type, out.reshape(-1))


class _Product:
    """The dense entries of s·B·A, a block of rows at a time."""

    def __init__(self, update: Update, work: Any) -> None:
        self._left = update.left.read(work=work) * work(update.scale)
        self._right = update.right.read(work=work)
        self.shape = update.shape

    def rows(self, start: int, stop: int, out: Array) -> Array:
        return np.matmul(self._left[start:stop], self._right, out=out)


def _kept(values: Array) -> Stored:
    return Stored(np.ascontiguousarray(values), "F64" if values.dtype == np.float64 else "F32")
