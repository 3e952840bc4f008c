"""A tiny random Llama with a BPE tokenizer trained on the spot, and a workspace around it."""

from __future__ import annotations

import json
from pathlib import Path

SENTENCES = [
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "A committee of otters decided that the bridge should be painted blue.",
    "Every morning the baker counts the loaves and writes the number down.",
    "Nobody remembers who planted the chestnut tree behind the school.",
    "Rain fell on the harbour while the ferries waited for the tide.",
]
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def make_base(folder: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from soup_git.training.templates import CHATML

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def conversation(n: int) -> dict[str, object]:
    question, answer = SENTENCES[n % 5], SENTENCES[(n * 3 + 1) % 5]
    return {
        "messages": [
            {"role": "user", "content": f"{n}: {question}"},
            {"role": "assistant", "content": f"{answer} ({n})"},
        ]
    }


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CONFIG = """\
base: base
task: sft
data:
  train: data/train.jsonl
  val_split: 0.2
  max_length: 96
training:
  epochs: 2
  batch_size: 4
  lr: 1e-3
  save_steps: 3
  logging_steps: 2
  threads: 1
  lora:
    r: 4
    alpha: 8
    dropout: 0.1
output: ./output
"""
