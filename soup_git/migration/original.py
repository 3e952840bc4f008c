"""The original soup-cli's soup.yaml: the same shape, more keys, other defaults.

Source: https://github.com/MakazhanAlpamys/Soup (src/soup_cli/config/schema.py, 0.77)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soup_git.core.diagnosis import POLICY_TASKS
from soup_git.migration import reasons
from soup_git.migration.datasets import ONE_PATH, data_file
from soup_git.migration.draft import DATA, Draft, Reading
from soup_git.migration.methods import choose
from soup_git.migration.rules import (
    TOGETHER,
    Rule,
    Tool,
    above_zero,
    cosmetic,
    lost,
    table,
    to,
)
from soup_git.migration.target import has_key

_OWN_TEMPLATE = (
    "the tokenizer's own chat template is used; a .jinja file of the workspace is another"
)
_WATCHING = "git soup eval, training.eval_gate and git soup bisect look at a run's quality"

TEMPLATES = {
    "chatml": "chatml",
    "llama3": "llama3",
    "qwen2.5": "qwen2_5",
    "gemma3": "gemma3",
    "deepseek-r1": "deepseek_r1_distill",
}
_CHECKPOINTING = {True: True, False: False, "selective": True, "medium": True, "full": True,
                  "auto": True}  # fmt: skip

KEYS: dict[str, Rule] = {
    "task": TOGETHER,
    "modality": lost(reasons.MODAL, "text"),
    "backend": cosmetic("transformers and PEFT train"),
    "experiment_name": cosmetic("a run's name is its commit: git soup log"),
    "eval": cosmetic(_WATCHING),
    "advise": cosmetic(_WATCHING),
    "data.train": TOGETHER,
    "data.train_on_responses_only": TOGETHER,
    "data.train_on_prompt": lost("training.assistant_only_loss: false does this"),
    "data.mask_history": lost("all of the assistant's turns are learnt"),
    "data.chat_template": to("data.chat_template", table(TEMPLATES, _OWN_TEMPLATE)),
    "data.buffer_size": cosmetic(reasons.SPEED),
    "data.streaming": cosmetic(reasons.SPEED),
    "data.remove_unused_columns": cosmetic("columns that are not read are named in the report"),
    "data.image_*": lost(reasons.MODAL, "bicubic"),
    "data.video_*": lost(reasons.MODAL),
    "data.audio_*": lost(reasons.MODAL),
    "training.lora.use_olora": TOGETHER,
    "training.lora.loftq_*": cosmetic("belongs to init_strategy: loftq"),
    "training.gradient_checkpointing": to(
        "training.gradient_checkpointing", table(_CHECKPOINTING, ""), matters=False
    ),
    "training.multipack": to("training.packing"),
    "training.packing_cross_doc_attn_mask": cosmetic("packed rows never see each other"),
    "training.neftune_alpha": to("training.neftune_alpha", above_zero),
    "training.load_in_8bit": to("training.quantization", table({True: "8bit"}, "is quantization")),
    "training.load_in_16bit": cosmetic("training.quantization: none is the default"),
    "training.auto_batch_size_strategy": cosmetic("training.batch_size: auto tries real steps"),
    **dict.fromkeys(
        (
            *("training.use_liger", "training.use_flash_attn", "training.use_cut_ce"),
            *("training.kernel_auto_compose", "training.activation_offloading"),
            "training.use_fsdp2_compile",
            *("training.gptq_disable_exllama", "training.bnb_4bit_quant_storage"),
            *("training.stream_*", "training.hub", "training.vllm_sleep_mode"),
        ),
        cosmetic(reasons.SPEED),
    ),
    **dict.fromkeys(
        (
            *("training.forgetting_*", "training.checkpoint_*", "training.convergence_*"),
            *("training.early_stop_*", "training.echo_trap_*", "training.rl_checkpoint_*"),
        ),
        cosmetic(_WATCHING),
    ),
    "training.early_stop_on_regression": lost("training.eval_gate ends a run that regresses"),
    "training.convergence_detection": lost("training ends after training.epochs"),
    "training.moe_lora": lost(
        "training.lora.target_modules and target_parameters name the experts' weights"
    ),
    "training.grpo_fp16": to("training.precision", table({True: "fp16"}, "is precision")),
    "training.auto_mixed_precision": cosmetic("training.precision: auto is the default"),
}


def _fallback(key: str) -> Rule:
    if has_key(key):
        return to(key)
    return lost("this version of git-soup has no such option")


def decide(reading: Reading, draft: Draft) -> None:
    task = reading.get("task")
    if task is not None:
        choose(draft, str(task), "task")
    train = reading.get("data", "train")
    paths = train if isinstance(train, list) else [train]
    if not paths or not isinstance(paths[0], str):
        draft.stand_in(DATA, "the config names no dataset", "data", "train")
    else:
        data_file(draft, paths[0], "data", "train")
        for path in paths[1:]:
            draft.lose(f"{path}: {ONE_PATH}", "data", "train")
    only = reading.get("data", "train_on_responses_only")
    if only is not None and draft.task == "sft":
        draft.apply(to("training.assistant_only_loss"), only, "data", "train_on_responses_only")
    if reading.get("training", "lora", "use_olora"):
        draft.carry("training.lora.init_strategy", "olora", "training", "lora", "use_olora")


def defaults(task: str) -> Mapping[str, Any]:
    found = {
        "data.val_split": 0.1,
        "data.max_length": 2048,
        "training.epochs": 3,
        "training.lr": 2e-5,
        "training.scheduler": "cosine",
        "training.gradient_accumulation_steps": 4,
        "training.weight_decay": 0.01,
        "training.quantization": "4bit",
        "training.lora.r": 64,
        "training.lora.alpha": 16,
        "training.lora.dropout": 0.05,
        "training.lora.target_modules": "auto",
    }
    return found if task in POLICY_TASKS else found | {"training.batch_size": "auto"}


ORIGINAL = Tool(
    name="soup",
    title="soup-cli",
    documentation="https://github.com/MakazhanAlpamys/Soup",
    keys=KEYS,
    marks=frozenset({"base", "data", "training"}),
    defaults=defaults,
    decide=decide,
    fallback=_fallback,
    notes=(
        "grpo, rloo: batch_size is found by soup-cli where the config gives none, here it is 8",
    ),
)
