"""LLaMA-Factory's second schema, `llamafactory.v1`: blocks with a `name`, and other defaults.

Its commands (`llamafactory-cli sft`, `dpo`, `rm`) say the method, so that a config alone need not.
Source: the argument classes of llamafactory 0.9.5, `llamafactory/v1/config`, and its trainer, which
keeps the learning rate constant and leaves torch's AdamW its weight decay unless blocks say other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soup_git.migration import reasons
from soup_git.migration.datasets import ONE_PATH, data_file
from soup_git.migration.draft import BASE, DATA, Draft, Reading
from soup_git.migration.llamafactory import LLAMAFACTORY, LOSSES, TEMPLATES, own_template
from soup_git.migration.methods import carry_beta, choose
from soup_git.migration.rules import (
    TOGETHER,
    Rule,
    Tool,
    cosmetic,
    lost,
    names,
    number,
    positive,
    steps,
    table,
    to,
    whole,
)

_SPLIT = (
    "how the GPUs share the model: training.launcher: accelerate, with training.fsdp or "
    "training.deepspeed, does this; the batch is that of each GPU"
)
_QUANTIZED = "a base is quantised by bitsandbytes, in 4 bits or 8"
_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "cosine"}
_FORMATS = {"alpaca": "alpaca", "sharegpt": "sharegpt"}
_PREFERENCE = (
    "pref_loss",
    "pref_beta",
    "pref_ftx",
    "simpo_gamma",
    "dpo_label_smoothing",
    "ld_alpha",
)

KEYS: dict[str, Rule] = {
    "model": to(BASE),
    "trust_remote_code": to("trust_remote_code"),
    "template": TOGETHER,
    "model_class": TOGETHER,
    "peft_config": TOGETHER,
    "peft_config.name": TOGETHER,
    "peft_config.r": to("training.lora.r", whole),
    "peft_config.lora_alpha": to("training.lora.alpha", whole),
    "peft_config.lora_dropout": to("training.lora.dropout", number),
    "peft_config.target_modules": to("training.lora.target_modules", names),
    "peft_config.modules_to_save": to("training.lora.modules_to_save", names),
    "peft_config.use_rslora": to("training.lora.use_rslora"),
    "peft_config.use_dora": to("training.lora.use_dora"),
    "peft_config.adapter_name_or_path": lost(reasons.FRESH),
    **dict.fromkeys(
        ("peft_config.export_*", "peft_config.infer_dtype"),
        cosmetic("is for exporting, not for training"),
    ),
    **dict.fromkeys(
        ("peft_config.freeze_*", "peft_config.cast_trainable_params_to_fp32"),
        cosmetic("belongs to a peft_config that is not offered"),
    ),
    "quant_config": TOGETHER,
    "train_dataset": TOGETHER,
    "eval_dataset": TOGETHER,
    "cutoff_len": to("data.max_length", whole),
    "output_dir": to("output", matters=False),
    "micro_batch_size": to("training.batch_size", whole),
    "global_batch_size": TOGETHER,
    "learning_rate": to("training.lr", number),
    "num_train_epochs": to("training.epochs", number),
    "max_steps": to("training.max_steps", positive),
    "max_grad_norm": to("training.max_grad_norm", number),
    "bf16": TOGETHER,
    "enable_activation_checkpointing": to("training.gradient_checkpointing", matters=False),
    "batching_strategy": TOGETHER,
    "seed": to("training.seed", whole),
    "save_steps": to("training.save_steps", steps, matters=False),
    "save_total_limit": to("training.save_total_limit", positive, matters=False),
    "logging_steps": to("training.logging_steps", steps, matters=False),
    "lr_scheduler_config": TOGETHER,
    "optim_config": lost("training.optimizer takes transformers' names"),
    "full_determinism": cosmetic("training.reproducible is exact by default"),
    "resume_from_checkpoint": lost(reasons.RESUMING),
    **dict.fromkeys(_PREFERENCE[:2], TOGETHER),
    "simpo_gamma": TOGETHER,
    "pref_ftx": lost("training.preference_loss_weights: {dpo: 1, sft: …} does this"),
    "dpo_label_smoothing": to("training.trl.label_smoothing", number),
    "ld_alpha": to("training.trl.ld_alpha", number),
    **dict.fromkeys(("dist_config", "dp_size", "mp_*", "dist_timeout"), cosmetic(_SPLIT)),
    "cp_size": lost("a sequence is not split over GPUs", 1),
    "cp_mode": cosmetic("belongs to cp_size"),
    "mtp_config": lost("no heads for further tokens are trained"),
    **dict.fromkeys(("save_epochs", "save_ckpt_as_hf"), cosmetic(reasons.SAVING)),
    **dict.fromkeys(
        ("flash_attn", "kernel_config", "init_config", "batching_workers"), cosmetic(reasons.SPEED)
    ),
    **dict.fromkeys(
        ("sample_backend", "max_new_tokens"), cosmetic("is for answering, not for training")
    ),
}  # fmt: skip

MARKS = frozenset(
    {
        "train_dataset",
        "peft_config",
        "quant_config",
        "kernel_config",
        "dist_config",
        "init_config",
        "model_class",
        "sample_backend",
        "batching_strategy",
        "enable_activation_checkpointing",
    }
)


def is_in_blocks(values: Mapping[str, Any]) -> bool:
    """Is a config of LLaMA-Factory's one of the second schema?"""
    return "model_name_or_path" not in values and bool({"model", *MARKS} & set(values))


