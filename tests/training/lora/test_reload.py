"""What a run saves computes on the untouched base, loaded by PEFT alone, what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soup_git.training import quantized
from soup_git.training.model import locate
from tests.training.lora.conftest import Trained, Training

PROBE = [5, 9, 20, 33, 47, 12, 88, 120]
LORA = "training.lora."
FAST = "training.lr=1e-2"
VERA = (f"{LORA}use_vera=true", f"{LORA}alpha=1", FAST)
VBLORA = (f"{LORA}use_vblora=true", f"{LORA}alpha=1", f"{LORA}peft={{vector_length: 16}}", FAST)
RESTARTS = ("training.relora_steps=2", "training.relora_mode=merge", FAST)
FOUR, EIGHT = "training.quantization=4bit", "training.quantization=8bit"

CASES: dict[str, tuple[str, ...]] = {
    "pissa": (f"{LORA}init_strategy=pissa", f"{LORA}use_rslora=true"),
    "pissa_niter": (f"{LORA}init_strategy=pissa_niter_4", f"{LORA}use_rslora=true"),
    "olora": (f"{LORA}use_olora=true", f"{LORA}rank_pattern={{v_proj: 2}}"),
    "orthogonal": (f"{LORA}init_strategy=orthogonal",),
    "eva": (f"{LORA}init_strategy=eva",),
    "corda": (
        f"{LORA}init_strategy=corda",
        f"{LORA}peft={{corda_config: {{corda_method: kpm}}}}",
        f"{LORA}rank_pattern={{v_proj: 2}}",
    ),
    "dora": (f"{LORA}use_dora=true",),
    "vera": VERA,
    "vblora": VBLORA,
    "head": (f"{LORA}modules_to_save=[lm_head]",),
    "embedding": (f"{LORA}target_modules=[q_proj, embed_tokens]",),
    "pissa embedding": (
        f"{LORA}init_strategy=pissa",
        f"{LORA}use_rslora=true",
        f"{LORA}target_modules=[q_proj, embed_tokens]",
    ),
    "pruned": ("training.relora_steps=2", FAST),
    "restarted": (*RESTARTS, f"{LORA}use_rslora=true", f"{LORA}rank_pattern={{v_proj: 2}}"),
    "frozen": ("training.freeze_layers=1", f"{LORA}exclude_modules=[up_proj]"),
    "4bit loftq": (FOUR, f"{LORA}init_strategy=loftq"),
    "4bit dora": (FOUR, f"{LORA}use_dora=true"),
    "4bit vblora": (FOUR, *VBLORA),
    "8bit eva": (EIGHT, f"{LORA}init_strategy=eva"),
    "8bit vera": (EIGHT, *VERA),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_computes_the_same_on_the_untouched_base(
    training: Training, case: str
) -> None:
    if "bit" in case:
        pytest.importorskip("bitsandbytes")
    trained = training("training.max_steps=5", *CASES[case])
    wanted, untouched, got = outputs(trained, training.root)
    moved = (wanted - untouched).norm()
    assert moved > 2e-3 * untouched.norm()
    assert (got - wanted).norm() < 2e-5 * moved


def outputs(trained: Trained, root: Path) -> tuple[Any, Any, Any]:
    """Logits of the live model, of the base, and of the base with the saved adapter."""
    import torch
    from peft import PeftModel, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM

    config = trained.run.config
    how = quantized.load_options(locate(config, root), config, "float32", "cpu", None)
    base = quantized.keep_as_trained(AutoModelForCausalLM.from_pretrained(root / "base", **how))
    if how:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    ids = torch.tensor([PROBE])
    with torch.no_grad():
        wanted = trained.run.model.eval()(input_ids=ids).logits
        untouched = base.eval()(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, trained.output).eval()
        return wanted, untouched, adapted(input_ids=ids).logits
