"""Low rank: orthonormal frames of stacked factors, the best rank-k matrix, randomised SVD.

For L = [B_1 … B_N] (n×K) a frame is L = Q·C with QᵀQ = I. It comes from a float64 Gram
matrix by Cholesky, Q never formed; where the columns nearly depend on each other (two
versions of one adapter, an adapter twice, zero rows) from Householder QR instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from soup_git.arithmetic.factors import Update, tall_blocks
from soup_git.arithmetic.floats import Array, Stored

# Smallest pivot, columns scaled to length 1, for which Cholesky's Q is orthonormal to 1e-8.
_MIN_PIVOT = 1e-4
# Directions whose σ is below this share of the largest are rounding, not part of a basis.
_NOISE = 1e-7
_OVERSAMPLING, _POWER_ITERATIONS = 8, 2


@dataclass(frozen=True)
class Frame:
    """Stacked columns = Q·core, QᵀQ = I; `lift` maps q×k coordinates X to Q·X (n×k)."""

    core: Array
    lift: Callable[[Array], Array]


def frame(parts: Sequence[Stored], work: Any, *, wide: bool = False) -> Frame:
    """The frame of matrices side by side (`wide`: of their transposes)."""
    widths = [stored.shape[0 if wide else 1] for stored in parts]
    total = np.zeros((sum(widths), sum(widths)))
    for block in _stacked(parts, widths, wide=wide):
        total += block.T @ block
    length = np.sqrt(np.diagonal(total))
    if length.size and length.min() > 0:
        try:
            root = np.linalg.cholesky(total / np.outer(length, length))
        except np.linalg.LinAlgError:
            root = np.zeros((1, 1))
        if np.diagonal(root).min() > _MIN_PIVOT:

            def lift(coordinates: Array) -> Array:
                columns = np.linalg.solve(root.T, coordinates) / length[:, None]
                blocks = _stacked(parts, widths, wide=wide)
                return np.concatenate([(block @ columns).astype(work) for block in blocks])

            return Frame(root.T * length, lift)
    stacked = np.concatenate([block.copy() for block in _stacked(parts, widths, wide=wide)])
    basis, triangle = np.linalg.qr(stacked)
    return Frame(triangle, lambda coordinates: np.asarray((basis @ coordinates).astype(work)))


def _stacked(parts: Sequence[Stored], widths: Sequence[int], *, wide: bool) -> Any:
    """Blocks of rows of [parts…] side by side, float64; each valid until the next."""
    width = max(sum(widths), 1)
    buffer = np.empty((0, width))
    for row in zip(*[tall_blocks(p, width, np.float64, wide=wide) for p in parts], strict=True):
        if len(buffer) < len(row[0]):
            buffer = np.empty((len(row[0]), width))
        at = 0
        for block in row:
            buffer[: len(block), at : at + block.shape[1]] = block
            at += block.shape[1]
        yield buffer[: len(row[0])]


@dataclass(frozen=True)
class LowRank:
    """left·right ≈ a matrix M; `norm` is ‖M‖, `residual` ‖M − left·right‖."""

    left: Array
    right: Array
    norm: float
    residual: float


def best(left: Frame, middle: Array, right: Frame, rank: int) -> LowRank:
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
    tall, wide = left.lift(u * half), right.lift(((u / half).T @ middle).T)
    residual = math.sqrt(float(squares[kept:].sum()))
    norm = math.sqrt(float(squares.sum()))
    return LowRank(_padded(tall, rank), np.ascontiguousarray(_padded(wide, rank).T), norm, residual)


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
        return best(self.left, self.u @ coordinates @ self.v.T, self.right, rank)


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
    return Shared(left, right, tuple(cores), u, v, sigma)


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
    return best(left, (left.core * scales) @ right.core.T, right, rank)


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
    flat = matrix.reshape(-1)
    norm2 = sum(float(np.dot(part, part)) for part in np.array_split(flat, max(1, flat.size >> 22)))
    residual = math.sqrt(max(norm2 - float(np.square(s[:kept], dtype=np.float64).sum()), 0.0))
    return LowRank(
        _padded((basis @ u[:, :kept]) * half, rank),
        np.ascontiguousarray(_padded((half[:, None] * vt[:kept]).T, rank).T),
        math.sqrt(norm2),
        residual,
    )
