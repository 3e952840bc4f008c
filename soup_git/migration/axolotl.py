"""axolotl's YAML: what several of its keys say together, and its defaults.

Source: https://docs.axolotl.ai/docs/config-reference.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soup_git.migration import axolotlrows, launchers, reasons, trainerarguments
from soup_git.migration.axolotlkeys import CHAT_TEMPLATES, KEYS
from soup_git.migration.draft import Draft, Reading
from soup_git.migration.methods import carry_beta, choose
from soup_git.migration.rules import TOGETHER, Rule, Tool, table, to, whole


def _fallback(key: str) -> Rule | None:
    return trainerarguments.passed_on(key) if key.startswith("trl.") else None


# -- what several keys say together -----------------------------------------------------------


def decide(reading: Reading, draft: Draft) -> None:
    _method(reading, draft)
    _base(reading, draft)
    _adapter(reading, draft)
    _targets(reading, draft)
    _batch(reading, draft)
    launchers.carry(reading, draft)
    _precision(reading, draft)
    trainerarguments.warmup(draft)
    axolotlrows.rows(reading, draft)
    _template(reading, draft)
    _special_tokens(reading, draft)
    if reading.get("gradient_checkpointing") is not None:
        value = bool(reading.get("gradient_checkpointing"))
        draft.carry(
            "training.gradient_checkpointing", value, "gradient_checkpointing", matters=False
        )
    if reading.get("loss_watchdog_threshold") is not None:
        draft.carry("training.loss_watchdog", True, "loss_watchdog_threshold", matters=False)
    if reading.get("excess_length_strategy") not in (None, "truncate"):
        draft.lose(
            "rows longer than data.max_length are cut, and counted in the report",
            "excess_length_strategy",
        )
    if plugins := reading.get("plugins"):
        _plugins(draft, plugins)
    for key, value in (reading.get("trl") or {}).items() if draft.task == "grpo" else ():
        if KEYS.get(f"trl.{key}", TOGETHER).together and key != "beta":
            draft.apply(to(f"training.trl.{key}"), value, "trl", key)


def _method(reading: Reading, draft: Draft) -> None:
    chosen = reading.get("rl")
    if chosen:
        choose(draft, str(chosen), "rl")
    elif reading.get("reward_model"):
        choose(draft, "reward_model", "reward_model")
    elif reading.get("process_reward_model"):
        choose(draft, "prm", "process_reward_model")
    elif reading.get("pretraining_dataset"):
        choose(draft, "pretrain", "pretraining_dataset")
    for where in (("rl_beta",), ("dpo_beta",), ("trl", "beta")):
        carry_beta(draft, reading.get(*where), *where)
    if draft.task == "orpo":
        carry_beta(draft, reading.get("orpo_alpha"), "orpo_alpha")


def _base(reading: Reading, draft: Draft) -> None:
    for key in ("base_model_config", "tokenizer_config"):
        if reading.get(key) not in (None, "", reading.get("base_model")):
            draft.lose("config and tokenizer are the base's own", key)


def _adapter(reading: Reading, draft: Draft) -> None:
    adapter = reading.get("adapter")
    if adapter in (None, ""):
        draft.lose("no adapter means full fine-tuning; git-soup trains a LoRA", "adapter")
    elif adapter not in ("lora", "qlora"):
        draft.lose(f"{adapter} is not offered; git-soup trains a LoRA", "adapter")
    for key, value in (("load_in_4bit", "4bit"), ("load_in_8bit", "8bit")):
        if reading.get(key):
            draft.carry("training.quantization", value, key)


def _targets(reading: Reading, draft: Draft) -> None:
    named = reading.get("lora_target_modules")
    if reading.get("lora_target_linear"):
        draft.carry("training.lora.target_modules", "all-linear", "lora_target_linear")
    elif named:
        draft.carry("training.lora.target_modules", named, "lora_target_modules")


def _batch(reading: Reading, draft: Draft) -> None:
    size, total = reading.get("micro_batch_size"), reading.get("batch_size")
    draft.apply(to("training.batch_size", whole), size, "micro_batch_size")
    steps_ = reading.get("gradient_accumulation_steps")
    if steps_ is not None:
        draft.apply(
            to("training.gradient_accumulation_steps", whole), steps_, "gradient_accumulation_steps"
        )
    elif isinstance(total, int) and isinstance(size, int) and size > 0 and total % size == 0:
        draft.carry("training.gradient_accumulation_steps", total // size, "batch_size")
    elif total is not None:
        draft.lose(
            "training.batch_size times gradient_accumulation_steps is the batch", "batch_size"
        )


def _precision(reading: Reading, draft: Draft) -> None:
    if reading.get("bf16") == "full":
        draft.carry("training.precision", "bf16", "bf16")
        return
    for key, value in (("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32")):
        if reading.get(key):
            draft.carry("training.precision", value, key)
            return
    trainerarguments.precision(draft)


def _template(reading: Reading, draft: Draft) -> None:
    name = reading.get("chat_template")
    if name in (None, "", "tokenizer_default"):
        return
    draft.apply(
        to("data.chat_template", table(CHAT_TEMPLATES, reasons.OWN_TEMPLATE)), name, "chat_template"
    )


def _special_tokens(reading: Reading, draft: Draft) -> None:
    tokens = reading.get("special_tokens")
    for name, token in tokens.items() if isinstance(tokens, dict) else ():
        if token:
            # What pads a batch is masked, whichever token it is.
            draft.lose(reasons.TOKENIZER, "special_tokens", name, matters=name != "pad_token")


def _plugins(draft: Draft, plugins: Any) -> None:
    for i, name in enumerate(plugins if isinstance(plugins, list) else [plugins]):
        fast = any(part in str(name) for part in ("liger", "cut_cross_entropy", "kernels"))
        why = reasons.SPEED if fast else "plugins are axolotl's own"
        draft.lose(why, "plugins", i, matters=not fast)


def defaults(_task: str) -> Mapping[str, Any]:
    return {
        "data.val_split": 0.0,
        "data.max_length": 512,
        "training.epochs": 1.0,
        "training.scheduler": "cosine",
        "training.batch_size": 1,
        "training.gradient_accumulation_steps": 1,
        "training.optimizer": "adamw_torch_fused",
        "training.precision": "fp32",
        "training.lora.dropout": 0.0,
        "training.lora.target_modules": "auto",
    }


AXOLOTL = Tool(
    name="axolotl",
    title="axolotl",
    documentation="https://docs.axolotl.ai/docs/config-reference.html",
    keys=KEYS,
    marks=frozenset(
        {
            "base_model",
            "datasets",
            "micro_batch_size",
            "sequence_len",
            "adapter",
            "lora_r",
            "num_epochs",
            "val_set_size",
            "pretraining_dataset",
            "sample_packing",
        }
    ),
    defaults=defaults,
    decide=decide,
    fallback=_fallback,
    notes=(
        "rows longer than data.max_length: axolotl drops them, git-soup cuts and counts them",
        "warm-up where the config says nothing: 3% of the steps in both; axolotl stops at 100",
    ),
)
