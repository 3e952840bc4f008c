"""The live view of a training: one line on a terminal, and nothing anywhere else."""

from __future__ import annotations

import sys
import time
from typing import Any

from soup_git.training.curve import Curve


class ProgressLine:
    """Redrawn at most ten times a second."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._began = self._drawn = time.monotonic()
        self._first = 0
        self._open = False

    def begin(self, step: int) -> None:
        self._first, self._began = step, time.monotonic()

    def draw(self, state: Any, curve: Curve) -> None:
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if not self._shown or (now - self._drawn < 0.1 and not last):
            return
        self._drawn, self._open = now, True
        done = state.global_step / max(state.max_steps, 1)
        bar = ("█" * round(20 * done)).ljust(20, "░")
        pace = (now - self._began) / max(state.global_step - self._first, 1)
        left = round(pace * (state.max_steps - state.global_step))
        sys.stderr.write(
            f"\r\x1b[Kepoch {state.epoch:.1f}  {bar}  step {state.global_step}/{state.max_steps}"
            f"  loss {curve.latest:.3f}{_reward(curve)}  lr {curve.learning_rate:.1e}"
            f"  eta {left // 60}:{left % 60:02d}"
        )
        sys.stderr.flush()

    def close(self) -> None:
        if self._shown and self._open:
            sys.stderr.write("\n")


def _reward(curve: Curve) -> str:
    latest = curve.points[-1].get("reward") if curve.points else None
    return "" if latest is None else f"  reward {latest:.3f}"
