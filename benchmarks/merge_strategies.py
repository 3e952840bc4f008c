"""Which three-way merge keeps what both sides learned? On adapters that were really trained.

    python benchmarks/merge_strategies.py [--base FOLDER] [--seeds 2]

A circulating library's letters, by topic. The common ancestor knows topics 1-4; one side then
learns 5-7, the other 8-10. Two ways to learn: `retrained`, as `dvc repro` does (a fresh
adapter on the ancestor's rows and the new ones), and `continued` (the ancestor trained on with
the new rows alone). The two branches are then merged by `git soup merge`, with each strategy in
turn. What is left of each part is told by questions that were
in no training data: the loss of the right answer (nats a token), and the share of greedy
answers that are right. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from soup_git.training.config import load_config
from soup_git.training.demo_rows import KEPT_FOR_TRAINING, TOPICS, support
from soup_git.training.sampling import answers
from soup_git.training.train import train

SOUP = [sys.executable, "-m", "soup_git"]
PARTS = {"ancestor's": range(4), "ours": range(4, 7), "theirs": range(7, 10)}
RANK = 8
STEPS = 200
STRATEGIES: dict[str, list[str]] = {
    "linear, mean": ["--weights", "mean"],
    "linear, 0.7": ["--weights", "0.7"],
    "linear, 1 (task arithmetic)": ["--weights", "1"],
    "ties, density 0.2, 1": ["--strategy", "ties", "--weights", "1", "--density", "0.2"],
    "ties, density 0.5, 1": ["--strategy", "ties", "--weights", "1", "--density", "0.5"],
    "dare, density 0.5, mean": ["--strategy", "dare", "--weights", "mean", "--density", "0.5"],
    "dare_ties, density 0.5, 1": ["--strategy", "dare_ties", "--weights", "1", "--density", "0.5"],
    "breadcrumbs, 1": ["--strategy", "breadcrumbs", "--weights", "1"],
    "knots, 1": ["--strategy", "knots", "--weights", "1"],
}
CONFIG = """\
base: {base}
task: sft
data: {{train: {rows}, max_length: 256, val_split: 0}}
training:
  {{max_steps: {steps}, lr: {lr}, warmup_steps: 10, batch_size: 8, save_steps: 200, threads: 1,
  seed: {seed}, lora: {{r: {rank}, alpha: 16}}}}
output: {output}
"""


ADAPTER = "adapters/chat"


def run(*command: str, cwd: Path) -> None:
    environment = {
        **os.environ,
        "GIT_AUTHOR_NAME": "bench", "GIT_AUTHOR_EMAIL": "bench@example.org",
        "GIT_COMMITTER_NAME": "bench", "GIT_COMMITTER_EMAIL": "bench@example.org",
    }  # fmt: skip
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")


def rows(topics: Iterable[int], *, held_out: bool = False) -> list[dict[str, Any]]:
    kept = slice(KEPT_FOR_TRAINING, None) if held_out else slice(KEPT_FOR_TRAINING)
    return [
        {
            "messages": [
                {"role": "user", "content": way},
                {"role": "assistant", "content": support(TOPICS[topic][1])},
            ]
        }
        for topic in topics
        for way in TOPICS[topic][2][kept]
    ]


def encoded(examples: Iterable[dict[str, Any]], tokenizer: Any) -> list[tuple[Any, int]]:
    """Token ids of the whole conversation, and how many of them ask."""
    found = []
    for row in examples:
        turns = row["messages"]
        whole = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
        asked = tokenizer.apply_chat_template(
            turns[:1], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        found.append((torch.tensor([whole]), len(asked)))
    return found


def loss_of(model: Any, ids: Any, asked: int) -> Any:
    labels = ids.clone()
    labels[:, :asked] = -100
    return model(input_ids=ids, labels=labels).loss


def retrain(root: Path, base: Path, topics: Iterable[int], name: str, seed: int, lr: float) -> None:
    file = root / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(topics)))
    text = CONFIG.format(
        base=base, rows=file.name, seed=seed, output=name, rank=RANK, lr=lr, steps=STEPS
    )
    (root / "soup.yaml").write_text(text)
    config = load_config(root / "soup.yaml")
    train(config, workspace_root=root, output=root / name, state_dir=root / f"{name}.state")


def go_on(root: Path, base: Path, topics: Iterable[int], name: str, seed: int, lr: float) -> None:
    """The ancestor's adapter, trained on with new rows alone: 60 steps of plain AdamW."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(root / "ancestor"), is_trainable=True)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=lr / 2, weight_decay=0.0
    )
    examples = encoded(rows(topics), tokenizer)
    for _ in range(60):
        batch = [examples[i] for i in torch.randperm(len(examples))[:8].tolist()]
        loss = sum((loss_of(model, *example) for example in batch), torch.zeros(())) / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(root / name)


