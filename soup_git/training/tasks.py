"""The training methods, one row each.

A row is data. Classes and functions are named, not imported: the trainers cost seven seconds,
and `git soup` reads this table for its help, its schema and its checks.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = tuple[str, str, str]  # package, file, class
Head = Literal["words"]


@dataclass(frozen=True)
class Task:
    """One method: what it reads, who trains it, and which options are its own.

    What a name refers to is written `module:attribute` and loaded by `load`.
    """

    name: str
    summary: str
    paper: str
    shapes: tuple[str, ...]
    """What a row looks like after conversion, see data/formats.py."""
    encode: str
    """A row -> Example: its tokens, and what else the trainer reads of it (prepared.py)."""
    columns: str
    """Examples -> the columns of the trainer's table."""
    trainer: str
    config: str
    config_sources: tuple[Source, ...]
    """Where the names of the trainer's options are, base class first."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Keys of `training` that not every task honours -> the trainer's option that each becomes,
    empty where our own code reads it."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Options of the trainer that make this method of it."""
    head: Head = "words"
    """What the model answers with."""
    long_rows: Literal["cut", "drop"] = "cut"
    """What happens to rows beyond data.max_length."""


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
        encode="soup_git.training.tokens:example",
        columns="soup_git.training.tokens:columns",
        trainer="trl:SFTTrainer",
        config="trl:SFTConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/sft_config.py", "SFTConfig")),
        options={
            "assistant_only_loss": "",
            "packing": "packing",
            "neftune_alpha": "neftune_noise_alpha",
        },
    ),
}


def load(reference: str) -> Any:
    """`"trl:SFTTrainer"` -> the class. The one place where a row's names become imports."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
