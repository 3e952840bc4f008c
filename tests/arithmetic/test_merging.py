"""Every strategy against a dense float64 reference written out, and the laws of a merge."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.arithmetic.elementwise import Elementwise, Settings, keep_largest, merge_rows
from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import Stored
from soup_git.arithmetic.lowrank import randomized
from soup_git.arithmetic.merging import Task, _Matrix, merge
from soup_git.arithmetic.strategies import STRATEGIES, Linear

ROWS, COLUMNS, RANK = 40, 56, 4


def update(rng, rank=RANK, scale=1.5, kind=np.float32):
    left = (rng.standard_normal((ROWS, rank)) / np.arange(1, rank + 1)).astype(kind)
    right = rng.standard_normal((rank, COLUMNS)).astype(kind)
    name = "F32" if kind is np.float32 else "F64"
    return Update(Stored(left, name), Stored(right, name), scale)


def dense(u):
    return u.scale * u.left.read(work=np.float64) @ u.right.read(work=np.float64)


def truncated(matrix, rank):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vt[:rank], np.sqrt(np.square(s[rank:]).sum())


def task(updates, weights, rank=RANK, work=np.float32, digests=None):
    digests = digests or [f"digest{i}" for i in range(len(updates))]
    return Task("layers.0.q_proj", updates, weights, digests, rank, work)


def run(name, updates, weights, rank=RANK, space="shared", work=np.float32, digests=None, **how):
    found = merge(
        task(updates, weights, rank, work, digests), STRATEGIES[name], space, Settings(**how)
    )
    return found, found.left.astype(np.float64) @ found.right.astype(np.float64)


def relative(x, y):
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def test_svd_is_the_best_approximation_of_the_sum_and_knows_its_error():
    rng = np.random.default_rng(1)
    updates = [update(rng, r) for r in (4, 2, 6)]
    weights = [0.7, -0.4, 1.2]
    total = sum(w * dense(u) for w, u in zip(weights, updates, strict=True))
    wanted, residual = truncated(total, 5)
    found, got = run("svd", updates, weights, rank=5)
    assert relative(got, wanted) < 1e-6
    assert found.residual == pytest.approx(residual, rel=1e-6)
    assert found.norm == pytest.approx(np.linalg.norm(total), rel=1e-6)


def test_svd_of_nearly_equal_adapters_stays_right():
    rng = np.random.default_rng(2)
    a = update(rng)
    b = Update(
        Stored(a.left.bits + np.float32(1e-5) * rng.standard_normal(a.left.shape).astype(np.float32), "F32"),
        a.right, a.scale,
    )  # fmt: skip
    found, got = run("svd", [a, b, a], [1 / 3] * 3)
    wanted, _ = truncated((2 * dense(a) + dense(b)) / 3, RANK)
    assert relative(got, wanted) < 1e-6
    assert found.residual < 1e-5 * found.norm


@pytest.mark.parametrize("drift", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("rank", [RANK, 2 * RANK])
def test_svd_of_a_small_difference_of_large_updates_stays_right(drift, rank):
    rng = np.random.default_rng(16)

    def moved(stored):
        noise = rng.standard_normal(stored.shape).astype(np.float32)
        return Stored(stored.bits + np.float32(drift) * noise, "F32")

    a = update(rng)
    b = Update(moved(a.left), moved(a.right), a.scale)
    wanted, _ = truncated(dense(a) - dense(b), rank)
    assert relative(run("svd", [a, b], [1.0, -1.0], rank=rank)[1], wanted) < 1e-6


def test_a_rank_beyond_the_sums_own_is_filled_with_zeros():
    found, got = run("svd", [update(np.random.default_rng(3), 1)], [1.0], rank=6)
    assert found.left.shape == (ROWS, 6)
    assert np.linalg.matrix_rank(got) == 1


@pytest.mark.parametrize("name", sorted(STRATEGIES))
@pytest.mark.parametrize("space", ["shared", "delta"])
def test_permuting_inputs_with_their_weights_changes_nothing(name, space):
    if space == "delta" and isinstance(STRATEGIES[name].method, Linear):
        pytest.skip("no coordinates")
    rng = np.random.default_rng(4)
    count = STRATEGIES[name].inputs or 3
    updates, weights = [update(rng) for _ in range(count)], [0.5, 0.3, 0.4][:count]
    digests = ["x", "y", "z"][:count]
    _, wanted = run(name, updates, weights, space=space, digests=digests)
    for order in itertools.permutations(range(count)):

        def pick(xs, order=order):
            return [xs[i] for i in order]

        _, got = run(name, pick(updates), pick(weights), space=space, digests=pick(digests))
        assert relative(got, wanted) < 1e-5


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n != "knots"])
def test_another_basis_of_the_factors_changes_nothing(name):
    rng = np.random.default_rng(5)
    count = STRATEGIES[name].inputs or 3
    updates = [update(rng, kind=np.float64) for _ in range(count)]
    weights = [0.5, 0.3, 0.4][:count]
    _, wanted = run(name, updates, weights, work=np.float64)
    turn = rng.standard_normal((RANK, RANK))
    first = Update(
        Stored(updates[0].left.bits @ turn, "F64"),
        Stored(np.linalg.solve(turn, updates[0].right.bits), "F64"),
        updates[0].scale,
    )
    _, got = run(name, [first, *updates[1:]], weights, work=np.float64)
    # A merge in signed coordinates may differ in the sign of a basis vector, never in ΔW.
    assert relative(got, wanted) < 1e-7


@pytest.mark.parametrize("name", ["linear", "svd", "ties", "dare", "magnitude_prune", "knots"])
def test_one_adapter_kept_whole_is_itself(name):
    u = update(np.random.default_rng(6))
    how = {"density": 1.0} if "density" in STRATEGIES[name].settings else {}
    _, got = run(name, [u], [1.0], **how)
    assert relative(got, dense(u)) < 1e-6


def reference_ties(matrices, weights, density):
    """The paper's, by sorting: ⌈density·n⌉ largest, sign of the weighted sum, weighted mean."""
    kept = []
    for matrix in matrices:
        flat = np.abs(matrix).reshape(-1)
        mask = np.zeros(flat.size, bool)
        mask[np.argsort(-flat, kind="stable")[: int(np.ceil(density * flat.size))]] = True
        kept.append(matrix * mask.reshape(matrix.shape))
    total = sum(w * m for w, m in zip(weights, kept, strict=True))
    sign = np.where(total >= 0, 1.0, -1.0)
    agree = [np.sign(w * m) == sign for w, m in zip(weights, kept, strict=True)]
    top = sum(w * m * ok for w, m, ok in zip(weights, kept, agree, strict=True))
    bottom = sum(abs(w) * ok for w, ok in zip(weights, agree, strict=True))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.6, 0.1, -0.4]])