def decide(reading: Reading, draft: Draft) -> None:
    listed = _listed(reading)
    _method(reading, draft, listed)
    _adapter(reading, draft)
    _quantization(reading, draft)
    _batches(reading, draft)
    bf16 = reading.get("bf16")
    if bf16 is not None:
        draft.carry("training.precision", "bf16" if bf16 else "fp32", "bf16")
    schedule = reading.get("lr_scheduler_config", "name")
    if reading.get("lr_scheduler_config") is not None:
        why = "training.scheduler takes transformers' names"
        draft.apply(to("training.scheduler", table(_SCHEDULES, why)), str(schedule),
                    "lr_scheduler_config")  # fmt: skip
    if reading.get("template") is not None:
        rule = to("data.chat_template", table(TEMPLATES, own_template))
        draft.apply(rule, reading.get("template"), "template")
    _rows(reading, draft, listed)


def _method(reading: Reading, draft: Draft, listed: Mapping[str, Any]) -> None:
    kind, loss = reading.get("model_class"), reading.get("pref_loss")
    given = next((key for key in _PREFERENCE if reading.get(key) is not None), None)
    if kind == "cls":
        choose(draft, "reward_model", "model_class")
    elif kind not in (None, "llm"):
        draft.lose(reasons.MODAL, "model_class")
    elif given is not None:
        name = "sigmoid" if loss is None else str(loss)
        choose(draft, LOSSES.get(name, name), given)
    elif any(info.get("converter") == "pair" for info in listed.values()):
        choose(draft, "dpo", "train_dataset")
    if draft.task not in ("sft", "reward_model"):
        carry_beta(draft, reading.get("pref_beta"), "pref_beta")
    gamma = reading.get("simpo_gamma")
    if gamma is not None and draft.task == "simpo":
        draft.apply(to("training.simpo_gamma", number), gamma, "simpo_gamma")


def _adapter(reading: Reading, draft: Draft) -> None:
    block = reading.get("peft_config")
    name = block.get("name") if isinstance(block, dict) else block
    if name != "lora":
        what = (
            "without one all of the base is trained" if name is None else f"{name} is not offered"
        )
        draft.lose(f"{what}; git-soup trains a LoRA", "peft_config")


def _quantization(reading: Reading, draft: Draft) -> None:
    block = reading.get("quant_config")
    if block is None:
        return
    said = block if isinstance(block, dict) else {}
    name, bits = said.get("name"), said.get("quantization_bit")
    if name not in ("bnb", "auto"):
        draft.lose(_QUANTIZED, "quant_config")
        return
    if bits is None and name == "auto":
        return  # nothing is quantised there
    choices = table({4: "4bit", 8: "8bit"}, _QUANTIZED)
    draft.apply(to("training.quantization", choices), 4 if bits is None else bits, "quant_config")
    if said.get("quantization_type", "nf4") != "nf4" or said.get("double_quantization") is False:
        draft.lose("4bit is nf4 with double quantisation", "quant_config")


