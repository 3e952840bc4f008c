"""Distillation on given answers.

TRL's trainers of distillation let the student speak, or leave the temperature out of the loss.

Imported late: it loads transformers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from soup_git.training.loop import Run
from soup_git.training.prepared import MASKED

AT_ONCE = 512  # places whose probabilities over the whole vocabulary are in memory at a time


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, kind: str, temperature: float
) -> torch.Tensor:
    """How far apart two models are: logits (places, vocabulary) -> float32 (places,), in nats.

    `kind` is forward_kl, KL(teacher || student); reverse_kl, KL(student || teacher); or js, the
    mean of both models' divergence from their mixture. Both distributions are at `temperature`
    (Hinton et al., https://arxiv.org/abs/1503.02531).
    """
    ours = torch.log_softmax(student.float() / temperature, dim=-1)
    theirs = torch.log_softmax(teacher.float() / temperature, dim=-1)
    if kind == "forward_kl":
        return _kl(theirs, ours)
    if kind == "reverse_kl":
        return _kl(ours, theirs)
    mixture = torch.logaddexp(ours, theirs) - math.log(2)
    return (_kl(ours, mixture) + _kl(theirs, mixture)) / 2


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p.exp() * (p - q)).sum(dim=-1)


class Distill(Trainer):  # type: ignore[misc]
    """The student on its rows, with a frozen teacher beside it."""

    soup: Run

    def __init__(self, *args: Any, teacher: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device)
        # Then the loss is over all tokens of a step, however they fall into its batches.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """w · cross entropy + (1 - w) · T² · divergence, per token of the answers.

        T² keeps the gradient's size as T moves, so that the weight means the same.
        """
        rows = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        outputs = model(**rows)
        with torch.no_grad():
            told = self.teacher(**rows).logits
        labels = inputs["labels"][:, 1:]
        learnt = labels != MASKED
        ours, theirs = outputs.logits[:, :-1][learnt], told[:, :-1][learnt]
        # One tokenizer's models may fill up their vocabularies to different sizes.
        size = min(ours.shape[-1], theirs.shape[-1])
        answers, loss = labels[learnt], ours.new_zeros((), dtype=torch.float32)
        for part in torch.arange(len(answers), device=answers.device).split(AT_ONCE):
            args = ours[part, :size], theirs[part, :size], answers[part]
            loss = loss + checkpoint(self._loss, *args, use_reentrant=False)
        count = learnt.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = loss / count
        return (loss, outputs) if return_outputs else loss

    def _loss(
        self, student: torch.Tensor, teacher: torch.Tensor, answers: torch.Tensor
    ) -> torch.Tensor:
        training = self.soup.config.training
        temperature, share = training.distill_temperature, training.distill_ce_weight
        apart = divergence(student, teacher, training.distill_divergence, temperature).sum()
        imitated = torch.nn.functional.cross_entropy(student.float(), answers, reduction="sum")
        return share * imitated + (1 - share) * temperature**2 * apart