def test_ties_on_dense_entries_is_the_papers(weights):
    rng = np.random.default_rng(7)
    updates = [update(rng) for _ in range(3)]
    wanted = reference_ties([dense(u) for u in updates], weights, 0.3)
    found, got = run("ties", updates, weights, rank=ROWS, space="delta", density=0.3)
    assert relative(got, wanted) < 1e-5
    residual = truncated(wanted, RANK)[1]
    found, got = run("ties", updates, weights, rank=RANK, space="delta", density=0.3)
    assert found.residual == pytest.approx(residual, rel=0.02)  # a randomised SVD
    assert np.linalg.norm(got - wanted) == pytest.approx(found.residual, rel=1e-4)


def test_mass_elects_the_sign_not_the_number_of_heads():
    blocks = [np.full((1, 1), v) for v in (-5.0, 0.01, 0.01)]
    method = Elementwise(keep_largest, elect=True)
    out = merge_rows(
        method, [_Matrix(Stored(b, "F64")) for b in blocks], [1 / 3] * 3, [b""] * 3,
        Settings(density=1.0), np.float64,
    )  # fmt: skip
    assert next(out)[1].item() == pytest.approx(-5.0)


def test_dare_keeps_the_expectation_and_depends_on_name_seed_and_digest_only():
    rng = np.random.default_rng(8)
    updates = [update(rng) for _ in range(2)]

    def dare(seed=0, digests=("x", "y")):
        how = {"space": "delta", "rank": ROWS, "density": 0.5, "seed": seed}
        return run("dare", updates, [0.5, 0.5], digests=list(digests), **how)[1]

    assert np.array_equal(dare(), dare())
    assert not np.allclose(dare(), dare(seed=1))
    assert not np.allclose(dare(), dare(digests=("x", "other")))
    mean = np.mean([dare(seed=s) for s in range(200)], axis=0)
    assert relative(mean, sum(0.5 * dense(u) for u in updates)) < 0.12


def test_della_keeps_the_expectation():
    u = update(np.random.default_rng(9))
    kept = [
        run("della", [u], [1.0], rank=ROWS, space="delta", density=0.6, seed=s)[1]
        for s in range(150)
    ]
    assert relative(np.mean(kept, axis=0), dense(u)) < 0.1
    assert np.mean(kept[0] == 0) < 0.01 or np.mean(np.abs(kept[0]) < 1e-5) == pytest.approx(
        0.4, abs=0.05
    )


