"""What does it cost to cut a merge back to the rank of its sides, against growing the rank?

    python benchmarks/merge_rank.py [--base FOLDER] [--ranks 4,8,16] [--seeds 1]

Adapters are trained as in `merge_strategies.py`: an ancestor, and two sides that learn other topics,
retrained or continued. The mean of both steps is then taken twice: cut to the rank of the sides, as
`git merge` does (`keep`), and whole, in factors of both ranks together (`grow`). The share of the step that
the cut loses is ‖whole − cut‖/‖whole − ancestor‖ over all modules, by dense matrices in float64. What is
left of each part is told by the loss of the right answers to questions in no training data, nats a token.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import merge_strategies as strategies
import numpy as np
from merge_strategies import ADAPTER, PARTS, SOUP, commit, go_on, retrain, run, scores
from safetensors.numpy import load_file

WEIGHTS = "adapter_model.safetensors"


def dense(adapter: Path) -> Mapping[str, Any]:
    """Module -> s·B·A in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / WEIGHTS)
    return {
        name: config["lora_alpha"]
        / config["r"]
        * tensors[name.replace("lora_A", "lora_B")].astype(float)
        @ a.astype(float)
        for name, a in tensors.items()
        if "lora_A" in name
    }


def distance(one: Mapping[str, Any], two: Mapping[str, Any]) -> float:
    return math.sqrt(sum(float(np.square(one[name] - two[name]).sum()) for name in one))


def measure(base: Path, way: str, rank: int, seed: int, lr: float) -> dict[str, list[float]]:
    """Of each adapter: the loss of each part, the share of the step that is lost, and its bytes."""
    strategies.RANK = rank
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
        run(*SOUP, "merge", "main", "refs/heads/theirs", "-o", "grow", cwd=root)
        run("git", "merge", "-q", "--no-edit", "theirs", cwd=root)
        versions = {name: root / name for name in ("ancestor", "ours", "theirs", "grow")}
        versions["keep"] = root / ADAPTER
        updates = {name: dense(versions[name]) for name in ("ancestor", "keep", "grow")}
        step = distance(updates["grow"], updates["ancestor"])
        lost = {"keep": distance(updates["grow"], updates["keep"]) / step}
        return {
            name: [
                *(score.loss for score in scores(base, path)),
                lost.get(name, 0.0),
                (path / WEIGHTS).stat().st_size,
            ]
            for name, path in versions.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True, help="from git soup demo --base-only")
    parser.add_argument("--ranks", default="4,8,16")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-2)
    options = parser.parse_args()
    print(f"| sides | adapter | {', '.join(PARTS)} | worst | of the step lost | KiB |")
    print("|---|---|---|--:|--:|--:|")
    for rank in map(int, options.ranks.split(",")):
        for way in ("retrained", "continued"):
            runs = [
                measure(options.base.resolve(), way, rank, seed, options.lr)
                for seed in range(options.seeds)
            ]
            for name in runs[0]:
                *losses, lost, size = (
                    mean(values) for values in zip(*[r[name] for r in runs], strict=True)
                )
                told = ", ".join(f"{loss:.2f}" for loss in losses)
                share = f"{lost:.0%}" if name == "keep" else ""
                print(
                    f"| {way}, rank {rank} | {name} | {told} | {max(losses):.2f} | {share} | {size / 1024:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
