"""Step time of `git soup train` beside a plain TRL script with the same settings, in one run.

    python benchmarks/training_overhead.py [--steps 60] [--rounds 3]

Both train LoRA on a randomly initialised Llama (hidden 256, 4 layers) with the same rows, batch,
learning rate, optimizer and thread. A round is one of each in turn, in the order A B, B A, …; the
ratio is that of the medians over all rounds, the first five steps of each left out. Checkpoints
are outside the steps that count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.training import tiny_model as tiny

WARM_UP = 5
CONFIG = """\
base: base
task: sft
data: {{train: data/train.jsonl, val_split: 0.0, max_length: 128}}
training:
  max_steps: {steps}
  batch_size: 8
  lr: 1e-3
  save_steps: {steps}
  threads: 1
  lora: {{r: 16, alpha: 32, dropout: 0.0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        workspace(root, asked.steps)
        seconds: dict[Any, list[float]] = {ours: [], plain: []}
        for number in range(asked.rounds):
            for run in (ours, plain)[:: 1 if number % 2 == 0 else -1]:
                seconds[run] += run(root, asked.steps, number)
    medians = {run: statistics.median(values) for run, values in seconds.items()}
    print("| | ms a step | beside plain TRL |\n|---|--:|--:|")
    for run, label in ((plain, "plain TRL"), (ours, "git soup train")):
        print(f"| {label} | {1e3 * medians[run]:.2f} | {medians[run] / medians[plain]:.4f} |")


def workspace(root: Path, steps: int) -> None:
    """A larger model than the tests', with their tokenizer."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    tiny.make_base(root / "base")
    config = AutoConfig.from_pretrained(root / "base")
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 688, 4
    config.head_dim = 64
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(root / "base")
    tiny.write_rows(root / "data" / "train.jsonl", [tiny.conversation(n) for n in range(400)])
    (root / "soup.yaml").write_text(CONFIG.format(steps=steps))


def clock() -> tuple[Any, list[float]]:
    """A callback, and the seconds of the steps that it has seen since the warm-up."""
    from transformers import TrainerCallback

    seconds: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        began = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step > WARM_UP:
                seconds.append(time.perf_counter() - self.began)

    return Clock(), seconds


def ours(root: Path, steps: int, number: int) -> list[float]:
    from soup_git.training.config import load_config
    from soup_git.training.train import train

    callback, seconds = clock()
    out = root / f"ours-{number}"
    train(
        load_config(root / "soup.yaml"), workspace_root=root, output=out / "output",
        state_dir=out / "state", results=out, watch=lambda run: run.trainer.add_callback(callback),
    )  # fmt: skip
    assert len(seconds) == steps - WARM_UP
    return seconds


def plain(root: Path, steps: int, number: int) -> list[float]:
    """What TRL's own documentation shows, with the same numbers."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    callback, seconds = clock()
    trainer = SFTTrainer(
        model=str(root / "base"),
        args=SFTConfig(
            output_dir=str(root / f"plain-{number}"), max_steps=steps, learning_rate=1e-3,
            per_device_train_batch_size=8, max_length=128, assistant_only_loss=True, use_cpu=True,
            bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
            optim="adamw_torch", save_strategy="no", logging_steps=10, dataloader_pin_memory=False,
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=load_dataset("json", data_files=str(root / "data" / "train.jsonl"), split="train"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert len(seconds) == steps - WARM_UP
    return seconds


if __name__ == "__main__":
    main()
