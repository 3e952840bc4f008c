"""Low rank: orthonormal frames of stacked factors, the best rank-k matrix, randomised SVD.

For L = [B_1 … B_N] (n×K) a frame is L = Q·C with QᵀQ = I. It comes from a float64 Gram
matrix by Cholesky, Q never formed; where the columns nearly depend on each other (two
versions of one adapter, an adapter twice, zero rows) from Householder QR instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import Array, Stored, work_dtype
from soup_git.arithmetic.scratch import scratch

# Smallest pivot, columns scaled to length 1, for which Cholesky's Q is orthonormal to 1e-8.
_MIN_PIVOT = 1e-4
# Directions whose σ is below this share of the largest are rounding, not part of a basis.
_NOISE = 1e-7
_OVERSAMPLING, _POWER_ITERATIONS = 8, 2
# Of a block of stacked factors: it stays in the cache, and numpy has long enough to work on it
# that what Python does between two blocks is nothing.
_BLOCK_VALUES = 1 << 18
# By how much terms may exceed their sum where products are float32: beyond, the error nears 1e-6.
_MAX_CANCELLATION = 2.0

Blocks = Iterator[tuple[int, Array]]
"""(number of the first entry, entries in row-major order); a block is valid until the next."""


@dataclass(frozen=True)
class Frame:
    """Stacked columns = Q·core, QᵀQ = I; `lift` maps q×k coordinates X to Q·X.

    Of a frame of wide matrices `lift` gives the transpose, (Q·X)ᵀ.
    """

    core: Array
    lift: Callable[[Array], Blocks]


def frame(parts: Sequence[Stored], work: Any, *, wide: bool = False) -> Frame:
    """The frame of matrices side by side; of wide ones on top of each other, transposed.

    `work` is what `lift` gives; it computes in float64 where a part is.
    """
    narrow = work_dtype(*(part.dtype for part in parts))
    total = _gram(parts, narrow, wide=wide)
    length = np.sqrt(np.diagonal(total))
    if length.size and length.min() > 0:
        try:
            root = np.linalg.cholesky(total / np.outer(length, length))
        except np.linalg.LinAlgError:
            root = np.zeros((1, 1))
        if np.diagonal(root).min() > _MIN_PIVOT:

            def lift(coordinates: Array) -> Blocks:
                columns = np.linalg.solve(root.T, coordinates) / length[:, None]
                kind = narrow if _is_tame(columns, length, coordinates) else np.float64
                return _products(parts, columns.astype(kind), work, wide=wide)

            return Frame(root.T * length, lift)
    basis, triangle = np.linalg.qr(
        np.concatenate([p.read(work=np.float64).T if wide else p.read(work=np.float64) for p in parts], axis=1)
    )  # fmt: skip

    def lift_orthonormal(coordinates: Array) -> Blocks:
        product = (basis @ coordinates).astype(work)
        yield 0, np.ascontiguousarray(product.T) if wide else product

    return Frame(triangle, lift_orthonormal)


def _is_tame(columns: Array, length: Array, coordinates: Array) -> bool:
    """Whether float32 can form stack·columns: its terms are not much larger than their sum.

    Row by row the terms of column j have the square Σᵢ lengthᵢ²·columnsᵢⱼ², their sum that of
    coordinates' column j. A column counts by its share of a product with one of equal norms.
    """
    sums = np.square(coordinates).sum(axis=0)
    terms = np.square(length[:, None] * columns).sum(axis=0)
    return float(terms @ sums) <= _MAX_CANCELLATION**2 * float(sums @ sums)


def _gram(parts: Sequence[Stored], work: Any, *, wide: bool) -> Array:
    """Gram matrix of the stacked columns (rows, where `wide`), in float64.

    float32 would be twice as fast, but a best rank-k matrix magnifies its error by the
    inverse of the gap between σ_k and σ_k+1, and no promise could be made.
    """
    size = sum(part.shape[0 if wide else 1] for part in parts)
    total, part = np.zeros((size, size)), scratch("part", (size, size), np.float64)
    for _, block in _stacked(parts, work, wide=wide):
        exact = block
        if block.dtype != np.float64:
            exact = scratch("exact", block.shape, np.float64)
            np.copyto(exact, block)
        total += (
            np.matmul(exact, exact.T, out=part) if wide else np.matmul(exact.T, exact, out=part)
        )
    return total


def _products(parts: Sequence[Stored], columns: Array, work: Any, *, wide: bool) -> Blocks:
    """stack·columns a block of rows at a time; where `wide`, columnsᵀ·stack at once."""
    count = columns.shape[1]
    length = parts[0].shape[1 if wide else 0]
    whole = scratch("lifted", (count, length), work) if wide else None
    for rows, block in _stacked(parts, columns.dtype.type, wide=wide):
        if whole is not None:
            np.matmul(columns.T, block, out=whole[:, rows], casting="same_kind")
        else:
            out = scratch("lifted", (len(block), count), work)
            yield rows.start * count, np.matmul(block, columns, out=out, casting="same_kind")
    if whole is not None:
        yield 0, whole


def _stacked(parts: Sequence[Stored], work: Any, *, wide: bool) -> Iterator[tuple[slice, Array]]:
    """Blocks of rows of the parts side by side; of columns of wide parts on top of each other."""
    widths = [part.shape[0 if wide else 1] for part in parts]
    length, width = parts[0].shape[1 if wide else 0], sum(widths)
    step = max(256, _BLOCK_VALUES // max(width, 1))
    block = scratch("stacked", (min(step, length) * width,), work)
    own = scratch("read", (min(step, length) * max(widths),), work)
    for start in range(0, length, step):
        rows = slice(start, min(start + step, length))
        count, at = rows.stop - start, 0
        out = block[: count * width].reshape((width, count) if wide else (count, width))
        for part, size in zip(parts, widths, strict=True):
            values = part.read((slice(None), rows) if wide else rows, work, own)
            if wide:
                out[at : at + size] = values
            else:
                _place(values, out[:, at : at + size])
            at += size
        yield rows, out


def _place(values: Array, columns: Array) -> None:
    """Copy a matrix into columns of a wider one, a row as one item: five times the speed."""
    if values.flags.c_contiguous and values.size:
        row = np.dtype((np.void, values.shape[1] * values.dtype.itemsize))
        values, columns = values.view(row), columns.view(row)
    columns[...] = values


@dataclass(frozen=True)
class LowRank:
    """left·right ≈ a matrix M; `norm` is ‖M‖, `residual` ‖M − left·right‖.

    The factors are computed as they are read, block by block.
    """

    shape: tuple[int, int]
    rank: int
    left_blocks: Callable[[], Blocks]
    right_blocks: Callable[[], Blocks]
    norm: float
    residual: float

    @property
    def left(self) -> Array:
        """d_out×rank"""
        return _collected(self.left_blocks(), (self.shape[0], self.rank))

    @property
    def right(self) -> Array:
        """rank×d_in"""
        return _collected(self.right_blocks(), (self.rank, self.shape[1]))


def _collected(blocks: Blocks, shape: tuple[int, int]) -> Array:
    out = None
    for start, values in blocks:
        out = np.empty(math.prod(shape), values.dtype) if out is None else out
        out[start : start + values.size] = values.reshape(-1)
    return np.empty(shape) if out is None else out.reshape(shape)


def whole(left: Array, right: Array, norm: float, residual: float) -> LowRank:
    """Factors that are there: d_out×k and k×d_in."""
    return LowRank(
        (left.shape[0], right.shape[1]),
        right.shape[0],
        lambda: iter([(0, left)]),
        lambda: iter([(0, right)]),
        norm,
        residual,
    )


def best(left: Frame, middle: Array, right: Frame, rank: int, shape: tuple[int, int]) -> LowRank:
    """The best rank-`rank` approximation of Q_L·middle·Q_Rᵀ (Eckart & Young 1936).

    One symmetric eigenproblem: with middle·middleᵀ = U·S²·Uᵀ the factors are Q_L·U_k·S^½ and
    S^−½·U_kᵀ·middle·Q_Rᵀ. Rows beyond the matrix's own rank are zero, so the shape is `rank`.
    """
    squares, vectors = np.linalg.eigh(middle @ middle.T)
    squares = np.clip(squares[::-1], 0.0, None)
    kept = min(
        rank, int(np.count_nonzero(squares > (1e-15 * squares[0]) ** 2)) if squares.size else 0
    )
    u = vectors[:, ::-1][:, :kept]
    half = np.power(squares[:kept], 0.25)
    tall, wide = _padded(u * half, rank), _padded(((u / half).T @ middle).T, rank)
    return LowRank(
        shape,
        rank,
        lambda: left.lift(tall),
        lambda: right.lift(wide),
        norm=math.sqrt(float(squares.sum())),
        residual=math.sqrt(float(squares[kept:].sum())),
    )


def _padded(columns: Array, rank: int) -> Array:
    if columns.shape[1] == rank:
        return columns
    out = np.zeros((len(columns), rank), columns.dtype)
    out[:, : columns.shape[1]] = columns
    return out


@dataclass(frozen=True)
class Shared:
    """Updates in one orthonormal basis taken from themselves: ΔW_i = Q_L·U·C_i·Vᵀ·Q_Rᵀ.

    U and V are the singular vectors of [ΔW_1 … ΔW_N] side by side and on top of each other,
    so the coordinates C_i do not depend on the factors' basis (KnOTS, arXiv 2410.19735;
    Core Space, arXiv 2509.17786).
    """

    shape: tuple[int, int]
    left: Frame
    right: Frame
    cores: tuple[Array, ...]
    u: Array
    v: Array
    sigma: Array
    """Singular values of the updates side by side, one per column of U."""

    @property
    def coordinates(self) -> list[Array]:
        return [self.u.T @ core @ self.v for core in self.cores]

    def best(self, coordinates: Array, rank: int) -> LowRank:
        return best(self.left, self.u @ coordinates @ self.v.T, self.right, rank, self.shape)


def shared(updates: Sequence[Update], work: Any) -> Shared:
    """The updates of one module in their shared basis."""
    left = frame([u.left for u in updates], work)
    right = frame([u.right for u in updates], work, wide=True)
    cores, at = [], 0
    for update in updates:
        part = slice(at, at + update.rank)
        cores.append(update.scale * (left.core[:, part] @ right.core[:, part].T))
        at += update.rank
    u, sigma = _directions(sum(core @ core.T for core in cores))
    v, _ = _directions(sum(core.T @ core for core in cores))
    return Shared(updates[0].shape, left, right, tuple(cores), u, v, sigma)


def _directions(gram: Any) -> tuple[Array, Array]:
    squares, vectors = np.linalg.eigh(gram)
    sigma = np.sqrt(np.clip(squares[::-1], 0.0, None))
    kept = max(1, int(np.count_nonzero(sigma > _NOISE * sigma[0])))
    return vectors[:, ::-1][:, :kept], sigma[:kept]


def weighted_sum(
    updates: Sequence[Update], weights: Sequence[float], rank: int, work: Any
) -> LowRank:
    """The best rank-`rank` approximation of Σ w·ΔW."""
    left = frame([u.left for u in updates], work)
    right = frame([u.right for u in updates], work, wide=True)
    scales = np.repeat(
        [w * u.scale for u, w in zip(updates, weights, strict=True)], [u.rank for u in updates]
    )
    middle = (left.core * scales) @ right.core.T
    return best(left, middle, right, rank, updates[0].shape)


def randomized(matrix: Array, rank: int, seed: int = 0) -> LowRank:
    """Rank-`rank` approximation of a dense d_out×d_in matrix (Halko, Martinsson & Tropp 2011).

    Two power iterations; the residual is that of what is returned, not of the optimum.
    """
    columns = min(rank + _OVERSAMPLING, *matrix.shape)
    draws = np.random.Generator(np.random.SFC64(seed))
    sample = matrix @ draws.standard_normal((matrix.shape[1], columns)).astype(matrix.dtype)
    for _ in range(_POWER_ITERATIONS):
        basis = np.linalg.qr(sample)[0]
        sample = matrix @ np.linalg.qr(matrix.T @ basis)[0]
    basis = np.linalg.qr(sample)[0]
    u, s, vt = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    kept = min(rank, len(s))
    half = np.sqrt(s[:kept])
    left = (basis @ u[:, :kept]) * half
    right = half[:, None] * vt[:kept]
    norm, residual = _norm_and_residual(matrix, left, right)
    return whole(
        _padded(left, rank), np.ascontiguousarray(_padded(right.T, rank).T), norm, residual
    )


def _norm_and_residual(matrix: Array, left: Array, right: Array) -> tuple[float, float]:
    """(‖M‖, ‖M − left·right‖), entry by entry in float64.

    ‖M‖² − Σσ² would be the residual's square, too; but both are sums in float32, and of two
    large ones that nearly agree the rounding of whatever kernel BLAS took is all that is left.
    """
    wide = right.astype(np.float64)
    squares = np.zeros(2)
    step = max(1, _BLOCK_VALUES // max(matrix.shape[1], 1))
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step].astype(np.float64)
        squares[0] += np.vdot(block, block)
        block -= left[start : start + step].astype(np.float64) @ wide
        squares[1] += np.vdot(block, block)
    return math.sqrt(squares[0]), math.sqrt(squares[1])