def _batches(reading: Reading, draft: Draft) -> None:
    whole_batch, each = reading.get("global_batch_size"), reading.get("micro_batch_size") or 1
    if whole_batch is not None:
        counts = all(isinstance(n, int) and not isinstance(n, bool) for n in (whole_batch, each))
        if counts and each > 0 and whole_batch > 0 and whole_batch % each == 0:
            draft.carry(
                "training.gradient_accumulation_steps", whole_batch // each, "global_batch_size"
            )
        else:
            draft.lose("is not a multiple of micro_batch_size", "global_batch_size")
    strategy = reading.get("batching_strategy")
    if strategy in ("dynamic_batching", "dynamic_padding_free"):
        draft.lose("a batch is a number of rows, not of tokens", "batching_strategy")
    elif strategy not in (None, "normal", "padding_free"):
        draft.lose("is not known", "batching_strategy")


def _listed(reading: Reading) -> dict[str, Any]:
    """The datasets that train_dataset names, by their names in its file."""
    path = reading.get("train_dataset")
    known = reading.beside(path) if _is_list(path) else None
    return (
        {str(k): v for k, v in known.items() if isinstance(v, dict)}
        if isinstance(known, dict)
        else {}
    )


def _is_list(path: Any) -> bool:
    return isinstance(path, str) and path.endswith((".yaml", ".yml"))


def _rows(reading: Reading, draft: Draft, listed: Mapping[str, Any]) -> None:
    path, held_out = reading.get("train_dataset"), reading.get("eval_dataset")
    if not isinstance(path, str):
        draft.stand_in(DATA, "the config names no dataset", "train_dataset")
    elif not _is_list(path):
        data_file(draft, path, "train_dataset")
    elif not listed:
        why = f"{path} lists the datasets, and is not beside the config: write the path of a file"
        draft.stand_in(DATA, why, "train_dataset")
    else:
        _dataset(draft, *next(iter(listed.items())))
        for name in list(listed)[1:]:
            draft.lose(f"{name}: {ONE_PATH}", "train_dataset")
    if isinstance(held_out, str) and not _is_list(held_out):
        data_file(draft, held_out, "eval_dataset", to="data.validation")
    elif held_out is not None:
        draft.lose("data.validation names a file of rows", "eval_dataset")


def _dataset(draft: Draft, name: str, info: dict[str, Any]) -> None:
    at = "train_dataset"
    path, folder = info.get("path", info.get("file_name")), info.get("dataset_dir")
    if not isinstance(path, str):
        draft.stand_in(DATA, f"{name} has no path", at)
        return
    where = f"{folder}/{path}" if isinstance(folder, str) else path
    if data_file(draft, where, at):
        converter = info.get("converter")
        if converter in _FORMATS:
            draft.carry("data.format", _FORMATS[converter], at)
        elif converter not in (None, "pair"):
            draft.lose(f"{name}: its rows are made by the converter {converter}", at)
    if any(info.get(key) for key in ("size", "weight", "num_samples")):
        draft.lose(f"{name}: rows are drawn from it there; all of them are trained here", at)


def defaults(_task: str) -> Mapping[str, Any]:
    return {
        "data.val_split": 0.0,
        "data.max_length": 2048,
        "training.epochs": 3,
        "training.lr": 1e-4,
        "training.scheduler": "constant",
        "training.warmup_steps": 0,
        "training.batch_size": 1,
        "training.gradient_accumulation_steps": 1,
        "training.optimizer": "adamw_torch",
        "training.weight_decay": 0.01,
        "training.max_grad_norm": 1.0,
        "training.precision": "bf16",
        "training.gradient_checkpointing": True,
        "training.seed": 42,
        "training.lora.r": 8,
        "training.lora.alpha": 16,
        "training.lora.dropout": 0.05,
        "training.lora.target_modules": "all-linear",
    }


LLAMAFACTORY_BLOCKS = Tool(
    name=LLAMAFACTORY.name,
    title=f"{LLAMAFACTORY.title} (v1)",
    documentation="https://llamafactory.readthedocs.io/en/latest/",
    keys=KEYS,
    marks=MARKS,
    defaults=defaults,
    decide=decide,
    notes=(
        "the command says the method there (sft, dpo, rm), and task here",
        "turns are written by templates of its own there: git soup data show 1 --tokens",
        "global_batch_size is that of all GPUs there; gradient_accumulation_steps that of one here",
    ),
)
