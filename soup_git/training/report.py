"""What was really trained: as a header when it starts, and as metrics and plots when it ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup_git.core.text import printable
from soup_git.training import adapter
from soup_git.training.checkpoints import step_of
from soup_git.training.curve import BASIC, Curve, as_csv, rounded
from soup_git.training.lora import kinds
from soup_git.training.machine import Machine
from soup_git.training.material import Material
from soup_git.training.methods.files import sha256

if TYPE_CHECKING:
    from soup_git.training.loop import Run


@dataclass(frozen=True)
class TrainReport:
    """What was really trained. `run` holds what decides the bytes beside data and config."""

    header: str
    task: str
    base: str
    format: str
    output: Path
    weights_sha256: str
    steps: int
    resumed_from: int | None
    rows: int
    validation_rows: int
    truncated_rows: int
    dropped_rows: int
    tokens: int
    loss_tokens: int | None
    """Tokens that the loss is on; None where it is on something else (a label, a reward)."""
    modules: int
    trainable_parameters: int
    parameters: int
    train_loss: float
    final_loss: float
    eval_loss: float | None
    lowest_eval_step: int | None
    """With training.early_stop_patience: the step whose validation loss nothing later beat."""
    epochs: float
    """How often the rows were seen; `rows` and the tokens are those of the dataset."""
    latest: dict[str, float] = field(default_factory=dict)
    """What the method told of its latest steps beside the loss: rewards."""
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        material: Material,
        run: Run,
        header: str,
        output: Path,
        steps: int,
        facts: dict[str, Any],
        lowest_eval_step: int | None,
        resumed: Sequence[Path],
    ) -> TrainReport:
        """Of a training that ended, its adapter written into `output`."""
        train_set, eval_set = material.train_set, material.eval_set
        trainable, total = parameters(run.model)
        curve = run.curve
        return cls(
            header=header,
            task=material.config.task,
            base=material.config.base,
            format=material.dataset.format.name,
            output=output,
            weights_sha256=sha256(output / adapter.WEIGHTS),
            steps=steps,
            resumed_from=step_of(resumed[-1]) if resumed else None,
            rows=len(train_set.examples),
            validation_rows=len(eval_set.examples),
            truncated_rows=train_set.truncated + eval_set.truncated,
            dropped_rows=train_set.dropped + eval_set.dropped,
            tokens=train_set.tokens,
            loss_tokens=train_set.loss_tokens or None,
            modules=len(run.targets),
            trainable_parameters=trainable,
            parameters=total,
            train_loss=rounded(curve.total / max(steps, 1)),
            final_loss=rounded(curve.latest),
            eval_loss=rounded(curve.evals[-1]["eval_loss"]) if curve.evals else None,
            lowest_eval_step=lowest_eval_step,
            epochs=rounded(run.trainer.state.epoch or 0.0),
            latest={k: rounded(v) for k, v in _others(curve).items()},
            run=facts | {f"sha256 of {name}": sha for name, sha in material.inputs.items()},
        )

    @property
    def metrics(self) -> dict[str, Any]:
        """What goes into metrics.json: nothing in it depends on the clock."""
        keys = (
            *("steps", "rows", "validation_rows", "truncated_rows", "dropped_rows", "tokens"),
            *("loss_tokens", "trainable_parameters", "train_loss", "final_loss", "eval_loss"),
            *("lowest_eval_step", "epochs"),
        )
        found = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        return found | self.latest


def _others(curve: Curve) -> dict[str, float]:
    last = curve.points[-1] if curve.points else {}
    return {k: v for k, v in last.items() if k not in BASIC}


def header(material: Material, here: Machine, peft_model: Any) -> str:
    """One line: the task, the base, the adapter's size, the rows, how long, how large a batch."""
    config, train_set, eval_set = material.config, material.train_set, material.eval_set
    training = config.training
    trainable, base = parameters(peft_model)
    rows = f"{len(train_set.examples):,} rows"
    if eval_set.examples:
        rows += f" ({len(eval_set.examples):,} held out)"
    length = f"{training.epochs:g} epochs"
    if training.max_steps is not None:
        length = f"{training.max_steps:,} steps"
    lora = f"{kinds.title(training.lora)} r{training.lora.r} on {len(adapter.modules(peft_model))} modules"
    size = f"({_millions(trainable)} of {_millions(base)} parameters)"
    together = training.rows_per_batch * training.gradient_accumulation_steps * here.processes
    batch = f"effective batch {together}"
    if here.processes > 1:
        batch += f" of {here.processes} processes"
    parts = (config.task, printable(config.base), f"{lora} {size}", rows, length, batch)
    return " · ".join(parts)


def _millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"


def parameters(peft_model: Any) -> tuple[int, int]:
    """How many train, and how many do not."""
    trainable, total = peft_model.get_nb_trainable_parameters()
    return int(trainable), int(total) - int(trainable)


def write(report: TrainReport, curve: Curve, root: Path) -> None:
    """metrics.json and plots/, into the folder `root`."""
    text = json.dumps(report.metrics, indent=2, sort_keys=True) + "\n"
    (root / "metrics.json").write_text(text, encoding="utf-8")
    plots = root / "plots"
    plots.mkdir(exist_ok=True)
    points = dict.fromkeys((*BASIC, *(name for point in curve.points for name in point)))
    (plots / "loss.csv").write_text(as_csv(curve.points, tuple(points)))
    (plots / "eval_loss.csv").write_text(as_csv(curve.evals, ("step", "eval_loss")))
