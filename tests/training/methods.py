"""What the tests of methods share: a run, and what a model makes of a text."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from soup_git.training.config import load_config
from soup_git.training.train import TrainReport, train
from tests.training import tiny_model as tiny

CONFIG = """\
base: base
task: {task}
data:
  train: data/train.jsonl
  val_split: 0.0
  max_length: 96
training:
  max_steps: 6
  batch_size: 4
  lr: 1e-2
  warmup_steps: 0
  scheduler: constant
  logging_steps: 1
  threads: 1
  lora: {{r: 4, alpha: 8}}
output: ./output
"""


def prepare(workspace: Path, task: str, rows: list[dict[str, Any]]) -> None:
    tiny.write_rows(workspace / "data" / "train.jsonl", rows)
    (workspace / "soup.yaml").write_text(CONFIG.format(task=task))


def run(workspace: Path, *overrides: str, resume: bool = False, **options: Any) -> TrainReport:
    """One training in this process; `output` is left in the workspace."""
    config = load_config(workspace / "soup.yaml", overrides)
    output, state = workspace / "output", workspace.parent / "state"
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
        shutil.rmtree(output, ignore_errors=True)
    return train(config, workspace_root=workspace, output=output, state_dir=state, **options)


def points(workspace: Path) -> list[dict[str, float]]:
    """plots/loss.csv, a point each."""
    with (workspace / "plots" / "loss.csv").open(encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def curve(workspace: Path) -> list[float]:
    return [point["loss"] for point in points(workspace)]


class Words:
    """The base with the trained adapter on it, and without."""

    def __init__(self, workspace: Path, adapter: str = "output") -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(workspace / "base")
        base = AutoModelForCausalLM.from_pretrained(workspace / "base")
        self.model = PeftModel.from_pretrained(base, workspace / adapter).eval()

    def logprob(self, prompt: str, answer: str, *, adapted: bool = True) -> float:
        """Log-probability of `answer` after `prompt`."""
        import contextlib

        import torch

        before = self.tokenizer(prompt)["input_ids"]
        ids = self.tokenizer(prompt + answer)["input_ids"]
        with torch.no_grad(), contextlib.nullcontext() if adapted else self.model.disable_adapter():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0]
        scores = logits.log_softmax(-1)
        return float(sum(scores[i - 1, ids[i]] for i in range(len(before), len(ids))))

    def margin(self, row: dict[str, Any]) -> float:
        """How much more the adapter prefers `chosen` to `rejected` than the base does."""
        return sum(
            sign
            * (
                self.logprob(row["prompt"], row[key])
                - self.logprob(row["prompt"], row[key], adapted=False)
            )
            for key, sign in (("chosen", 1), ("rejected", -1))
        )


def steerable(workspace: Path, base: Path) -> None:
    """Give the workspace a base whose words are far apart: the tiny one's logits are all near
    zero, and the little that an adapter can move there makes no word much likelier."""
    from safetensors.torch import load_file, save_file

    (workspace / "base").unlink()
    shutil.copytree(base, workspace / "base")
    path = workspace / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 8
    save_file(tensors, path, metadata={"format": "pt"})
