"""What every task's trainer gets from us: exact checkpoints, our curve, Ctrl-C, progress.

Imported late: it loads transformers.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PrinterCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState

from soup_git.core.baseload import AS_IT_IS, BaseLoad
from soup_git.errors import ExitCode, FatalError
from soup_git.training import adapter, checkpoints, endings, launching, optimizers
from soup_git.training.curve import UNDECIDED, Curve
from soup_git.training.endings import Watchdog
from soup_git.training.lora import relora
from soup_git.training.prepared import Prepared
from soup_git.training.processes import ALONE, Processes
from soup_git.training.progressline import ProgressLine
from soup_git.training.schema import SoupConfig

OnCheckpoint = Callable[[int, Path, float, float], None]
TRIGGER = ".checkpoint_now"
_UNDECIDED_STEPS = 10
_FACTORS = "factors.safetensors"


class ExactMixin:
    """Goes in front of a trainer class; `Run` sets `soup`."""

    soup: Run

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        value = loss.item()
        if not math.isfinite(value):
            self.soup.failed(self.state.global_step + 1)  # type: ignore[attr-defined]
            raise FatalError(
                f"the loss is {value} at step {self.state.global_step + 1}",  # type: ignore[attr-defined]
                hint="a lower training.lr, a longer warmup, or precision fp32; "
                "the last checkpoint is from before; git soup why says more",
            )
        self.soup.step_loss += value
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        self.soup.grad_norm = float(norm)
        return norm

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # A data loader draws its seed from torch's generator, so without this the dropout
        # of all later steps, and the adapter's digest, would depend on having evaluated.
        with untouched_generators():
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        self.soup.measured(self.state.global_step, metrics["eval_loss"], self.control)  # type: ignore[attr-defined]
        return metrics

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        config = self.soup.config
        with self._blaming("training.optimizer"):
            if config.training.loraplus_lr_ratio is not None:
                self.optimizer = optimizers.loraplus(self, config)
                return self.optimizer
            return super().create_optimizer(*args, **kwargs)  # type: ignore[misc]

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        config = self.soup.config
        with self._blaming("training.scheduler"):
            schedule = super().create_scheduler(num_training_steps, *args, **kwargs)  # type: ignore[misc]
        relora.check_it_fires(config, num_training_steps)
        if isinstance(self.soup.relora, relora.Restarts):
            relora.jagged(schedule, num_training_steps, config.training)
        return schedule

    @contextlib.contextmanager
    def _blaming(self, key: str) -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, ImportError) as error:
            raise self.soup.config.refuse(
                key,
                f"transformers refuses this: {error}",
                hint="its own options go under training.trl (lr_scheduler_kwargs, optim_args)",
            ) from error

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step, run = self.state.global_step, self.soup  # type: ignore[attr-defined]
        try:
            # TRL's own would add a model card, with a date in it.
            Trainer._save_checkpoint(self, model, trial)
            run.processes.wait()
            folder = run.publish(step) if run.processes.is_main else None
        except (OSError, RuntimeError, SafetensorError) as error:
            # A full disk is an OSError in Python, a RuntimeError in torch's zip writer.
            shutil.rmtree(checkpoints.saving(run.state_dir), ignore_errors=True)
            done = checkpoints.complete(run.state_dir)
            last = f"the one of step {checkpoints.step_of(done[-1])} is" if done else "none is"
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FatalError(
                f"the checkpoint of step {step} could not be written: {why}; {last} complete",
                hint="df -h . shows free space; then the same command goes on from there",
            ) from error
        if folder is not None:
            run.announce(folder)
            checkpoints.keep(run.state_dir, run.config.training.save_total_limit)
        run.processes.wait()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        # Not transformers': it gathers the base as well where it is split, and adds a pickle of
        # the arguments and a copy of the tokenizer.
        del _internal_call
        self.soup.write_adapter(Path(output_dir or self.args.output_dir))  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # With a model it is one that is split already: its factors were read before.
        if model is None:
            self.soup.read_factors(Path(resume_from_checkpoint))


class Run:
    """One training run's state on our side: what the mixin and the callback share."""

    def __init__(
        self,
        config: SoupConfig,
        trainer: Any,
        peft_model: Any,
        *,
        state_dir: Path,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.processes = processes
        self.trainer = trainer
        self.model = peft_model
        self.state_dir = state_dir
        self.on_checkpoint: OnCheckpoint | None = None
        self.targets = adapter.modules(peft_model)
        self.base_load: BaseLoad = AS_IT_IS
        """How the base differs from the base as it is."""
        self.initial = self.factors = adapter.factors(peft_model)
        self.relora = relora.of(config, peft_model)
        self.curve = Curve(config.training.logging_steps)
        self.step_loss = 0.0
        self.grad_norm = 0.0
        self.stop_requested = False
        """Did a signal ask this process to stop?"""
        self.stopping = False
        """Did all processes agree to stop after this step?"""
        self.on_epoch: Callable[[int], str] | None = None
        """Judges the adapter after an epoch: why training should stop, or nothing."""
        self.watchdog = Watchdog(config.training)
        self.undecided = 0
        """Steps in a row, from the first, in which no two answers to a prompt had other rewards."""
        self.ended_by: FatalError | None = None
        """What the gate or the watchdog ended the training with."""
        self.trigger: Path | None = None
        """A file that asks for a checkpoint after this step, and goes when it is there."""
        trainer.soup = self

    def adapter(self) -> tuple[adapter.Tensors, dict[str, Any]]:
        """The adapter for the untouched base as it is now: its tensors, and its settings."""
        self.factors = tensors = adapter.factors(self.model)
        values = adapter.settings(self.model, self.config)
        lora = self.config.training.lora
        if lora.mutates_base:
            tensors = adapter.plain(tensors, self.initial, rslora=lora.use_rslora)
        if isinstance(self.relora, relora.Restarts):
            tensors, values = self.relora.flat(tensors), self.relora.settings(values)
        return tensors, values

    @property
    def _converts(self) -> bool:
        """Is what is saved for the untouched base something else than what trains?"""
        restarts = isinstance(self.relora, relora.Restarts)
        return restarts or self.config.training.lora.mutates_base

    def write_adapter(self, folder: Path) -> None:
        """The adapter as it is now, and where that is not enough, what resuming needs. Every
        process takes part, and the main one writes."""
        made = self.adapter()
        if not self.processes.is_main:
            return
        adapter.save(*made, folder)
        if self._converts:
            kept = self.relora.state() if isinstance(self.relora, relora.Restarts) else {}
            save_file(self.factors | kept, folder / _FACTORS)

    def read_factors(self, folder: Path) -> None:
        tensors = load_file(folder / (_FACTORS if self._converts else adapter.WEIGHTS))
        if isinstance(self.relora, relora.Restarts):
            tensors = self.relora.restore(tensors)
        adapter.load_factors(self.model, tensors)

    def publish(self, step: int) -> Path:
        self.curve.save(checkpoints.saving(self.state_dir) / f"checkpoint-{step}" / "curve.json")
        return checkpoints.publish(self.state_dir, step)

    def failed(self, step: int | None) -> None:
        """Keep the curve of a run that ends here, at `step` if its loss is not finite there, for
        `git soup why`."""
        self.curve.end(int(self.trainer.state.global_step))
        checkpoints.note_failure(self.state_dir, asdict(self.curve) | {"failed_at": step})

    def hear(self, step: int, told: Mapping[str, float]) -> None:
        """What a method tells of a step: where nothing can be learnt, say so before the end."""
        if told.get(UNDECIDED) == 1.0 and self.undecided == step - 1:
            self.undecided = step
            if step == _UNDECIDED_STEPS:
                self.processes.say(
                    f"no two answers to a prompt had different rewards in {step} steps: nothing is "
                    "learnt from them (easier prompts, more num_generations, another reward)"
                )

    def measured(self, step: int, eval_loss: float, control: Any) -> None:
        """A validation loss: the lowest so far is a checkpoint, and after too many it is over."""
        training, evals = self.config.training, self.curve.evals
        self.curve.evaluated(step, eval_loss)
        if training.early_stop_patience is None:
            return
        over = endings.is_over(evals, training)
        if over or endings.lowest(evals) == len(evals) - 1:
            control.should_save = True
        control.should_training_stop = control.should_training_stop or over

    def check_alive(self, step: int) -> None:
        """Raises FatalError where nothing was learnt, after the last `step`."""
        args = (self.factors, self.initial, self.targets, self.config.training.lora)
        if self.undecided == step:
            adapter.check_alive(*args, "no two answers to a prompt ever had different rewards")
        else:
            adapter.check_alive(*args)

    def measure_the_end(self, step: int, eval_set: Prepared) -> None:
        """Close the curve, with the validation loss of the last step."""
        evals = self.curve.evals
        if eval_set.examples and not (evals and evals[-1]["step"] == step):
            self.trainer.evaluate()
        self.curve.end(step)

    def asks_in(self, folder: Path) -> None:
        """Look for `TRIGGER` in `folder`, from now on."""
        self.trigger = folder / TRIGGER
        if self.processes.is_main:
            self.trigger.unlink(missing_ok=True)

    def asked_for_a_checkpoint(self) -> bool:
        return self.processes.is_main and self.trigger is not None and self.trigger.exists()

    def announce(self, folder: Path) -> None:
        """Tell `on_checkpoint` of a complete checkpoint, once; again if killed in between."""
        told = folder / "announced"
        if self.on_checkpoint is None or told.exists():
            return
        step = checkpoints.step_of(folder)
        self.on_checkpoint(step, folder, self.curve.latest, self.curve.learning_rate)
        told.touch()

    def train(self, resume_from: Path | None) -> int:
        """Train to the end and return the last step. Raises FatalError (130) on Ctrl-C."""
        checkpoints.forget_failure(self.state_dir)
        self.trainer.remove_callback(PrinterCallback)  # it prints to stdout
        line = ProgressLine()
        self.trainer.add_callback(_Watch(self, line))
        if self.relora is not None:
            self.trainer.add_callback(self.relora)
        if resume_from is not None:
            self.curve.restore(resume_from / "curve.json")
            self.announce(resume_from)
            state = TrainerState.load_from_json(str(resume_from / "trainer_state.json"))
            over = endings.is_over(self.curve.evals, self.config.training)
            if over or state.global_step >= state.max_steps:
                # transformers would train one step more before it looks.
                self.read_factors(resume_from)
                self.trainer.state = state
                return int(state.global_step)
            if launching.splits(self.config):
                launching.read_own_checkpoints(self.config)
                self.read_factors(resume_from)
        with self._stop_on_signal(), contextlib.closing(line):
            self.trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        step = int(self.trainer.state.global_step)
        if self.ended_by is not None:
            checkpoints.stop(self.state_dir, self.ended_by, endings.judges(self.config.training))
            raise self.ended_by
        if self.stopping and step < self.trainer.state.max_steps:
            raise FatalError(
                f"interrupted at step {step} of {self.trainer.state.max_steps}; "
                "everything up to there is saved",
                hint="the same command goes on from there, to the same bytes",
                code=ExitCode.INTERRUPTED,
            )
        return step

    @contextlib.contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """The first Ctrl-C (or SIGTERM) ends the step, saves and stops; a second one kills."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, _frame: Any) -> None:
            if number in heard:
                signal.signal(number, previous[number])
                os.kill(os.getpid(), number)
                return
            # Answered here until the end, so that git records what is saved whoever is signalled.
            heard.add(number)
            self.stop_requested = True
            if self.processes.is_main:
                sys.stderr.write("\nstopping after this step, with a checkpoint; again to kill\n")

        heard: set[int] = set()
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous: dict[int, Any] = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, previous[number])


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Feeds the curve, draws the progress line, and stops when asked to."""

    def __init__(self, run: Run, line: ProgressLine) -> None:
        self._run = run
        self._learning_rate = 0.0
        self._line = line

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._line.begin(state.global_step)

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        # Before the scheduler moves on: the rate this step was made with. torchao's is a tensor.
        self._learning_rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run = self._run
        asked = (run.step_loss, run.stop_requested, run.asked_for_a_checkpoint())
        # One process's Ctrl-C is everybody's: they have to stop after the same step. One that
        # comes while this is asked is for the next.
        loss, stop, save = run.processes.mean(asked, args.device)
        run.step_loss, run.stopping = 0.0, stop > 0
        told = run.trainer.told_of_step()
        run.curve.step(state.global_step, loss, self._learning_rate, run.grad_norm, told)
        run.hear(state.global_step, told)
        if why := run.watchdog.barks(state.global_step, loss):
            run.failed(None)
            run.ended_by = FatalError(
                f"training was stopped by its watchdog: {why}",
                hint="git soup why says more; a higher training.loss_watchdog_threshold goes on "
                "from the last checkpoint",
                code=ExitCode.CHECK_FAILED,
            )
            control.should_training_stop = True
        if run.stopping:
            control.should_save = control.should_training_stop = True
        if save:
            control.should_save = True
        self._line.draw(state, run.curve)

    def on_save(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        if self._run.processes.is_main and self._run.trigger is not None:
            self._run.trigger.unlink(missing_ok=True)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run = self._run
        if run.on_epoch is None or run.stopping:
            return
        self._line.close()
        # Whatever is scored and drawn in there, the next step's dropout stays the same.
        with untouched_generators():
            found = run.on_epoch(round(state.epoch)) if run.processes.is_main else ""
        if why := run.processes.told(found, args.device):
            run.ended_by = FatalError(
                f"training was stopped by its gate: {why}",
                hint="git soup train --restart starts anew; "
                "training.eval_gate.on_regression: warn goes on",
                code=ExitCode.CHECK_FAILED,
            )
            control.should_save = control.should_training_stop = True


@contextlib.contextmanager
def untouched_generators() -> Iterator[None]:
    """Whatever is drawn inside, Python's, numpy's and torch's generators go on as before."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


class Reticent:
    """Goes behind a trainer class: most have nothing to tell of a step beside its loss."""

    def told_of_step(self) -> dict[str, float]:
        return {}


def with_exactness(trainer_class: type) -> type:
    """The trainer class with `ExactMixin` in front."""
    return type(f"Exact{trainer_class.__name__}", (ExactMixin, trainer_class, Reticent), {})
