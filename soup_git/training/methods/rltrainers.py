"""TRL's trainers that learn from rewards, given prompts as tokens.

Imported late: it loads TRL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import trl
from torch.utils.data import Sampler

from soup_git.errors import FatalError
from soup_git.training.curve import UNDECIDED
from soup_git.training.methods.pairtrainers import FromBase


class ByEpoch(Sampler):  # type: ignore[misc]
    """TRL's order of prompts as a function of the epoch.

    TRL's sampler goes on from where it was, so a run resumed after the first epoch would see
    the prompts of the first again.
    """

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self._theirs.shuffle:
            generator = self._theirs.generator.manual_seed(self._theirs.seed)
            for _ in range(self.epoch):
                torch.randperm(self._theirs.num_samples, generator=generator)
        return iter(self._theirs)

    def __len__(self) -> int:
        return len(self._theirs)


_TOLD = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "completions/mean_length": "answer_tokens",
    "frac_reward_zero_std": UNDECIDED,
}
"""TRL's name of a number that it keeps of each batch of answers -> ours in the curve."""


class Prompted:
    """Goes in front of a trainer that generates: the prompts are tokens already."""

    def __init__(self, *args: Any, train_dataset: Any, **kwargs: Any) -> None:
        super().__init__(*args, train_dataset=train_dataset, **kwargs)  # type: ignore[call-arg]
        self._prompt_ids: dict[str, list[int]] = {}
        self._told: dict[str, int] = {}
        arguments: Any = self.args  # type: ignore[attr-defined]
        at_once = arguments.generation_batch_size // arguments.num_generations
        if len(train_dataset) < at_once:
            raise FatalError(
                f"a step answers {at_once} prompts, and there are {len(train_dataset)} to train on",
                hint="a smaller training.batch_size, a larger training.num_generations, more rows",
            )

    def told_of_step(self) -> dict[str, float]:
        """Means over the batches of answers since this was asked last."""
        kept: Any = self._metrics["train"]  # type: ignore[attr-defined]
        found = {}
        for theirs, ours in _TOLD.items():
            values = kept.get(theirs, [])
            new = [v for v in values[self._told.get(theirs, 0) :] if math.isfinite(v)]
            self._told[theirs] = len(values)
            if new:
                found[ours] = sum(new) / len(new)
        return found

    def log(self, *args: Any, **kwargs: Any) -> None:
        super().log(*args, **kwargs)  # type: ignore[misc]
        self._told = {}  # TRL forgets what it has logged

    def _get_train_sampler(self, dataset: Any = None) -> ByEpoch:
        return ByEpoch(super()._get_train_sampler(dataset))  # type: ignore[misc]

    def _get_eval_sampler(self, eval_dataset: Any) -> ByEpoch:
        return ByEpoch(super()._get_eval_sampler(eval_dataset))  # type: ignore[misc]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        self._prompt_ids = {row["prompt"]: row["prompt_ids"] for row in inputs}
        return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self._prompt_ids[prompt]) for prompt in prompts], None, {}


class GRPO(Prompted, FromBase, trl.GRPOTrainer):  # type: ignore[misc]
    """Compares the answers of a group by their rewards."""


class RLOO(Prompted, FromBase, trl.RLOOTrainer):  # type: ignore[misc]
    """Compares each answer with the mean of the others."""
