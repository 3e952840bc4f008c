"""Process reward models: each step judged where it ends, by an adapter that carries its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from soup_git.training.prepared import view
from tests.training import tiny_model as tiny
from tests.training.methods import prepare, run

RIGHT, WRONG = "the otters agree", "Rain fell"


def row(n: int) -> dict[str, Any]:
    labels = [bool(n >> i & 1) for i in range(3)]
    steps = [f"{n + i} {RIGHT if label else WRONG}" for i, label in enumerate(labels)]
    return {"prompt": f"{tiny.SENTENCES[n % 5]} {n}?", "completions": steps, "labels": labels}


class Judge:
    """A base with a fresh random head for its tokens, and the trained adapter on it."""

    def __init__(self, workspace: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(workspace / "base")
        base = AutoModelForTokenClassification.from_pretrained(workspace / "base", num_labels=2)
        self.model = PeftModel.from_pretrained(base, workspace / "output").eval()

    def __call__(self, prompt: str, steps: list[str]) -> list[bool]:
        import torch

        ids, ends = list(self.tokenizer(prompt)["input_ids"]), []
        for step in steps:
            ids += self.tokenizer(step)["input_ids"] + self.tokenizer("\n")["input_ids"]
            ends.append(len(ids) - 1)
        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([ids])).logits[0, ends]
        right: list[bool] = (logits[:, 1] > logits[:, 0]).tolist()
        return right


def test_steps_are_judged_by_a_rule_that_was_learnt(workspace: Path) -> None:
    prepare(workspace, "prm", [row(n) for n in range(16)])
    options = "training.max_steps=24", "training.lora.dropout=0.0", "training.save_steps=12"
    report = run(workspace, *options)
    assert report.loss_tokens == 16 * 3
    judge = Judge(workspace)
    for n in (42, 53, 61, 70):
        asked = row(n)
        assert judge(asked["prompt"], asked["completions"]) == asked["labels"]
    saved = (workspace / "output" / "adapter_config.json").read_text()
    assert '"task_type": "TOKEN_CLS"' in saved
    from safetensors import safe_open

    with safe_open(workspace / "output" / "adapter_model.safetensors", "pt") as file:
        heads = [name for name in file.keys() if "score" in name]  # noqa: SIM118 - no mapping
    assert heads == ["base_model.model.score.bias", "base_model.model.score.weight"]


def test_a_step_ends_where_its_separator_does(workspace: Path) -> None:
    prepare(workspace, "prm", [row(5)])
    config = load_config(workspace / "soup.yaml", ["training.step_separator='. So '"])
    tokens = view(config, workspace_root=workspace).tokens
    ends = [i for i, token in enumerate(tokens) if token.in_loss]
    texts = ["".join(t.text for t in tokens[: i + 1]) for i in ends]
    assert len(ends) == 3
    assert all(text.endswith(". So ") for text in texts)
    assert texts[0].endswith(f"5 {RIGHT}. So ")


def test_steps_beyond_the_length_are_not_learnt(workspace: Path) -> None:
    rows = [row(3), {**row(4), "prompt": "x " * 200}]
    prepare(workspace, "prm", rows)
    long = len(view(load_config(workspace / "soup.yaml"), workspace_root=workspace).tokens)
    report = run(workspace, f"data.max_length={long - 1}", "training.max_steps=2")
    assert (report.rows, report.truncated_rows, report.dropped_rows) == (1, 2, 1)
    assert report.loss_tokens == 2


def test_a_separator_without_tokens_is_refused(workspace: Path) -> None:
    with pytest.raises(FatalError, match=r"training\.step_separator: String should have"):
        load_config("base: m\ntask: prm\ndata: {train: x}\ntraining: {step_separator: ''}\n")
    with pytest.raises(FatalError, match=r"step_separator: task sft has no such option"):
        load_config("base: m\ndata: {train: x}\ntraining: {step_separator: x}\n")
