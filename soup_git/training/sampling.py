"""What a model says: greedy answers of a base model, with and without an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from soup_git.training.machine import quiet_bitsandbytes


def answers(
    base: Path, prompts: Sequence[str], adapter: Path | None = None, *, max_new_tokens: int = 48
) -> list[str]:
    """One greedy answer per prompt, on the CPU, from local folders of safetensors."""
    quiet_bitsandbytes()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        base, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    found = []
    for prompt in prompts:
        turns = [{"role": "user", "content": prompt}]
        asked = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            told = model.generate(
                **asked,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
                pad_token_id=tokenizer.eos_token_id,
            )
        text = tokenizer.decode(told[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        found.append(" ".join(text.split()))
    return found
