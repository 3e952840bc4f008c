"""LoRA algebra against dense float64, and the laws that a comparison of updates obeys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.arithmetic.factors import (
    Update,
    compare,
    compare_all,
    effective_rank,
    inner,
    measure,
)
from soup_git.arithmetic.floats import Stored, to_bits
from soup_git.arithmetic.products import hadamard, kronecker


def stored(values, dtype="F32"):
    return Stored(to_bits(np.ascontiguousarray(values, np.float64), dtype), dtype)


def update(rng, rows=60, columns=90, rank=5, scale=2.0, dtype="F32"):
    left = stored(rng.standard_normal((rows, rank)), dtype)
    return Update(left, stored(rng.standard_normal((rank, columns)), dtype), scale)


def dense(u):
    return u.scale * u.left.read(work=np.float64) @ u.right.read(work=np.float64)


def moved(u, drift, rng):
    def shift(s):
        values = s.read(work=np.float64)
        return stored(values + drift * rng.standard_normal(values.shape), s.dtype)

    return Update(shift(u.left), shift(u.right), u.scale)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_norm_inner_product_and_spectrum_are_those_of_the_dense_update(dtype):
    rng = np.random.default_rng(1)
    a, b = update(rng, dtype=dtype), update(rng, rank=3, dtype=dtype)
    norm, squares = measure(a)
    sigma = np.linalg.svd(dense(a), compute_uv=False)
    assert norm == pytest.approx(np.linalg.norm(dense(a)), rel=1e-6)
    assert np.sqrt(squares[::-1]) == pytest.approx(sigma[:5], rel=1e-5)
    assert effective_rank(squares) == pytest.approx(effective_rank(sigma**2), rel=1e-5)
    assert inner(a, b) == pytest.approx(np.vdot(dense(a), dense(b)), rel=1e-4)


@pytest.mark.parametrize("drift", [1.0, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("ranks", [(8, 8), (8, 4)])
def test_the_norm_of_a_drift_is_right_to_a_millionth_however_small(drift, ranks):
    rng = np.random.default_rng(2)
    a = update(rng, 300, 400, ranks[0])
    b = moved(a, drift, rng)
    if ranks[1] != ranks[0]:  # the same update with twice the rank, half the scale
        left = np.hstack([b.left.bits, b.left.bits])
        right = np.vstack([b.right.bits, b.right.bits])
        b = Update(Stored(left, "F32"), Stored(right, "F32"), b.scale / 2)
    difference = dense(b) - dense(a)
    found = compare(a, b)
    assert found.norm_difference == pytest.approx(np.linalg.norm(difference), rel=1e-6)
    sigma = np.linalg.svd(difference, compute_uv=False)
    assert effective_rank(found.squares_difference) == pytest.approx(
        effective_rank(sigma**2), rel=1e-4
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 4), st.floats(0, 4)
)  # fmt: skip
def test_a_comparison_is_that_of_the_dense_updates(seed, rank_a, rank_b, scale_a, scale_b):
    rng = np.random.default_rng(seed)
    a = update(rng, 12, 17, rank_a, scale_a)
    b = update(rng, 12, 17, rank_b, scale_b)
    found = compare(a, b)
    size = np.linalg.norm(dense(a)) + np.linalg.norm(dense(b))
    assert found.norm_a == pytest.approx(np.linalg.norm(dense(a)), rel=1e-5)
    assert found.norm_b == pytest.approx(np.linalg.norm(dense(b)), rel=1e-5, abs=1e-9 * size)
    assert found.norm_difference == pytest.approx(np.linalg.norm(dense(b) - dense(a)), rel=1e-5)
    assert found.inner == pytest.approx(np.vdot(dense(a), dense(b)), abs=1e-5 * size**2)


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
def test_a_small_update_beside_a_large_one_keeps_its_norm(size):
    rng = np.random.default_rng(9)
    a = update(rng, 300, 400, 8)
    left, right = update(rng, 300, 400, 8)[:2]
    for b in (
        Update(left, right, size * a.scale),
        Update(stored(size * left.read(work=np.float64)), right, a.scale),
        Update(left, stored(size * right.read(work=np.float64)), a.scale),
    ):
        found, turned = compare(a, b), compare(b, a)
        wanted = np.linalg.norm(dense(b))
        assert found.norm_b == pytest.approx(wanted, rel=1e-6)
        assert turned.norm_a == pytest.approx(wanted, rel=1e-6)
        assert found.norm_difference == pytest.approx(np.linalg.norm(dense(b) - dense(a)), rel=1e-6)
        cosine = np.vdot(dense(a), dense(b)) / np.linalg.norm(dense(a)) / wanted
        assert found.inner / found.norm_a / found.norm_b == pytest.approx(cosine, abs=1e-6)
        assert turned.inner == pytest.approx(found.inner, rel=1e-3)


def test_a_small_update_of_another_rank_keeps_its_angle():
    rng = np.random.default_rng(10)
    a, b = update(rng, 300, 400, 8), update(rng, 300, 400, 4, scale=1e-6)
    found = compare(a, b)
    cosine = np.vdot(dense(a), dense(b)) / np.linalg.norm(dense(a)) / np.linalg.norm(dense(b))
    assert found.inner / found.norm_a / found.norm_b == pytest.approx(cosine, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_another_basis_of_the_factors_is_no_drift(seed, rank):
    rng = np.random.default_rng(seed)
    a = update(rng, 40, 50, rank, dtype="F64")
    turn = np.linalg.qr(rng.standard_normal((rank, rank)))[0] * rng.uniform(0.5, 2, rank)
    b = Update(
        stored(a.left.bits @ turn, "F64"), stored(np.linalg.solve(turn, a.right.bits), "F64"), a.scale
    )  # fmt: skip
    found = compare(a, b)
    assert found.norm_difference < 1e-13 * found.norm_a
    assert effective_rank(found.squares_a) == pytest.approx(
        effective_rank(found.squares_b), rel=1e-9
    )


def test_scaling_alone_is_drift():
    a = update(np.random.default_rng(3))
    found = compare(a, a._replace(scale=4 * a.scale))
    assert found.norm_difference / found.norm_a == pytest.approx(3.0, rel=1e-6)


def test_zero_updates_have_no_norm_and_no_rank():
    zero = Update(stored(np.zeros((5, 2))), stored(np.zeros((2, 7))), 1.0)
    found = compare(zero, zero)
    assert (found.norm_a, found.norm_difference) == (0.0, 0.0)
    assert effective_rank(found.squares_difference) == 0.0
    other = update(np.random.default_rng(4), 5, 7, 2, scale=0.0)
    assert compare(zero, other).norm_difference == 0.0


def test_effective_rank_of_equal_singular_values_is_their_number():
    assert effective_rank(np.full(6, 0.3)) == pytest.approx(6.0)
    assert effective_rank(np.array([1.0, 0.0])) == pytest.approx(1.0)


def test_experts_add_up_as_blocks_of_one_update():
    rng = np.random.default_rng(5)
    a, b = [update(rng) for _ in range(3)], [update(rng) for _ in range(3)]
    found = compare_all(a, b)
    total = np.sqrt(
        sum(np.linalg.norm(dense(y) - dense(x)) ** 2 for x, y in zip(a, b, strict=True))
    )
    assert found.norm_difference == pytest.approx(total, rel=1e-6)
    assert len(found.squares_a) == 15
    with pytest.raises(ValueError, match="2 of 60x90"):
        compare_all(a, b[:2])


def test_one_side_alone_is_the_whole_drift():
    a = update(np.random.default_rng(6))
    added, removed = compare_all([], [a]), compare_all([a], [])
    assert added.norm_a == 0.0
    assert (
        added.norm_difference == removed.norm_difference == pytest.approx(np.linalg.norm(dense(a)))
    )


def test_hadamard_and_kronecker_products_are_their_factors_product():
    rng = np.random.default_rng(7)
    a1, a2 = rng.standard_normal((2, 9, 3))
    b1, b2 = rng.standard_normal((2, 3, 11))
    left, right = hadamard(a1, b1, a2, b2)
    assert np.allclose(left @ right, (a1 @ b1) * (a2 @ b2))
    left, right = kronecker(rng_w := rng.standard_normal((2, 3)), a1, b1)
    assert np.allclose(left @ right, np.kron(rng_w, a1 @ b1))


def test_bfloat16_rounds_to_nearest_even_from_both_widths():
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-30), 0.0, 2.0**-133])
    wanted = [0x3F80, 0x3F80, 0x3F82, 0xBF81, 0x0000, 0x0001]
    assert to_bits(values, "BF16").tolist() == wanted
    assert to_bits(values.astype(np.float32), "BF16").tolist()[:3] == wanted[:3]
    with pytest.raises(OverflowError):
        to_bits(np.array([3.4e38]), "BF16")
    with pytest.raises(OverflowError):
        to_bits(np.array([1e5], np.float32), "F16")
