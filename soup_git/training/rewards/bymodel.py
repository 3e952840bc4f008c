"""A reward that another adapter of the workspace gives: one trained with task reward_model.

Imported late: it loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel

from soup_git.data.rows import DataRow
from soup_git.training import adapter, model
from soup_git.training.prepared import Reading
from soup_git.training.rewards.asked import Asked
from soup_git.training.tasks import HEADS
from soup_git.training.tokens import answered


class ModelReward:
    """Scores a prompt with its completion as the reward model has learnt to."""

    def __init__(self, path: str, policy: Any, reading: Reading) -> None:
        self.name = path
        self._policy = policy
        self._reading = reading
        config, folder = reading.config, reading.root / path
        settings = json.loads((folder / adapter.CONFIG).read_bytes())
        said = settings.get("base_model_name_or_path")
        if settings.get("task_type") != HEADS["labels"].task_type:
            raise config.refuse("training.reward_model", f"{path} was not trained to score answers")
        if said != config.base:
            raise config.refuse(
                "training.reward_model", f"{path} is of base {said}, and reads other tokens"
            )
        base = model.load_weights(
            model.locate(config, reading.root),
            config,
            dtype=str(policy.dtype).removeprefix("torch."),
            auto=HEADS["labels"].auto,
            new=settings.get("modules_to_save") or (),
            extra={"num_labels": 1},
        )
        if base.config.pad_token_id is None:
            base.config.pad_token_id = reading.tokenizer.eos_token_id
        self._model = PeftModel.from_pretrained(base, str(folder)).eval()

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def __call__(self, asked: Sequence[Asked]) -> list[float]:
        parts = [
            answered(DataRow("", 0, "", dict(a.row)), a.row["prompt"], a.completion, self._reading)
            for a in asked
        ]
        longest, pad = max(len(p.ids) for p in parts), self._model.config.pad_token_id
        device = self._policy.device
        ids = [p.ids + [pad] * (longest - len(p.ids)) for p in parts]
        mask = [[1] * len(p.ids) + [0] * (longest - len(p.ids)) for p in parts]
        self._model.to(device)
        logits = self._model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
        ).logits
        scores: list[float] = logits[:, 0].float().tolist()
        return scores
