"""A planted regression: checkpoints of a run that go on as before, but for one module.

The base has learnt its rows by heart, each checkpoint is a small step from the one before,
and from some step on one module's update is another, random one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soup_git.commands.ablation import AblationReport
from tests.evaluation import small_lora
from tests.training import tiny_model as tiny

ROWS = 12
SUITE = """\
tasks:
  - name: support
    prompts: rows.jsonl
    scoring: loss
"""


@dataclass(frozen=True)
class Planted:
    checkpoints: list[Path]
    broken: Path
    last_good: Path
    module: str


def make_workspace(root: Path, layers: int = 3) -> None:
    """Into a git-soup workspace: the base, a LoRA to start from, rows, and a suite of their loss."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    base = small_lora.make_base(root / "base", layers, spread=0.05)
    rows = [
        {"prompt": f"{n}: {tiny.SENTENCES[n % 5]}", "expected": tiny.SENTENCES[(3 * n + 1) % 5]}
        for n in range(ROWS)
    ]
    tiny.write_rows(root / "rows.jsonl", [dict(row) for row in rows])
    (root / "suite.yaml").write_text(SUITE)
    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = [
        [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["expected"]}]
        for r in rows
    ]
    found = [tokenizer.apply_chat_template(t, return_dict=True)["input_ids"] for t in turns]
    width = max(map(len, found))
    ids = torch.tensor([i + [tokenizer.pad_token_id] * (width - len(i)) for i in found])
    labels = ids.masked_fill(ids == tokenizer.pad_token_id, -100)
    model = LlamaForCausalLM.from_pretrained(base)
    # A model this small is over before a second thread wakes up.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(base)
    small_lora.make_lora(root / "start", base, 1, scale=0.01, name="base")


def plant(root: Path, seed: int, count: int = 8) -> Planted:
    """`count` checkpoints below `root`; which step and which module, the seed decides."""
    from safetensors.numpy import load_file, save_file

    generator = np.random.default_rng(seed)
    tensors: dict[str, Any] = load_file(root / "start" / "adapter_model.safetensors")
    broken = int(generator.integers(1, count))
    name = sorted(key for key in tensors if ".lora_B." in key)
    victim = name[int(generator.integers(len(name)))]
    spoil = generator.standard_normal(tensors[victim].shape).astype(np.float32)
    folders = []
    for step in range(count):
        for key in sorted(tensors):
            noise = generator.standard_normal(tensors[key].shape).astype(np.float32)
            tensors[key] = tensors[key] + 1e-3 * noise
        if step == broken:
            tensors[victim] = tensors[victim] + 2 * spoil
        folder = root / f"seed-{seed}" / f"step-{step}"
        folder.mkdir(parents=True)
        shutil.copy(root / "start" / "adapter_config.json", folder)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    module = victim.removeprefix("base_model.model.").partition(".lora_B")[0]
    return Planted(folders, folders[broken], folders[broken - 1], module)


def assert_same_effects(one: AblationReport, other: AblationReport) -> None:
    assert (one.total.rows, len(one.modules)) == (other.total.rows, len(other.modules))
    assert other.total.effect == pytest.approx(one.total.effect, abs=1e-6)
    theirs = {part.name: part for part in other.modules}
    for part in one.modules:
        there = theirs[part.name]
        assert (there.status, there.rows) == (part.status, part.rows)
        assert there.effect == pytest.approx(part.effect, abs=1e-6)
        assert there.stderr == pytest.approx(part.stderr, abs=1e-6)
