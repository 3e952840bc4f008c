"""The training methods, one row each.

A row is data. Classes are named, not imported: the trainers cost seven seconds, and
`git soup` reads this table for its help, its schema and its checks.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

Source = tuple[str, str, str]  # package, file, class


@dataclass(frozen=True)
class Task:
    """One method: what it reads, who trains it, and which options are its own."""

    name: str
    summary: str
    paper: str
    shapes: tuple[str, ...]  # what a row looks like after conversion, see data/formats.py
    prepare: str  # "module:function": rows of those shapes -> tokens with labels
    trainer: str  # "module:class"
    config: str
    config_sources: tuple[Source, ...]  # for the names of its options, base class first
    options: frozenset[str]  # keys of `training` that not every task honours


TRAINING_ARGUMENTS: tuple[Source, ...] = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
)

TASKS: dict[str, Task] = {
    "sft": Task(
        name="sft",
        summary="supervised fine-tuning on conversations, prompts with completions, or text",
        paper="https://arxiv.org/abs/2203.02155",
        shapes=("messages", "prompt_completion", "text"),
        prepare="soup_git.training.tokens:tokenized",
        trainer="trl:SFTTrainer",
        config="trl:SFTConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/sft_config.py", "SFTConfig")),
        options=frozenset({"assistant_only_loss", "packing", "neftune_alpha"}),
    ),
}


def load(reference: str) -> Any:
    """`"trl:SFTTrainer"` -> the class. The one place where a row's names become imports."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
