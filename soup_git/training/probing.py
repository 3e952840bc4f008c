"""A few real steps of a training, measured: what the probe's own process does.

The code is that of the stage: `train` with the config as it is. Around it stand a clock, a
counter of tokens, and a last step of the longest rows, whose memory a random batch hides.
Loaded late: it imports torch.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from soup_git.core.diagnosis import POLICY_TASKS
from soup_git.core.measurement import Measurement, Spread
from soup_git.training import checkpoints
from soup_git.training.adapter import WEIGHTS
from soup_git.training.loop import Run
from soup_git.training.memory import is_out_of_memory
from soup_git.training.schema import SoupConfig
from soup_git.training.train import train

# Allocators grow, kernels are chosen and pages are read in the first steps.
WARM_UP = 2
_EVAL_BATCHES = 4


def probe(config: SoupConfig, root: Path, scratch: Path, steps: int, started: float) -> Measurement:
    """Train `WARM_UP + steps` steps into `scratch`; `started` is the process's monotonic begin.

    Raises FatalError as training does, and torch's own error where memory is not enough
    (`is_out_of_memory`).
    """
    clock = _Clock(config, scratch / "state", steps, started)
    train(
        config, workspace_root=root, output=scratch / "output", state_dir=scratch / "state",
        results=scratch, watch=clock.attach,
    )  # fmt: skip
    return clock.measurement(scratch / "output")


class _Clock:
    """Rides on one `Run`: its callback times steps, its wrappers count what is computed."""

    def __init__(self, config: SoupConfig, state: Path, steps: int, started: float) -> None:
        self._config, self._state, self._wanted = config, state, steps
        self._started = started
        self._seconds: list[float] = []
        self._tokens: list[tuple[int, int]] = []
        """(computed, not padding) of each measured step."""
        self._computed = self._real = 0
        self._first_at = 0.0
        self._saving = 0.0
        self._eval_seconds: float | None = None
        self._longest_fits: bool | None = None
        self._longest_tokens: int | None = None

    def attach(self, run: Run) -> None:
        """Called when everything stands and before the first step."""
        trainer = self._trainer = run.trainer
        accumulation = self._config.training.gradient_accumulation_steps
        batches = len(trainer.get_train_dataloader())
        self._per_epoch = max(math.ceil(batches / accumulation), 1)
        total = self._config.training.max_steps or math.ceil(
            self._config.training.epochs * self._per_epoch
        )
        count = max(min(WARM_UP + self._wanted, total), 1)
        self._warm_up = min(WARM_UP, count - 1)
        # The schedule is the whole training's: the steps are its first ones, and then it stops.
        self.count = count
        # Nothing is between the steps that are timed; the last one writes a checkpoint.
        trainer.args.save_steps = trainer.args.eval_steps = count + 1
        self._shorten_evaluation()
        self._wrap("training_step", self._counted)
        self._wrap("_save_checkpoint", self._timed_save)
        self._wrap("evaluate", self._timed_evaluation)
        trainer.add_callback(_Steps(self))

    def _shorten_evaluation(self) -> None:
        rows, self._eval_batches = self._trainer.eval_dataset, 0
        if rows is None:
            return
        size = self._config.training.rows_per_batch
        self._eval_batches = math.ceil(len(rows) / size)
        self._timed_batches = min(_EVAL_BATCHES, self._eval_batches)
        self._trainer.eval_dataset = rows.select(range(min(len(rows), _EVAL_BATCHES * size)))

    def _wrap(self, name: str, around: Any) -> None:
        inner = getattr(self._trainer, name)
        setattr(self._trainer, name, lambda *a, **k: around(inner, *a, **k))

    # -- what the trainer calls ---------------------------------------------------------------

    def _counted(self, inner: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        computed, real = _tokens_of(inputs)
        self._computed, self._real = self._computed + computed, self._real + real
        return inner(model, inputs, *rest, **named)

    def _timed_save(self, inner: Any, *rest: Any, **named: Any) -> None:
        began = now()
        inner(*rest, **named)
        self._saving = now() - began

    def _timed_evaluation(self, inner: Any, *rest: Any, **named: Any) -> Any:
        began = now()
        found = inner(*rest, **named)
        self._eval_seconds = (now() - began) / max(self._timed_batches, 1)
        return found

    def begin(self) -> None:
        self._first_at = self._mark = now()

    def step_done(self) -> None:
        done = now()
        self._seconds.append(done - self._mark)
        self._tokens.append((self._computed, self._real))
        self._mark, self._computed, self._real = done, 0, 0

    def longest(self) -> None:
        """One forward and backward pass over the rows that are longest together."""
        trainer = self._trainer
        lengths = lengths_of(trainer.train_dataset)
        if not lengths or self._config.task in POLICY_TASKS:
            return
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        chosen = order[: self._config.training.rows_per_batch]
        self._longest_tokens = len(chosen) * lengths[chosen[0]]
        rows = trainer.train_dataset.select(chosen)
        try:
            # The loader for evaluation keeps the order, and batches as the other one does.
            batch = next(iter(trainer.get_eval_dataloader(rows)))
            self._longest_tokens = _tokens_of(batch)[0] or self._longest_tokens
            trainer.training_step(trainer.model_wrapped, batch)
            self._longest_fits = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._longest_fits = False
        trainer.model.zero_grad(set_to_none=True)

    # -- what it comes to ---------------------------------------------------------------------

    def measurement(self, output: Path) -> Measurement:
        measured = self._seconds[self._warm_up :]
        tokens = self._tokens[self._warm_up :]
        computed, real = sum(c for c, _ in tokens), sum(r for _, r in tokens)
        saved = checkpoints.complete(self._state)
        on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
        return Measurement(
            device=device_of(self._trainer),
            steps_per_epoch=self._per_epoch,
            step=Spread.of(measured),
            warm_up_steps=self._warm_up,
            first_step_seconds=self._seconds[0],
            load_seconds=self._first_at - self._started,
            tokens_per_second=real / sum(measured) if real else None,
            padding=1 - real / computed if computed else None,
            peak_memory=_peak_memory(),
            peak_gpu_memory=torch.cuda.max_memory_allocated() if on_gpu else None,
            longest_row_fits=self._longest_fits,
            longest_tokens=self._longest_tokens,
            checkpoint_bytes=_bytes_below(saved[-1]) if saved else 0,
            adapter_bytes=(output / WEIGHTS).stat().st_size,
            checkpoint_seconds=self._saving,
            eval_batches=self._eval_batches,
            eval_batch_seconds=self._eval_seconds,
        )


class _Steps(TrainerCallback):  # type: ignore[misc]
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._clock.begin()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        self._clock.step_done()
        if state.global_step >= self._clock.count:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._clock.longest()


def now() -> float:
    """Monotonic seconds, when all that was asked of a GPU is done."""
    # A GPU works on after its call returned.
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.monotonic()


def _tokens_of(inputs: Any) -> tuple[int, int]:
    """(computed, not padding) of a batch; (0, 0) of one that holds no token ids."""
    if not isinstance(inputs, Mapping) or not torch.is_tensor(inputs.get("input_ids")):
        return 0, 0
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    # Packed sequences have no padding, and say where each begins instead of a mask.
    real = int(mask.sum()) if mask is not None else ids.numel()
    return ids.numel(), real


def lengths_of(rows: Any) -> list[int]:
    """The tokens of each row: the longest of its columns of token ids."""
    columns = [name for name in rows.column_names if name.endswith("ids")] or rows.column_names
    values = [rows[name] for name in columns]
    return [
        max((len(v) for v in row if isinstance(v, list)), default=0)
        for row in zip(*values, strict=True)
    ]


def device_of(trainer: Any) -> str:
    """`cpu`, or the GPU by its name."""
    kind = trainer.args.device.type
    return str(torch.cuda.get_device_name()) if kind == "cuda" else str(kind)


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
