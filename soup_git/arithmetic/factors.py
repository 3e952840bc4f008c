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
from typing import Any, NamedTuple

import numpy as np

from soup_git.arithmetic.floats import Array, Stored, work_dtype
from soup_git.arithmetic.scratch import scratch

# Of a block of a factor: what is converted or subtracted stays in the cache.
_BLOCK_VALUES = 1 << 18
# Of one float32 product: its rounding is what ‖D‖ is right to.
_PRODUCT_ROWS = 2048
# How often the terms of ‖D‖² may exceed their sum before float32 Grams are not trusted:
# 16·6e-8 is below the 1e-6 that a drift's norm is promised to.
_MAX_CANCELLATION = 16.0
# How much larger one norm may be than the other before an inner product is not taken from norms.
_MAX_UNEQUAL = 4.0


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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two updates of one module: norms, and squared singular values of each."""

    norm_a: float
    norm_b: float
    norm_difference: float
    inner: float
    """⟨ΔW_a, ΔW_b⟩"""
    squares_a: Array
    squares_b: Array
    squares_difference: Array


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
    """σ² of L·R (ascending, clipped at 0) from LᵀL and RRᵀ, float64, (…, k, k) each."""
    try:
        root = np.linalg.cholesky(left_gram)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(left_gram)
        root = vectors * np.sqrt(np.clip(values, 0.0, None))[..., None, :]
    squares: Array = np.linalg.eigvalsh(root.mT @ right_gram @ root)
    return np.clip(squares, 0.0, None)


def measure(update: Update) -> tuple[float, Array]:
    """(‖ΔW‖, σ²) of one update."""
    left, right = _gram(update.left), _gram(update.right, wide=True)
    scale = abs(update.scale)
    norm = scale * math.sqrt(max(float(np.vdot(left, right)), 0.0))
    return norm, scale**2 * squared_singular_values(left, right)


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
    return _compare_all([(a, b)])[0]


def compare_modules(
    modules: Sequence[tuple[Sequence[Update], Sequence[Update], bool]],
) -> list[Comparison]:
    """`compare` for modules of several matrices (experts), or of none on one side.

    Each is (matrices of a, of b, whether the bytes are known to be equal). The matrices of a
    module are blocks of one block-diagonal update: norms add in squares, spectra join. All
    modules share their calls of LAPACK: two threads with small calls wait for each other.
    Raises ValueError as `check_shapes`.
    """
    pairs: list[tuple[Update, Update]] = []
    for a, b, same in modules:
        check_shapes(a, b)
        if a and b and not same:
            pairs += zip(a, b, strict=True)
    compared = iter(_compare_all(pairs))
    return [
        _joined([next(compared) for _ in a] if a and b and not same else _alone(a, b, same=same))
        for a, b, same in modules
    ]


def compare_all(a: Sequence[Update], b: Sequence[Update], *, same: bool = False) -> Comparison:
    """`compare_modules` of one module."""
    return compare_modules([(a, b, same)])[0]


def check_shapes(a: Sequence[Update], b: Sequence[Update]) -> None:
    """Raise ValueError where both sides are there, with other shapes or numbers of matrices."""
    if a and b and [u.shape for u in a] != [u.shape for u in b]:
        raise ValueError(f"{_shapes(a)} against {_shapes(b)}")


def _alone(a: Sequence[Update], b: Sequence[Update], *, same: bool) -> list[Comparison]:
    """What is only on one side is the difference; what is the same has none."""
    zero = (0.0, np.zeros(1))
    parts = []
    for own in [measure(update) for update in a or b]:
        one, two, change = own if a else zero, own if b else zero, zero if same else own
        parts.append(
            Comparison(
                norm_a=one[0],
                norm_b=two[0],
                norm_difference=change[0],
                inner=one[0] * two[0],
                squares_a=one[1],
                squares_b=two[1],
                squares_difference=change[1],
            )
        )
    return parts


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
    return Comparison(
        norm_a=norms[0], norm_b=norms[1], norm_difference=norms[2], inner=sum(p.inner for p in parts),
        squares_a=spectra[0], squares_b=spectra[1], squares_difference=spectra[2],
    )  # fmt: skip


def _shapes(updates: Sequence[Update]) -> str:
    first = "x".join(map(str, updates[0].shape))
    return first if len(updates) == 1 else f"{len(updates)} of {first}"


def _compare_all(pairs: Sequence[tuple[Update, Update]]) -> list[Comparison]:
    """`compare` of each pair, in order."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (a, b) in enumerate(pairs):
        groups.setdefault((a.rank, b.rank), []).append(place)
    found: dict[int, Comparison] = {}
    for places in groups.values():
        found.update(zip(places, _compare_alike([pairs[i] for i in places]), strict=True))
    return [found[place] for place in range(len(pairs))]


class _Grams(NamedTuple):
    """Of N updates: LᵀL and RRᵀ, each (N, k, k) float64."""

    left: Array
    right: Array

    def products(self) -> Array:
        """‖L·R‖² of each"""
        return np.asarray(np.einsum("nij,nij->n", self.left, self.right))


