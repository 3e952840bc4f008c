"""The loss curve: kept by us, so that a resumed run has the same one.

transformers averages over the steps since its last log, and forgets them when a process
ends; this curve is part of every checkpoint.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BASIC = ("step", "loss", "learning_rate", "grad_norm")
"""What every point of a curve has."""
UNDECIDED = "undecided"
"""Share of the groups of answers whose rewards were all the same: nothing is learnt of them."""


def rounded(value: float) -> float:
    """Six significant digits: what a person compares, and not a CPU's last bits."""
    return float(f"{value:.6g}")


@dataclass
class Curve:
    """Means of `every` steps. `pending` and `summed` are the steps since the last point."""

    every: int
    points: list[dict[str, float]] = field(default_factory=list)
    evals: list[dict[str, float]] = field(default_factory=list)
    summed: float = 0.0
    pending: int = 0
    total: float = 0.0
    learning_rate: float = 0.0
    grad_norm: float = 0.0
    """The largest since the last point, before clipping: a mean would hide a spike."""
    others: dict[str, float] = field(default_factory=dict)
    """Sums since the last point of what a method tells of a step beside its loss (a reward)."""

    def step(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        grad_norm: float,
        others: Mapping[str, float],
    ) -> None:
        # A norm that is no number has to stay one, and `max` may lose it.
        self.grad_norm = grad_norm if not grad_norm <= self.grad_norm else self.grad_norm
        self.summed += loss
        self.total += loss
        self.pending += 1
        self.learning_rate = learning_rate
        for name, value in others.items():
            self.others[name] = self.others.get(name, 0.0) + value
        if step % self.every == 0:
            self._close(step)

    def end(self, step: int) -> None:
        if self.pending:
            self._close(step)

    def _close(self, step: int) -> None:
        point = {"step": step, "loss": self.latest, "learning_rate": self.learning_rate}
        others = {name: total / self.pending for name, total in self.others.items()}
        self.points.append(point | {"grad_norm": self.grad_norm} | others)
        self.summed, self.pending, self.grad_norm, self.others = 0.0, 0, 0.0, {}

    def evaluated(self, step: int, loss: float) -> None:
        if not self.evals or self.evals[-1]["step"] != step:
            self.evals.append({"step": step, "eval_loss": loss})

    @property
    def latest(self) -> float:
        """Mean loss of the latest steps."""
        if self.pending:
            return self.summed / self.pending
        return self.points[-1]["loss"] if self.points else float("nan")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def restore(self, path: Path) -> None:
        """Take over what was saved, except `every`, which the config may have changed."""
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for name, value in saved.items():
            if name != "every":
                setattr(self, name, value)


def as_csv(rows: Iterable[dict[str, float]], columns: tuple[str, ...]) -> str:
    """The rows as DVC plots read them; a cell is empty where a row has no such value."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        known = [c for c in columns if c in row]
        writer.writerow({c: row[c] if c == "step" else rounded(row[c]) for c in known})
    return text.getvalue()
