"""The processes of one training: which of them this one is, and what all of them agree on.

A training without `training.launcher` is one process, which agrees with itself. The others are
started by `storage.workers`, with torch's own environment variables (RANK, WORLD_SIZE, …).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from soup_git.storage.workers import is_worker


@dataclass(frozen=True)
class Processes:
    """This process's number, from 0, and how many there are, all on this machine."""

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Does this process write, record and talk? The others only compute."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Talk, on stderr, once."""
        if self.is_main:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def meet(self, device: str) -> None:
        """Wait until all processes are there ("cpu": gloo, "cuda": NCCL)."""
        if self.count > 1:
            from accelerate import PartialState

            # A gate may score for longer than torch's ten minutes; whoever is lost is noticed by
            # whoever started them all.
            PartialState(cpu=device == "cpu", timeout=timedelta(days=7))

    def wait(self) -> None:
        """Go on when every process has come this far."""
        if self.count > 1:
            import torch

            torch.distributed.barrier()

    def mean(self, values: Sequence[float], device: Any) -> list[float]:
        """Each value's mean over the processes, in float64. Every process has to ask."""
        if self.count == 1:
            return list(values)
        import torch

        # All values in one message: this is asked once a step.
        means = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(means)
        return [float(value) for value in means / self.count]

    def told(self, text: str, device: Any) -> str:
        """What the main process says, in every process."""
        if self.count == 1:
            return text
        import torch

        # As bytes: torch's way to send an object is a pickle.
        said = torch.tensor(list(text.encode()), dtype=torch.uint8, device=device)
        length = torch.tensor([len(said)], device=device)
        torch.distributed.broadcast(length, 0)
        if not self.is_main:
            said = torch.empty(int(length), dtype=torch.uint8, device=device)
        torch.distributed.broadcast(said, 0)
        return bytes(said.tolist()).decode()

    def part(self) -> None:
        """The end: nothing is asked of the others any more."""
        if self.count > 1:
            import torch

            torch.distributed.destroy_process_group()


ALONE = Processes()


def here() -> Processes:
    if not is_worker():
        return ALONE
    return Processes(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