def _cancelled(grams: _Grams) -> list[int]:
    """Where the terms of ‖L·R‖² are so much larger than their sum that float32 is not enough."""
    terms = np.einsum("nij,nij->n", np.abs(grams.left), np.abs(grams.right))
    found: list[int] = np.flatnonzero(terms > _MAX_CANCELLATION * np.abs(grams.products())).tolist()
    return found


def _much_smaller(grams: Sequence[_Grams]) -> tuple[list[int], list[int]]:
    """Where a, and where b, is so small beside the other that telescoping has lost its norm.

    `_telescoped` takes A_a's Gram matrix from A_b's, and B_b's from B_a's.
    """
    a, b = grams[0], grams[1]
    rights, lefts = (
        [np.trace(x, axis1=1, axis2=2) for x in pair]
        for pair in ((a.right, b.right), (a.left, b.left))
    )
    small_a: list[int] = np.flatnonzero(rights[1] > _MAX_CANCELLATION * rights[0]).tolist()
    small_b: list[int] = np.flatnonzero(lefts[0] > _MAX_CANCELLATION * lefts[1]).tolist()
    return small_a, small_b


def _compare_alike(pairs: Sequence[tuple[Update, Update]]) -> list[Comparison]:
    """Pairs of one rank per side."""
    units = [a.scale or b.scale or 1.0 for a, b in pairs]
    factors = [(a.scale / u, b.scale / u) for (a, b), u in zip(pairs, units, strict=True)]
    how = _telescoped if pairs[0][0].rank == pairs[0][1].rank else _stacked
    grams = how(pairs, factors)
    norms = [np.sqrt(np.clip(gram.products(), 0.0, None)) for gram in grams]
    squares = [squared_singular_values(gram.left, gram.right) for gram in grams]
    for side, rest in enumerate(_much_smaller(grams)):
        for i in rest:
            norm, own = measure(pairs[i][side]._replace(scale=factors[i][side]))
            norms[side][i], squares[side][i] = norm, own
    for i in _cancelled(grams[2]):
        exact = _difference_by_qr(*pairs[i], factors[i])
        norms[2][i] = math.sqrt(float(exact.sum()))
        squares[2][i] = _fitted(exact, squares[2].shape[1])
    return [
        Comparison(
            norm_a=abs(u) * float(norms[0][i]),
            norm_b=abs(u) * float(norms[1][i]),
            norm_difference=abs(u) * float(norms[2][i]),
            inner=u * u * _inner_of(pairs[i], factors[i], *(float(norm[i]) for norm in norms)),
            squares_a=u * u * squares[0][i],
            squares_b=u * u * squares[1][i],
            squares_difference=u * u * squares[2][i],
        )
        for i, u in enumerate(units)
    ]


def _inner_of(
    pair: tuple[Update, Update], factors: tuple[float, float], a: float, b: float, difference: float
) -> float:
    """⟨ΔW_a, ΔW_b⟩ from the three norms, where these are of one size.

    Beside a large update a small one vanishes in ‖ΔW_a‖² + ‖ΔW_b‖² − ‖D‖²: of 1 to 1e-6 not
    even the sign is right. Then from the factors.
    """
    if max(a, b) <= _MAX_UNEQUAL * min(a, b):
        return (a * a + b * b - difference * difference) / 2
    return inner(*(u._replace(scale=f) for u, f in zip(pair, factors, strict=True)))


def _fitted(squares: Array, count: int) -> Array:
    """Singular values beyond what a matrix of this shape has are zero."""
    out = np.zeros(count)
    out[: len(squares)] = squares
    return out


def _telescoped(
    pairs: Sequence[tuple[Update, Update]], factors: Sequence[tuple[float, float]]
) -> tuple[_Grams, _Grams, _Grams]:
    """Grams of ΔW_a, ΔW_b and D = [B_a, dB]·[dA; A_b]; dB = B_a−B_b, dA = A_a−A_b."""
    ll, ld, dd, rr, re, ee = _gathered(pairs, factors, "first", "second")
    return (
        _Grams(ll, rr + re + re.mT + ee),
        _Grams(ll - ld - ld.mT + dd, rr),
        _Grams(_square(ll, ld, ld.mT, dd), _square(ee, re.mT, re, rr)),
    )


def _stacked(
    pairs: Sequence[tuple[Update, Update]], factors: Sequence[tuple[float, float]]
) -> tuple[_Grams, _Grams, _Grams]:
    """Grams of ΔW_a, ΔW_b and D = [B_a, −B_b]·[A_a; A_b]."""
    aa, ab, bb, rr, rs, ss = _gathered(pairs, factors, "both", "both")
    left, right = _square(aa, -ab, -ab.mT, bb), _square(rr, rs, rs.mT, ss)
    return _Grams(aa, rr), _Grams(bb, ss), _Grams(left, right)


