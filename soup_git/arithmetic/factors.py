"""LoRA algebra from the factors: norms, inner products, spectra, differences.

Notation: ΔW = s·B·A, B: d_out×r (`left`), A: r×d_in (`right`). With the Gram matrices
G_B = BᵀB and G_A = AAᵀ (r×r): ‖ΔW‖² = s²⟨G_B, G_A⟩, and the squared singular values of ΔW
are the eigenvalues of s²·CᵀG_AC with G_B = CCᵀ. Grams are summed in float64 over blocks
of float32 products, so no step is larger than a block of a factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from soup_git.arithmetic.floats import Array, Stored, work_dtype

# A block of both factors of a pair stays in a core's second-level cache.
_BLOCK_VALUES = 1 << 16
# How often the terms of ‖D‖² may exceed their sum before float32 Grams are not trusted:
# 16·6e-8 is below the 1e-6 that a drift's norm is promised to.
_MAX_CANCELLATION = 16.0


class Update(NamedTuple):
    """ΔW = scale·left·right; left: d_out×r, right: r×d_in."""

    left: Stored
    right: Stored
    scale: float

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]


@dataclass(frozen=True)
class Comparison:
    """Two updates of one module: squared norms, and squared singular values of each."""

    norm_a: float
    norm_b: float
    norm_difference: float
    squares_a: Array
    squares_b: Array
    squares_difference: Array

    @property
    def inner(self) -> float:
        """⟨ΔW_a, ΔW_b⟩"""
        return (self.norm_a**2 + self.norm_b**2 - self.norm_difference**2) / 2


def effective_rank(squares: Array) -> float:
    """exp(H(p)), p_i = σ_i²/Σσ², H Shannon's entropy in nats; 0 for a zero matrix.

    Roy & Vetterli 2007, with the energy σ² instead of σ. `squares` holds the σ_i².
    """
    squares = squares[squares > 0]
    total = float(squares.sum())
    if total <= 0.0:
        return 0.0
    p = squares / total
    return math.exp(-float(np.dot(p, np.log(p))))


def squared_singular_values(left_gram: Array, right_gram: Array) -> Array:
    """σ² of L·R (ascending, clipped at 0) from LᵀL and RRᵀ, both k×k float64."""
    try:
        root = np.linalg.cholesky(left_gram)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(left_gram)
        root = vectors * np.sqrt(np.clip(values, 0.0, None))
    squares: Array = np.linalg.eigvalsh(root.T @ right_gram @ root)
    return np.clip(squares, 0.0, None)


def measure(update: Update) -> tuple[float, Array]:
    """(‖ΔW‖, σ²) of one update."""
    left, right = _gram(update.left), _gram(update.right, wide=True)
    scale = abs(update.scale)
    return scale * _root(left, right), scale**2 * squared_singular_values(left, right)


def inner(a: Update, b: Update) -> float:
    """⟨ΔW_a, ΔW_b⟩ = s_a·s_b·⟨B_aᵀB_b, A_aA_bᵀ⟩."""
    left = _cross(a.left, b.left)
    right = _cross(a.right, b.right, wide=True)
    return a.scale * b.scale * float(np.vdot(left, right))


def compare(a: Update, b: Update) -> Comparison:
    """Norms and spectra of ΔW_a, ΔW_b and D = ΔW_b − ΔW_a.

    With equal ranks D is telescoped, B_aA_a − B_bA_b = B_a(A_a−A_b) + (B_a−B_b)A_b: what
    two versions of one adapter share is gone before anything is squared, and float32
    Grams give ‖D‖ to 1e-7 down to a drift of 1e-6. Where the terms still cancel (the same
    update in another basis, unequal ranks) D's norm and spectrum come from float64 QR.
    """
    unit = a.scale or b.scale or 1.0
    factors = (a.scale / unit, b.scale / unit)
    grams = (_telescoped if a.rank == b.rank else _stacked)(a, b, factors)
    (left_a, right_a), (left_b, right_b), (left, right) = grams
    total = float(np.vdot(left, right))
    unit = abs(unit)
    if float(np.vdot(np.abs(left), np.abs(right))) > _MAX_CANCELLATION * abs(total):
        squares = _difference_by_qr(a, b, factors)
        norm = math.sqrt(float(squares.sum()))
    else:
        squares, norm = squared_singular_values(left, right), math.sqrt(max(total, 0.0))
    return Comparison(
        norm_a=unit * _root(left_a, right_a),
        norm_b=unit * _root(left_b, right_b),
        norm_difference=unit * norm,
        squares_a=unit**2 * squared_singular_values(left_a, right_a),
        squares_b=unit**2 * squared_singular_values(left_b, right_b),
        squares_difference=unit**2 * squares,
    )


def compare_all(a: Sequence[Update], b: Sequence[Update], *, same: bool = False) -> Comparison:
    """`compare` for a module of several matrices (experts), or of none on one side.

    The matrices are blocks of one block-diagonal update: norms add in squares, spectra
    join. `same` says that the bytes are known to be equal. Raises ValueError where the
    two sides have other shapes or numbers of matrices.
    """
    if a and b and ([u.shape for u in a] != [u.shape for u in b]):
        raise ValueError(f"{_shapes(a)} against {_shapes(b)}")
    if a and b and not same:
        return _joined([compare(x, y) for x, y in zip(a, b, strict=True)])
    zero = (0.0, np.zeros(1))
    parts = []
    for norm, squares in [measure(update) for update in a or b]:
        one, two = (norm, squares) if a else zero, (norm, squares) if b else zero
        change = zero if same else (norm, squares)
        parts.append(Comparison(one[0], two[0], change[0], one[1], two[1], change[1]))
    return _joined(parts)


def _joined(parts: Sequence[Comparison]) -> Comparison:
    if len(parts) == 1:
        return parts[0]
    norms = [
        math.sqrt(sum(x * x for x in values))
        for values in zip(*[(p.norm_a, p.norm_b, p.norm_difference) for p in parts], strict=True)
    ]
    spectra = [
        np.concatenate(values)
        for values in zip(*[(p.squares_a, p.squares_b, p.squares_difference) for p in parts], strict=True)
    ]  # fmt: skip
    return Comparison(norms[0], norms[1], norms[2], spectra[0], spectra[1], spectra[2])


def _shapes(updates: Sequence[Update]) -> str:
    first = "x".join(map(str, updates[0].shape))
    return first if len(updates) == 1 else f"{len(updates)} of {first}"


Grams = tuple[Array, Array]


def _root(left: Array, right: Array) -> float:
    return math.sqrt(max(float(np.vdot(left, right)), 0.0))


def _telescoped(a: Update, b: Update, factors: tuple[float, float]) -> tuple[Grams, Grams, Grams]:
    """Grams of ΔW_a, ΔW_b and D = [B_a, dB]·[dA; A_b]; dB = B_a−B_b, dA = A_a−A_b."""
    ll, ld, dd = _pair_grams(a.left, b.left, factors, "first")
    rr, re, ee = _pair_grams(a.right, b.right, (1.0, 1.0), "second", wide=True)
    return (
        (ll, rr + re + re.T + ee),
        (ll - ld - ld.T + dd, rr),
        (np.block([[ll, ld], [ld.T, dd]]), np.block([[ee, re.T], [re, rr]])),
    )


def _stacked(a: Update, b: Update, factors: tuple[float, float]) -> tuple[Grams, Grams, Grams]:
    """Grams of ΔW_a, ΔW_b and D = [B_a, −B_b]·[A_a; A_b]."""
    aa, ab, bb = _pair_grams(a.left, b.left, factors, "both")
    rr, rs, ss = _pair_grams(a.right, b.right, (1.0, 1.0), "both", wide=True)
    left = np.block([[aa, -ab], [-ab.T, bb]])
    return (aa, rr), (bb, ss), (left, np.block([[rr, rs], [rs.T, ss]]))


def _pair_grams(
    a: Stored, b: Stored, factors: tuple[float, float], keep: str, *, wide: bool = False
) -> tuple[Array, Array, Array]:
    """(XᵀX, XᵀY, YᵀY) over the rows of two tall matrices (columns of two wide ones).

    X, Y is (a, a−b) for `keep` "first", (b, a−b) for "second", (a, b) for "both".
    """
    widths = [stored.shape[0 if wide else 1] for stored in (a, b)]
    first, third = (np.zeros((width, width)) for width in widths)
    second = np.zeros((widths[0], widths[1]))
    scratch = np.empty(_BLOCK_VALUES + 256 * max(widths), work_dtype(a.dtype, b.dtype))
    for x, y in _tall_pairs(a, b, factors, wide=wide):
        if keep != "both":
            step = np.subtract(x, y, out=scratch[: x.size].reshape(x.shape, order=_order(x)))
            x, y = (x if keep == "first" else y), step  # noqa: PLW2901
        first += x.T @ x
        second += x.T @ y
        third += y.T @ y
    return first, second, third


def _cross(a: Stored, b: Stored, *, wide: bool = False) -> Array:
    """XᵀY over the rows of two tall matrices (columns of two wide ones), float64."""
    total = np.zeros((a.shape[0 if wide else 1], b.shape[0 if wide else 1]))
    for x, y in _tall_pairs(a, b, (1.0, 1.0), wide=wide):
        total += x.T @ y
    return total


def _gram(stored: Stored, *, wide: bool = False) -> Array:
    """XᵀX over the rows of a tall matrix (columns of a wide one), float64."""
    width = stored.shape[0 if wide else 1]
    total = np.zeros((width, width))
    for x in tall_blocks(stored, width, work_dtype(stored.dtype), wide=wide):
        total += x.T @ x
    return total


def _order(view: Array) -> Literal["C", "F"]:
    return "C" if view.flags.c_contiguous else "F"


def _tall_pairs(
    a: Stored, b: Stored, factors: tuple[float, float], *, wide: bool
) -> Iterator[tuple[Array, Array]]:
    width = max(a.shape[0 if wide else 1], b.shape[0 if wide else 1])
    work = work_dtype(a.dtype, b.dtype)
    return zip(
        tall_blocks(a, width, work, factors[0], wide=wide),
        tall_blocks(b, width, work, factors[1], wide=wide),
        strict=True,
    )


def tall_blocks(
    stored: Stored, width: int, work: Any, factor: float = 1.0, *, wide: bool = False
) -> Iterator[Array]:
    """Blocks of rows of a tall matrix; of a wide one, of its transpose (a view).

    A block is valid until the next one: they share their memory.
    """
    length = stored.shape[1 if wide else 0]
    step = max(256, _BLOCK_VALUES // max(width, 1))
    scratch = None
    for start in range(0, length, step):
        rows = slice(start, start + step)
        index = (slice(None), rows) if wide else rows
        if scratch is None and (stored.bits.dtype != work or factor != 1.0):
            scratch = np.empty(step * stored.shape[0 if wide else 1], work)
        block = stored.read(index, work, scratch)
        if factor != 1.0 and scratch is not None:
            block = np.multiply(block, work(factor), out=scratch[: block.size].reshape(block.shape))
        yield block.T if wide else block


def _difference_by_qr(a: Update, b: Update, factors: tuple[float, float]) -> Array:
    """σ² of D without squaring anything that cancels: ‖L·R‖ = ‖R_L·R_Rᵀ‖, in float64."""
    left = _triangle((a.left, factors[0]), (b.left, -factors[1]))
    right = _triangle((a.right, 1.0), (b.right, 1.0), wide=True)
    return np.square(np.linalg.svd(left @ right.T, compute_uv=False))


def _triangle(*parts: tuple[Stored, float], wide: bool = False) -> Array:
    """R of the QR decomposition of [x·f, …] side by side, block by block."""
    width = sum(stored.shape[0 if wide else 1] for stored, _ in parts)
    triangle: Array = np.zeros((0, width))
    blocks = [tall_blocks(stored, width, np.float64, wide=wide) for stored, _ in parts]
    for row in zip(*blocks, strict=True):
        scaled = [x * f for x, (_, f) in zip(row, parts, strict=True)]
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, np.hstack(scaled)]), mode="r"))
    return triangle
