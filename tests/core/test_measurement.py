"""Estimates are products of what was measured and what the config counts; the key says when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup_git.core.measurement import Measurement, Spread, estimate, measurement_key

TRAINING: dict[str, Any] = {
    "epochs": 2.5, "max_steps": None, "eval_steps": None, "save_steps": 10, "save_total_limit": 2,
    "batch_size": 8, "lr": 1e-4,
}  # fmt: skip
MEASURED = Measurement(
    device="cpu", steps_per_epoch=20, step=Spread(2.0, 1.5, 3.0, 10), warm_up_steps=2,
    first_step_seconds=5.0, load_seconds=7.0, tokens_per_second=100.0, padding=0.1,
    peak_memory=10, peak_gpu_memory=None, longest_row_fits=True, longest_tokens=64,
    checkpoint_bytes=1000, adapter_bytes=300, checkpoint_seconds=0.5, eval_batches=4,
    eval_batch_seconds=0.25,
)  # fmt: skip


def test_an_estimate_adds_up() -> None:
    found = estimate(MEASURED, TRAINING)
    assert (found.steps, found.evaluations, found.checkpoints) == (50, 3, 5)
    beside = 7.0 + 3 * 4 * 0.25 + 5 * 0.5
    assert found.seconds == pytest.approx(beside + 100)
    assert (found.low, found.high) == (pytest.approx(beside + 75), pytest.approx(beside + 150))
    # Two that can be resumed, one being written; each of five adapters, and the output.
    assert found.disk_bytes == 3 * 1000 + 6 * 300
    short = estimate(MEASURED, TRAINING | {"max_steps": 7})
    assert (short.steps, short.evaluations, short.checkpoints) == (7, 1, 1)
    assert estimate(replace(MEASURED, eval_batches=0), TRAINING).evaluations == 0
    assert Measurement.from_dict(MEASURED.as_dict()) == MEASURED


def test_only_what_decides_a_step_decides_the_key() -> None:
    config = {"base": "b", "output": "o", "training": TRAINING}

    def key(**changes: Any) -> str:
        return measurement_key({**config, "training": TRAINING | changes}, "rows", "env", "here")

    assert key() == key(epochs=9.0) == key(lr=1.0) == key(save_steps=1)
    assert len({key(), key(batch_size=9)}) == 2
    assert len({measurement_key(config, *rest) for rest in (("r", "e", "m"), ("r", "e", "n"))}) == 2


@given(st.lists(st.floats(0.001, 1e3), min_size=1, max_size=40))
def test_a_spread_is_in_order_and_of_what_was_measured(seconds: list[float]) -> None:
    found = Spread.of(seconds)
    assert min(seconds) <= found.low <= found.median <= found.high <= max(seconds)
    assert found.count == len(seconds)