def _gathered(
    pairs: Sequence[tuple[Update, Update]],
    factors: Sequence[tuple[float, float]],
    keep_left: str,
    keep_right: str,
) -> list[Array]:
    """`_pair_grams` of the left factors and of the right ones, six stacks (N, …)."""
    found = [
        (
            *_pair_grams(a.left, b.left, factor, keep_left),
            *_pair_grams(a.right, b.right, (1.0, 1.0), keep_right, wide=True),
        )
        for (a, b), factor in zip(pairs, factors, strict=True)
    ]
    return [np.stack(grams) for grams in zip(*found, strict=True)]


def _square(a: Array, b: Array, c: Array, d: Array) -> Array:
    """[a, b; c, d] of each in a stack."""
    return np.concatenate(
        [np.concatenate([a, b], axis=-1), np.concatenate([c, d], axis=-1)], axis=-2
    )


def _pair_grams(
    a: Stored, b: Stored, factors: tuple[float, float], keep: str, *, wide: bool = False
) -> tuple[Array, Array, Array]:
    """(XᵀX, XᵀY, YᵀY) over the rows of two tall matrices (columns of two wide ones).

    X, Y is (a, a−b) for `keep` "first", (b, a−b) for "second", (a, b) for "both".
    """
    widths = [stored.shape[0 if wide else 1] for stored in (a, b)]
    work = work_dtype(a.dtype, b.dtype)
    first, third = (np.zeros((width, width)) for width in widths)
    second = np.zeros((widths[0], widths[1]))
    for x, y in zip(
        tall_blocks(a, max(widths), work, factors[0], wide=wide, name="a"),
        tall_blocks(b, max(widths), work, factors[1], wide=wide, name="b"),
        strict=True,
    ):
        if keep != "both":
            step = scratch("difference", x.T.shape if wide else x.shape, work)
            step = np.subtract(x, y, out=step.T if wide else step)
            x, y = (x if keep == "first" else y), step  # noqa: PLW2901
        first += _product(x, x)
        second += _product(x, y)
        third += _product(y, y)
    return first, second, third


def _cross(a: Stored, b: Stored, *, wide: bool = False) -> Array:
    """XᵀY over the rows of two tall matrices (columns of two wide ones), float64."""
    widths, work = [s.shape[0 if wide else 1] for s in (a, b)], work_dtype(a.dtype, b.dtype)
    total = np.zeros((widths[0], widths[1]))
    for x, y in zip(
        tall_blocks(a, max(widths), work, wide=wide, name="a"),
        tall_blocks(b, max(widths), work, wide=wide, name="b"),
        strict=True,
    ):
        total += _product(x, y)
    return total


def _gram(stored: Stored, *, wide: bool = False) -> Array:
    """XᵀX over the rows of a tall matrix (columns of a wide one), float64."""
    width = stored.shape[0 if wide else 1]
    total = np.zeros((width, width))
    for x in tall_blocks(stored, width, work_dtype(stored.dtype), wide=wide):
        total += _product(x, x)
    return total


def _product(x: Array, y: Array) -> Array:
    """XᵀY in float64, summed over products of `_PRODUCT_ROWS` rows in the dtype that they have.

    One call for all: between two calls the other thread would have to wait for Python.
    """
    count = len(x) // _PRODUCT_ROWS
    if count < 2:
        return np.asarray(x.T @ y, np.float64)
    end = count * _PRODUCT_ROWS
    many = (
        x[:end].reshape(count, _PRODUCT_ROWS, -1).transpose(0, 2, 1)
        @ y[:end].reshape(count, _PRODUCT_ROWS, -1)
    ).sum(axis=0, dtype=np.float64)  # fmt: skip
    return np.asarray(many + x[end:].T @ y[end:] if end < len(x) else many)


def tall_blocks(
    stored: Stored,
    width: int,
    work: Any,
    factor: float = 1.0,
    *,
    wide: bool = False,
    name: str = "a",
) -> Iterator[Array]:
    """Blocks of rows of a tall matrix; of a wide one, of its transpose (a view).

    A block is valid until the next one, or the next walk of that `name`: they share memory.
    """
    length, columns = stored.shape[1 if wide else 0], stored.shape[0 if wide else 1]
    step = max(256, _BLOCK_VALUES // max(width, 1))
    for start in range(0, length, step):
        rows = slice(start, min(start + step, length))
        size = (rows.stop - start) * columns
        own = scratch(name, (size,), work)
        block = stored.read((slice(None), rows) if wide else rows, work, own)
        if factor != 1.0:
            block = np.multiply(block, work(factor), out=own.reshape(block.shape))
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
    blocks = [
        tall_blocks(stored, width, np.float64, wide=wide, name=name)
        for (stored, _), name in zip(parts, "ab", strict=True)
    ]
    for row in zip(*blocks, strict=True):
        scaled = [x * f for x, (_, f) in zip(row, parts, strict=True)]
        triangle = np.asarray(np.linalg.qr(np.vstack([triangle, np.hstack(scaled)]), mode="r"))
    return triangle
