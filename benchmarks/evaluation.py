"""Eight adapters on one base against one adapter at a time: what loading the base once saves.

Makes a small random Llama and eight LoRA adapters, scores them by a suite of generation and
loss with one runner, and one of them alone. Prints the ratio that must stay below one: k
adapters / (k × one adapter, as it costs beside its load, + one load). CPU seconds of one
thread, medians; imports are paid before.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from soup_git.evaluation.candidate import Candidate, in_memory
from soup_git.evaluation.runner import BaseChoice, Runner
from soup_git.evaluation.suite import Suite, load_suite

K = 8
ROWS = 12
REPEATS = 3
HIDDEN, LAYERS, RANK = 256, 6, 16
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "near",
    "one",
    "old",
    "river",
    "bank",
    "at",
    "noon",
]
SUITE = """\
decoding: {max_new_tokens: 12}
tasks:
  - {name: words, prompts: rows.jsonl, scoring: contains}
  - {name: fit, prompts: rows.jsonl, scoring: loss}
"""


def make_base(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    special = ["<unk>", "<pad>", "<end>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=HIDDEN, intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=512, eos_token_id=2, pad_token_id=1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_adapter(seed: int) -> Candidate:
    draw = np.random.default_rng(seed)
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK,
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "base",
    }  # fmt: skip
    tensors = {}
    for layer in range(LAYERS):
        for module in ("q_proj", "v_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            a = draw.standard_normal((RANK, HIDDEN)).astype(np.float32) * 0.05
            b = draw.standard_normal((HIDDEN, RANK)).astype(np.float32) * 0.05
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    return in_memory(f"adapter {seed}", config, tensors)


def seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_base(root / "base")
        rows = [
            {"prompt": " ".join(WORDS[n % 9 :][:6]), "expected": WORDS[n % 16]} for n in range(ROWS)
        ]
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "suite.yaml").write_text(SUITE)
        suite = load_suite(root / "suite.yaml", root)
        return report(root, suite, [make_adapter(seed) for seed in range(K)])


def report(root: Path, suite: Suite, adapters: list[Candidate]) -> int:
    choice = BaseChoice("base")

    def together(which: list[Candidate]) -> None:
        with Runner(choice, root, threads=1) as runner:
            for adapter in which:
                runner.score(adapter, suite)

    def load() -> None:
        with Runner(choice, root, threads=1) as runner, runner.using(None):
            pass

    together(adapters[:1])  # what is imported and built once is nobody's
    loads = statistics.median(seconds(load) for _ in range(REPEATS))
    alone = statistics.median(seconds(lambda: together(adapters[:1])) for _ in range(REPEATS))
    many = statistics.median(seconds(lambda: together(adapters)) for _ in range(REPEATS))
    bound = K * (alone - loads) + loads
    print(
        f"CPU seconds: load {loads:.2f}, load and one adapter {alone:.2f}, load and {K} {many:.2f}"
    )
    print(f"{K} adapters / ({K} x one beside its load + one load) = {many / bound:.2f}")
    print(
        f"{K} adapters / {K} commands with one each, imports not counted = {many / (K * alone):.2f}"
    )
    return 0 if many < bound else 1


if __name__ == "__main__":
    sys.exit(main())