def commit(root: Path, trained: str) -> None:
    """An adapter that was trained becomes the branch's."""
    shutil.rmtree(root / ADAPTER, ignore_errors=True)
    shutil.copytree(root / trained, root / ADAPTER)
    run(*SOUP, "add", ADAPTER, cwd=root)
    run("git", "commit", "-qm", trained, cwd=root)


@dataclass(frozen=True)
class Score:
    loss: float
    right: float


def scores(base: Path, adapter: Path) -> list[Score]:
    """Of each part."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    found = []
    for topics in PARTS.values():
        examples = encoded(rows(topics, held_out=True), tokenizer)
        with torch.no_grad():
            loss = sum(loss_of(model, *example).item() for example in examples) / len(examples)
        asked = [(w, TOPICS[t][0]) for t in topics for w in TOPICS[t][2][KEPT_FOR_TRAINING:]]
        told = answers(base, [way for way, _ in asked], adapter)
        right = sum(expected in answer for answer, (_, expected) in zip(told, asked, strict=True))
        found.append(Score(loss, right / len(asked)))
    return found


def measure(base: Path, way: str, seed: int, lr: float) -> dict[str, list[Score]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        old = list(PARTS["ancestor's"])
        retrain(root, base, old, "ancestor", seed, lr)
        for side in ("ours", "theirs"):
            if way == "retrained":
                retrain(root, base, old + list(PARTS[side]), side, seed, lr)
            else:
                go_on(root, base, PARTS[side], side, seed, lr)
        run("git", "init", "-q", "-b", "main", cwd=root)
        run(*SOUP, "init", cwd=root)
        commit(root, "ancestor")
        run("git", "branch", "theirs", cwd=root)
        commit(root, "ours")
        run("git", "switch", "-q", "theirs", cwd=root)
        commit(root, "theirs")
        run("git", "switch", "-q", "main", cwd=root)
        found = {name: scores(base, root / name) for name in ("ancestor", "ours", "theirs")}
        for name, options in STRATEGIES.items():
            run(*SOUP, "merge", "theirs", *options, cwd=root)
            found[name] = scores(base, root / ADAPTER)
            run("git", "reset", "-q", "--hard", "HEAD^", cwd=root)
            run(*SOUP, "checkout", cwd=root)
            print(way, seed, name, found[name], file=sys.stderr, flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, help="a base model from git soup demo --base-only")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = options.base
        if base is None:
            base = Path(folder) / "base"
            run(*SOUP, "demo", "--base-only", str(base), cwd=Path(folder))
        for way in ("retrained", "continued"):
            runs = [measure(base.resolve(), way, seed, options.lr) for seed in range(options.seeds)]
            print(f"\n{way}, mean of {len(runs)} seeds\n")
            print(f"| adapter or merge | {' | '.join(PARTS)} | worst part |")
            print(f"|---|{'---:|' * (len(PARTS) + 1)}")
            for name in runs[0]:
                parts = [
                    Score(
                        mean([r[name][i].loss for r in runs]),
                        mean([r[name][i].right for r in runs]),
                    )
                    for i in range(len(PARTS))
                ]
                worst = Score(max(p.loss for p in parts), min(p.right for p in parts))
                cells = [f"{p.loss:.2f} / {p.right:.0%}" for p in (*parts, worst)]
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
