"""DoRA with the base weights at hand: W* = m ∘ (W + s·B·A)/‖W + s·B·A‖ per row (output).

DoRA, Liu et al. 2024, arXiv 2402.09353. Relative to W an input's update is
diag(g − 1)·W + diag(g)·s·B·A with g = m/‖W + s·B·A‖. A weighted sum of such updates is one
DoRA again: with h = 1 + Σ w(g − 1), its low-rank part is diag(1/h)·Σ w·diag(g)·s·B·A, and its
magnitude is h times the row norms of W plus that part. No d×d matrix is formed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soup_git.arithmetic.floats import Array, Stored

_BLOCK_VALUES = 1 << 18


def row_norms(weight: Stored, left: Array, right: Array) -> Array:
    """‖W + left·right‖ of each row; W: d_out×d_in, left: d_out×r, right: r×d_in (float64)."""
    norms = np.empty(weight.shape[0])
    step = max(1, _BLOCK_VALUES // weight.shape[1])
    for start in range(0, len(norms), step):
        rows = slice(start, start + step)
        block = weight.read(rows, np.float64) + left[rows] @ right
        norms[rows] = np.linalg.norm(block, axis=1)
    return norms


def merge(
    weight: Stored,
    lefts: Sequence[Array],
    rights: Sequence[Array],
    magnitudes: Sequence[Array | None],
    weights: Sequence[float],
) -> tuple[Array, Array, Array]:
    """(left, right, magnitude) of the weighted sum; scalings are folded into `lefts`.

    A magnitude None is a plain LoRA (g = 1). All float64. Raises ValueError where the sum
    takes a row of W away entirely, which no DoRA can do.
    """
    gains = [
        np.ones(weight.shape[0]) if m is None else m / row_norms(weight, left, right)
        for left, right, m in zip(lefts, rights, magnitudes, strict=True)
    ]
    h = 1.0 + sum(w * (g - 1.0) for w, g in zip(weights, gains, strict=True))
    if np.abs(h).min() < 1e-6:
        raise ValueError("the weights take a row of the base away; no DoRA adapter can say that")
    left = np.concatenate(
        [(w * g / h)[:, None] * x for w, g, x in zip(weights, gains, lefts, strict=True)], axis=1
    )
    right = np.concatenate(rights)
    return left, right, h * row_norms(weight, left, right)
