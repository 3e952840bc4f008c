"""Other PEFT methods whose update is a LoRA of another rank, written as its two factors."""

from __future__ import annotations

import numpy as np

from soup_git.arithmetic.floats import Array


def hadamard(a1: Array, b1: Array, a2: Array, b2: Array) -> tuple[Array, Array]:
    """(a1·b1)∘(a2·b2) = L·R with L: d_out×r1·r2, R: r1·r2×d_in (row-wise Khatri-Rao products).

    LoHa: FedPara, Hyeon-Woo et al. 2021, arXiv 2108.06098, proposition 1.
    """
    left = (a1[:, :, None] * a2[:, None, :]).reshape(len(a1), -1)
    right = (b1[:, None, :] * b2[None, :, :]).reshape(-1, b1.shape[1])
    return left, right


def kronecker(w1: Array, l2: Array, r2: Array) -> tuple[Array, Array]:
    """w1 ⊗ (l2·r2) = (w1 ⊗ l2)·(I ⊗ r2); rank: columns of w1 times rows of r2.

    LoKr: Yeh et al. 2023, arXiv 2309.14859.
    """
    return np.kron(w1, l2), np.kron(np.eye(w1.shape[1]), r2)
