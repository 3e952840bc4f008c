"""What ends a training before its last step, judged from its losses alone.

The gate's verdict (`training.eval_gate`) is asked for elsewhere; what an ending by it or by the
watchdog leaves behind is the same, and so is what it takes to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from soup_git.training.schema import TrainingBlock


class Watchdog:
    """`training.loss_watchdog`: counts the steps in a row whose loss is too high."""

    def __init__(self, training: TrainingBlock) -> None:
        self._training = training
        self._above = 0

    def barks(self, step: int, loss: float) -> str:
        """Why the training ends after `step`, or nothing."""
        training = self._training
        high = training.loss_watchdog and loss > training.loss_watchdog_threshold
        self._above = self._above + 1 if high else 0
        if self._above < training.loss_watchdog_patience:
            return ""
        return (
            f"the loss was above {training.loss_watchdog_threshold:g} for {self._above} steps in "
            f"a row, and {loss:.4g} at step {step}"
        )


def lowest(evals: Sequence[Mapping[str, float]], threshold: float = 0.0) -> int | None:
    """The index of the measurement that no later one goes below by more than `threshold`: with 0
    the lowest; None where nothing was measured."""
    best = None
    for index, measured in enumerate(evals):
        if best is None or measured["eval_loss"] < evals[best]["eval_loss"] - threshold:
            best = index
    return best


def is_over(evals: Sequence[Mapping[str, float]], training: TrainingBlock) -> bool:
    """Has the validation loss not fallen for `training.early_stop_patience` measurements?"""
    best = lowest(evals, training.early_stop_threshold)
    if training.early_stop_patience is None or best is None:
        return False
    return len(evals) - 1 - best >= training.early_stop_patience


def judges(training: TrainingBlock) -> dict[str, Any]:
    """The options that may end a training as failed: as long as they are the same, starting it
    again would only go past what they ended."""
    found: dict[str, Any] = {}
    if training.eval_gate is not None and training.eval_gate.on_regression == "stop":
        found["eval_gate"] = training.eval_gate.model_dump()
    if training.loss_watchdog:
        names = ("loss_watchdog_threshold", "loss_watchdog_patience")
        found |= {name: getattr(training, name) for name in names}
    return found
