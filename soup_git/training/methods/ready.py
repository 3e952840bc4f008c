"""What our own trainers need of a model and its tokenizer, and TRL's bring along."""

from __future__ import annotations

from typing import Any

from soup_git.training.prepared import Reading


def for_batches(model: Any, reading: Reading) -> int:
    """The token that fills up, which the model is told too; activations may be recomputed."""
    tokenizer = reading.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if reading.config.training.gradient_checkpointing:
        model.enable_input_require_grads()
    return int(tokenizer.pad_token_id)
