"""Pairs of options that exclude each other: refused at load with line, key and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from soup_git.training.quantized import FORMATS
from soup_git.training.schema import INITS, PREQUANTIZED, LoraBlock, TrainingBlock

BASE = "base: m\ndata: {train: data/x.jsonl}\n"


def refusal(options: str, head: str = BASE) -> str:
    with pytest.raises(FatalError) as caught:
        load_config(f"{head}training: {{{options}}}\n", check_upstream="peft:" in options)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("lora: {use_vera: true, use_dora: true}", "lora.use_vera: excludes use_dora: give one"),
        ("lora: {use_vera: true, use_vblora: true}", "lora.use_vblora: excludes use_vera: give"),
        ("lora: {use_olora: true, use_dora: true}", "lora.use_olora: excludes use_dora: give one"),
        ("lora: {use_olora: true, init_strategy: pissa}", "use_olora: excludes init_strategy: pis"),
        ("lora: {use_vera: true, alpha: 16}", "lora.alpha: VeRA (use_vera) has no alpha"),
        ("lora: {use_vera: true, rank_pattern: {q: 2}}", "rank_pattern: VeRA (use_vera) has one"),
        ("lora: {use_vera: true, alpha_pattern: {q: 2}}", "alpha_pattern: VeRA (use_vera) has no"),
        ("lora: {use_vera: true, init_strategy: pissa}", "VeRA (use_vera) has an init of its own"),
        ("lora: {use_vera: true, exclude_modules: [q]}", "cannot leave modules out: give target_"),
        ("lora: {use_vblora: true, use_rslora: true}", "VB-LoRA (use_vblora) has no such option"),
        ("lora: {use_vblora: true}, loraplus_lr_ratio: 4", "loraplus_lr_ratio: VB-LoRA (lora.use_"),
        ("lora: {use_vera: true}, relora_steps: 4", "relora_steps: VeRA (lora.use_vera) has no A"),
        ("lora: {use_vera: true}, freeze_ratio: 0.5", "freeze_ratio: use_vera cannot leave layers"),
        ("lora: {init_strategy: pissa}, quantization: 4bit", "pissa needs an unquantized base"),
        ("lora: {use_olora: true}, quantization: 8bit", "use_olora: olora needs an unquantized"),
        ("lora: {init_strategy: corda}, quantization: gptq", "corda needs an unquantized base"),
        ("lora: {init_strategy: eva, use_dora: true}", "use_dora: excludes init_strategy: eva"),
        (
            "lora: {init_strategy: eva, dropout: 0.0, target_parameters: [x]}",
            "target_parameters: init_strategy: eva knows linear layers only",
        ),
        ("lora: {init_strategy: loftq}", "loftq starts from the error of a 4-bit base: it needs"),
        ("lora: {loftq_bits: 4}", "loftq_bits: needs init_strategy: loftq"),
        (
            "lora: {init_strategy: loftq, loftq_iter: 3, loftq_bits: 8}, quantization: 4bit",
            "loftq_iter: a second round moves the 4-bit base",
        ),
        ("lora: {init_strategy: lora_ga}", "lora_ga: PEFT takes its gradients from a base that"),
        ("lora: {init_strategy: orthogonal, r: 3}", "lora.r: init_strategy: orthogonal needs an"),
        ("lora: {rank_pattern: {q: true}}", "rank_pattern.q: should be a valid integer"),
        ("lora: {alpha_pattern: {q: 0}}", "alpha_pattern.q: should be greater than or equal to 1"),
        ("lora: {peft: {eva_config: {}}}", "peft.eva_config: needs init_strategy: eva"),
        (
            "lora: {init_strategy: corda, peft: {corda_config: {cache_file: x}}}",
            "peft.corda_config.cache_file: only corda_method, use_float16_for_covariance are taken",
        ),
        ("lora: {use_vera: true, peft: {lora_bias: true}}", "peft.lora_bias: no such option"),
        ("lora: {use_vera: true, peft: {save_projection: false}}", "without them the adapter depe"),
        ("lora: {use_vblora: true, peft: {save_only_topk_weights: true}}", "could not be resumed"),
        ("loraplus_lr_embedding: 1e-3", "loraplus_lr_embedding: needs loraplus_lr_ratio"),
        ("loraplus_lr_ratio: 4, optimizer: adalomo", "has one learning rate for all"),
        ("relora_mode: merge", "relora_mode: needs relora_steps"),
        ("relora_steps: 9, relora_restart_warmup: 2", "needs relora_mode: merge"),
        (
            "relora_steps: 9, relora_mode: merge, relora_restart_warmup: 9",
            "relora_restart_warmup: should be less than relora_steps",
        ),
        ("relora_steps: 9, lora: {init_strategy: pissa}", "factors hold a part of the base"),
        ("relora_steps: 9, optimizer: adamw_8bit", "relora_reset_optimizer: the state of adamw_8"),
        ("relora_steps: 9, relora_mode: merge, lora: {use_dora: true}", "which restarts plain A"),
        ("relora_steps: 9, relora_mode: merge, quantization: 8bit", "a quantized base takes none"),
        (
            "relora_steps: 9, relora_mode: merge, scheduler: reduce_lr_on_plateau",
            "merge needs a schedule that is a function of the step",
        ),
        (
            "relora_steps: 9, relora_mode: merge, relora_reset_optimizer: false, relora_prune_ratio: 0.9",
            "relora_prune_ratio: in relora_mode: merge it is the share of the optimizer's state",
        ),
        ("freeze_layers: 2, freeze_ratio: 0.5", "freeze_ratio: excludes freeze_layers"),
        (
            "freeze_layers: 2, lora: {target_modules: [q], layers_to_transform: [3]}",
            "freeze_layers: excludes lora.layers_to_transform",
        ),
        ("quantization: 4bit, reproducible: portable", "4bit excludes reproducible: portable"),
        ("use_galore: true", "an adapter's factors have a low rank already"),
    ],
)
def test_a_pair_that_excludes_each_other_is_refused_with_the_reason(
    options: str, what: str
) -> None:
    said = refusal(options)
    assert said.startswith("soup.yaml:3: ") or "\nsoup.yaml:3: " in said
    assert what in said


@pytest.mark.parametrize(
    "options",
    [
        "lora: {use_vera: true, alpha: 1}",
        "lora: {use_olora: true, init_strategy: olora}",
        "lora: {init_strategy: loftq, loftq_bits: 4, loftq_iter: 1}, quantization: 4bit",
        "relora_steps: 500, relora_warmup_ratio: 0.1, relora_prune_ratio: 0.9, relora_reset_optimizer: true",
        "relora_steps: 9, relora_mode: merge, relora_restart_warmup: 3, lora: {use_rslora: true}",
        "freeze_ratio: 0.75, loraplus_lr_ratio: 16.0, neftune_alpha: 5.0",
    ],
)
def test_what_goes_together_is_taken(options: str) -> None:
    assert load_config(f"{BASE}training: {{{options}}}\n", check_upstream=False)


def test_grpo_without_its_beta_compares_with_nothing() -> None:
    head = "base: m\ntask: grpo\ndata: {train: x}\ntraining: {reward_fn: format, lora: {"
    moved = load_config(head + "init_strategy: pissa}}\n", check_upstream=False)
    assert moved.compares == ""
    assert load_config(head + "r: 4}, grpo_beta: 0.1}\n", check_upstream=False).compares


def test_the_page_names_every_key_and_every_value() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "lora.md").read_text()
    general = {"r", "alpha", "dropout", "target_modules", "modules_to_save", "bias", "peft"}
    general |= {"layers_pattern"}
    keys = set(LoraBlock.model_fields) - general
    keys |= {k for k in TrainingBlock.model_fields if k.startswith(("lora", "relora_", "freeze_"))}
    assert not [name for name in keys | set(INITS) if f"`{name}" not in page and name != "lora"]
    assert all(name in page for name in (*PREQUANTIZED, *FORMATS))
