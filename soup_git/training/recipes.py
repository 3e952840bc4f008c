"""Recipes for named models, as data: what a maintained config of a known project trains them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from soup_git.core.yamltext import load_yaml
from soup_git.training import configtext
from soup_git.training.configtext import Line

DATASET = "data/train.jsonl"
BYTES_16, BYTES_4 = 2.0, 4.127 / 8
"""Bytes a parameter: bf16; nf4 with double quantisation (QLoRA, https://arxiv.org/abs/2305.14314)."""


@dataclass(frozen=True)
class Recipe:
    """One model and what to train it with. `source` is where every value is from."""

    name: str
    base: str
    task: str
    parameters: float
    """Billions, as the model's card counts them."""
    licence: str
    gated: bool
    gpus: int
    """How many the source's own run takes."""
    source: str
    template: str = "the tokenizer's own"
    note: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def card(self) -> str:
        return f"https://huggingface.co/{self.base}"

    @property
    def hardware(self) -> str:
        """What the weights of the base alone take: a lower bound."""
        small = self.training.get("quantization") == "4bit"
        size = self.parameters * (BYTES_4 if small else BYTES_16)
        gpus = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        kind = "4 bits" if small else "16 bits"
        return f"{gpus} in the source; the base in {kind} takes about {size:.1f} GB"

    @property
    def config(self) -> dict[str, Any]:
        """soup.yaml, nested."""
        data = {"train": DATASET, **self.data}
        return {
            "base": self.base,
            "task": self.task,
            "data": data,
            "training": dict(self.training),
            "output": f"adapters/{self.name}",
        }

    def text(self) -> str:
        """The soup.yaml that `use` writes."""
        head = [
            f"Recipe {self.name}. Where its values are from:",
            f"  {self.source}",
            f"Model: {self.card}, licence: {self.licence}" + (" (gated)" if self.gated else ""),
            f"Chat template: {self.template}",
            f"Hardware: {self.hardware}",
            *([f"Note: {self.note}"] if self.note else []),
            "git soup config check checks this file, git soup init --template chat adds a dvc.yaml.",
        ]
        comments = {"data.train": "your rows"}
        flat = configtext.flat(self.config)
        return configtext.written([Line(k, v, comments.get(k, "")) for k, v in flat.items()], head)


@cache
def recipes() -> dict[str, Recipe]:
    """Name -> recipe, in the order of the file."""
    text = resources.files("soup_git.training").joinpath("recipes.yaml").read_bytes()
    return {name: Recipe(name=name, **fields) for name, fields in load_yaml(text).items()}