def test_breadcrumbs_drops_both_tails():
    u = update(np.random.default_rng(10))
    _, got = run("breadcrumbs", [u], [1.0], rank=ROWS, space="delta", density=0.5)
    flat, kept = np.abs(dense(u)).reshape(-1), np.abs(got).reshape(-1) > 1e-5
    order = np.argsort(-flat)
    outliers = int(0.01 * flat.size)
    assert not kept[order[:outliers]].any()
    assert kept[order[outliers : outliers + flat.size // 2 - 2]].all()


def test_slerp_keeps_the_length_of_equal_lengths():
    rng = np.random.default_rng(11)
    a, b = update(rng), update(rng)
    b = b._replace(scale=b.scale * np.linalg.norm(dense(a)) / np.linalg.norm(dense(b)))
    _, got = run("slerp", [a, b], [0.5, 0.5], rank=2 * RANK)
    assert np.linalg.norm(got) == pytest.approx(np.linalg.norm(dense(a)), rel=1e-6)
    _, end = run("slerp", [a, b], [1.0, 1e-12], rank=2 * RANK)
    assert relative(end, dense(a)) < 1e-6


def test_isotropic_sets_all_singular_values_to_their_mean():
    rng = np.random.default_rng(12)
    updates = [update(rng) for _ in range(3)]
    total = sum(0.5 * dense(u) for u in updates)
    u, s, vt = np.linalg.svd(total)
    k = 3 * RANK
    _, got = run("iso_c", updates, [0.5] * 3, rank=k)
    assert relative(got, s[:k].mean() * u[:, :k] @ vt[:k]) < 1e-6
    _, leading = run("iso_c", updates, [0.5] * 3, rank=2)
    assert relative(leading, s[:k].mean() * u[:, :2] @ vt[:2]) < 1e-6


def test_tsv_whitens_the_leading_singular_vectors():
    rng = np.random.default_rng(13)
    updates, q = [update(rng, 6) for _ in range(2)], 3

    def polar(x):
        u, _, vt = np.linalg.svd(x, full_matrices=False)
        return u @ vt

    parts = [np.linalg.svd(dense(u)) for u in updates]
    u = polar(np.hstack([p[0][:, :q] for p in parts]))
    v = polar(np.hstack([p[2][:q].T for p in parts]))
    s = np.concatenate([0.5 * p[1][:q] for p in parts])
    _, got = run("tsv_m", updates, [0.5, 0.5], rank=2 * q)
    assert relative(got, (u * s) @ v.T) < 1e-6


def test_knots_is_ties_on_the_aligned_right_factors():
    rng = np.random.default_rng(14)
    updates, weights = [update(rng) for _ in range(3)], [0.5, 0.3, 0.2]
    u, s, vt = np.linalg.svd(np.hstack([dense(x) for x in updates]), full_matrices=False)
    k = 3 * RANK
    aligned = [vt[:k, j * COLUMNS : (j + 1) * COLUMNS] for j in range(3)]
    wanted = (u[:, :k] * s[:k]) @ reference_ties(aligned, weights, 0.4)
    _, got = run("knots", updates, weights, rank=k, density=0.4)
    # Trimming and means do not see a singular vector's sign; a tie elects + but has no mass.
    assert relative(got, wanted) < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(0.01, 1.0))
def test_exactly_the_promised_number_of_entries_is_kept(seed, width, density):
    rng = np.random.default_rng(seed)
    values = rng.choice([-1.0, 1.0, 2.0, -3.0, 0.5], (7, width)).astype(np.float32)  # many ties
    method = Elementwise(keep_largest, elect=False)
    blocks = [
        rows.copy()
        for _, rows in merge_rows(
            method, [_Matrix(Stored(values, "F32"))], [1.0], [b""], Settings(density=density)
        )
    ]  # fmt: skip
    kept = np.concatenate(blocks) != 0
    assert kept.sum() == np.ceil(density * values.size - 1e-9 * values.size)
    if not kept.all():
        assert np.abs(values)[kept].min() >= np.abs(values)[~kept].max()


def test_a_randomised_svd_reports_its_own_error():
    rng = np.random.default_rng(15)
    matrix = (rng.standard_normal((80, 6)) @ rng.standard_normal((6, 120))).astype(np.float32)
    matrix += 0.01 * rng.standard_normal(matrix.shape).astype(np.float32)
    found = randomized(matrix, 6)
    error = np.linalg.norm(found.left.astype(np.float64) @ found.right - matrix)
    assert found.residual == pytest.approx(error, rel=1e-3)
    assert error < 1.001 * truncated(matrix.astype(np.float64), 6)[1]
