"""Steps of more and more rows, as the training makes them: what the search's own process does.

The code is that of the stage: `train` with the config as it is, up to its first step. Then the
rows that are longest are trained in batches of 1, 2, 4, … Loaded late: it imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from soup_git.core.batchsearch import Search, Trial, decide, sizes
from soup_git.errors import ExitCode, FatalError
from soup_git.training.loop import Run
from soup_git.training.memory import is_out_of_memory
from soup_git.training.probing import device_of, lengths_of, now
from soup_git.training.schema import SoupConfig
from soup_git.training.train import train

GPU_SHARE, CPU_SHARE = 0.9, 0.8
_LONG_ENOUGH, _REPEATS = 0.5, 20
"""Seconds that steps are timed for, and how many at most: of one short step a hiccup would decide."""


def search(
    config: SoupConfig, root: Path, scratch: Path, memory: int, tell: Callable[[Search], None]
) -> None:
    """Try sizes from `config.training.batch_size` on; `tell` hears of each that went well.

    `memory` is what this machine has to spare, in bytes; a GPU is asked itself. Raises
    FatalError as training does, with code 130 after Ctrl-C, and torch's own error where memory
    is not enough to begin with (`is_out_of_memory`).
    """

    def attach(run: Run) -> None:
        run.trainer.add_callback(_Trials(run, memory, tell))

    try:
        train(
            config, workspace_root=root, output=scratch / "output", state_dir=scratch / "state",
            results=scratch, watch=attach,
        )  # fmt: skip
    except _SearchedError:
        return


class _SearchedError(Exception):
    """Ends the training before its first step: everything is known."""


class _Trials(TrainerCallback):  # type: ignore[misc]
    def __init__(self, run: Run, memory: int, tell: Callable[[Search], None]) -> None:
        self._run, self._trainer, self._memory, self._tell = run, run.trainer, memory, tell

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called once, when model and optimizer are as every step will find them."""
        rows = self._trainer.train_dataset
        lengths = lengths_of(rows)
        self._order = sorted(range(len(rows)), key=lambda i: -lengths[i])
        self._lengths = lengths
        for group in self._trainer.optimizer.param_groups:
            group["lr"] = group["lr"] * 1e-6  # what is learnt here is nothing, and stays finite
        on_gpu = self._trainer.args.device.type == "cuda"
        limit = GPU_SHARE * _gpu_memory() if on_gpu else CPU_SHARE * self._memory
        smallest = int(self._run.config.training.rows_per_batch)
        found = Search(device_of(self._trainer), int(limit), sizes(len(rows), smallest))
        self._tell(found)
        while (size := decide(found).next) is not None:
            try:
                found = replace(found, trials=(*found.trials, self._trial(size, on_gpu)))
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                said = str(error).strip().splitlines()
                found = replace(found, out_of_memory=said[0] if said else "out of memory")
            self._tell(found)
        raise _SearchedError

    def _trial(self, size: int, on_gpu: bool) -> Trial:
        trainer, chosen = self._trainer, self._order[:size]
        # The loader for evaluation keeps the order, and batches as the other one does.
        trainer.args.per_device_eval_batch_size = size
        batch = next(iter(trainer.get_eval_dataloader(trainer.train_dataset.select(chosen))))
        _forget_peak(on_gpu)
        self._step(batch)  # allocators grow and kernels are chosen
        rest = torch.cuda.memory_allocated() if on_gpu else psutil.Process().memory_info().rss
        seconds = [self._timed(batch)]
        while sum(seconds) < _LONG_ENOUGH and len(seconds) < _REPEATS:
            seconds.append(self._timed(batch))
        tokens = sum(self._lengths[i] for i in chosen)
        return Trial(size, tokens / min(seconds), _peak(on_gpu), int(rest))

    def _timed(self, batch: Any) -> float:
        began = now()
        self._step(batch)
        return now() - began

    def _step(self, batch: Any) -> None:
        if self._run.stop_requested:
            raise FatalError(
                "interrupted while a batch size was searched",
                hint="the same command searches anew; a number for training.batch_size needs none",
                code=ExitCode.INTERRUPTED,
            )
        trainer = self._trainer
        # The trainer moves batches to the device itself, and changes them on the way.
        trainer.training_step(trainer.model_wrapped, dict(batch))
        trainer.optimizer.step()
        trainer.model_wrapped.zero_grad(set_to_none=True)


def _gpu_memory() -> int:
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved())


def _forget_peak(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def _peak(on_gpu: bool) -> int:
    """Bytes in use at the highest point since `_forget_peak`."""
    if on_gpu:
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
