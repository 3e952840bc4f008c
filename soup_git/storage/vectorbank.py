"""VB-LoRA's factors, put together from the bank of vectors that all modules share.

Each tile of a factor is a softmax-weighted sum of the `topk` vectors with the largest logits
(https://arxiv.org/abs/2405.15179, as peft.tuners.vblora has it); the update is B·A.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from soup_git.arithmetic.floats import Array

BANK = "base_model.vblora_vector_bank"
_LOGITS = ".vblora_logits_"


def modules(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Prefix of a module -> its two tensors of logits, where both are there."""
    found: dict[str, set[str]] = {}
    for name in names:
        prefix, sign, part = name.partition(_LOGITS)
        if sign and part in {"A", "B"}:
            found.setdefault(prefix, set()).add(part)
    return {
        prefix: (f"{prefix}{_LOGITS}A", f"{prefix}{_LOGITS}B")
        for prefix, parts in found.items()
        if parts == {"A", "B"}
    }


def factors(logits_a: Array, logits_b: Array, bank: Array, topk: int) -> tuple[Array, Array]:
    """B (outputs × rank) and A (rank × inputs), float64.

    `logits_a` is rank × tiles × vectors, `logits_b` tiles × rank × vectors, `bank` vectors ×
    length; inputs and outputs are tiles × length.
    """
    right = _tiles(logits_a, bank, topk)
    left = _tiles(logits_b, bank, topk)
    rank = logits_a.shape[0]
    return left.transpose(0, 2, 1).reshape(-1, rank), right.reshape(rank, -1)


def _tiles(logits: Array, bank: Array, topk: int) -> Array:
    best = np.argsort(-logits, axis=-1, kind="stable")[..., :topk]
    chosen = np.take_along_axis(logits, best, axis=-1)
    weights = np.exp(chosen - chosen.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    tiles: Array = np.einsum("...k,...kl->...l", weights, bank[best])
    return tiles
