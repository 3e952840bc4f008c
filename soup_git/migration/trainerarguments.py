"""Options of transformers' TrainingArguments and TRL's configs, which several tools hand on.

Source: https://huggingface.co/docs/transformers/main_classes/trainer and
https://huggingface.co/docs/trl/sft_trainer. An option that is not here goes under
`training.trl` by its own name, where the installed versions say whether they have it.
"""

from __future__ import annotations

from soup_git.migration import launchers, reasons
from soup_git.migration.draft import Draft
from soup_git.migration.rules import (
    TOGETHER,
    Code,
    Rule,
    above_zero,
    cosmetic,
    lost,
    number,
    opposite,
    positive,
    steps,
    to,
    whole,
)

_LOGGING = "has no effect on training"

ARGUMENTS: dict[str, Rule] = {
    "output_dir": to("output", matters=False),
    "num_train_epochs": to("training.epochs", number),
    "max_steps": to("training.max_steps", positive),
    "learning_rate": to("training.lr", number),
    "lr_scheduler_type": to("training.scheduler"),
    "warmup_ratio": TOGETHER,
    "warmup_steps": TOGETHER,
    "per_device_train_batch_size": to("training.batch_size", whole),
    "auto_find_batch_size": lost(reasons.HALVES),
    "gradient_accumulation_steps": to("training.gradient_accumulation_steps", whole),
    "weight_decay": to("training.weight_decay", number),
    "max_grad_norm": to("training.max_grad_norm", number),
    "optim": to("training.optimizer"),
    "neftune_noise_alpha": to("training.neftune_alpha", above_zero),
    "gradient_checkpointing": to("training.gradient_checkpointing", matters=False),
    "seed": to("training.seed", whole),
    "save_steps": to("training.save_steps", steps, matters=False),
    "save_total_limit": to("training.save_total_limit", positive, matters=False),
    "eval_steps": to("training.eval_steps", steps, matters=False),
    "logging_steps": to("training.logging_steps", steps, matters=False),
    "packing": to("training.packing"),
    "max_length": to("data.max_length", whole),
    "max_seq_length": to("data.max_length", whole),
    "assistant_only_loss": to("training.assistant_only_loss"),
    "completion_only_loss": to("training.assistant_only_loss"),
    "num_generations": to("training.num_generations", whole),
    "train_on_prompt": to("training.assistant_only_loss", opposite),
    "bf16": TOGETHER,
    "fp16": TOGETHER,
    "do_train": lost("the config trains nothing", True),
    **dict.fromkeys(("do_eval", "do_predict", "predict_with_generate"), cosmetic(reasons.EVALUATING)),
    **dict.fromkeys(
        ("report_to", "run_name", "project", "logging_dir", "logging_strategy", "trackio_space_id",
         "include_num_input_tokens_seen", "include_tokens_per_second", "skip_memory_metrics"),
        cosmetic(reasons.TRACKING),
    ),
    **dict.fromkeys(("push_to_hub", "hub_*"), cosmetic(reasons.UPLOAD)),
    **dict.fromkeys(
        ("save_strategy", "save_safetensors", "save_only_model", "overwrite_output_dir",
         "save_on_each_node"), cosmetic(reasons.SAVING),
    ),
    **dict.fromkeys(
        ("eval_strategy", "evaluation_strategy", "per_device_eval_batch_size", "eval_on_start",
         "eval_accumulation_steps", "eval_delay", "bf16_full_eval", "fp16_full_eval",
         "prediction_loss_only", "batch_eval_metrics", "eval_packing"),
        cosmetic(reasons.EVALUATING),
    ),
    **dict.fromkeys(
        ("dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
         "dataloader_persistent_workers", "dataset_num_proc", "tf32", "torch_compile*",
         "use_liger_kernel", "liger_kernel_config", "torch_empty_cache_steps", "pad_to_multiple_of",
         "gradient_checkpointing_kwargs", "include_for_metrics", "padding_free"),
        cosmetic(reasons.SPEED),
    ),
    **dict.fromkeys(
        ("disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step",
         "logging_nan_inf_filter", "debug", "remove_unused_columns", "label_names", "log_completions",
         "dataset_text_field", "skip_prepare_dataset", "use_cpu", "no_cuda", "local_rank"),
        cosmetic(_LOGGING),
    ),
    **launchers.KEYS,
    **dict.fromkeys(
        ("fsdp*", "parallelism_config", "accelerator_config"),
        lost("processes share the rows, or split the model by training.fsdp or training.deepspeed"),
    ),
    "ddp_*": cosmetic(launchers.BATCH),
    **dict.fromkeys(
        ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"), lost(reasons.BEST)
    ),
    "group_by_length": lost("rows are drawn at random; training.packing wastes no padding either"),
    "resume_from_checkpoint": lost(reasons.RESUMING),
    "dataset_kwargs": lost("rows are tokenized before TRL sees them"),
    "data_seed": lost("training.seed decides the order of rows too"),
    "full_determinism": cosmetic("training.reproducible is exact by default"),
}  # fmt: skip


def passed_on(key: str) -> Rule:
    """An option that no table has, by its own name."""
    return to(f"training.trl.{key.rpartition('.')[2]}")


def warmup(draft: Draft, *section: str) -> None:
    """`warmup_steps` wins over `warmup_ratio`, and below 1 it is a share itself."""
    count = draft.reading.get(*section, "warmup_steps")
    share = draft.reading.get(*section, "warmup_ratio")
    for key, value in (("warmup_steps", count), ("warmup_ratio", share)):
        if isinstance(value, Code):
            draft.apply(to(f"training.{key}"), value, *section, key)
            return
    if count:
        name = "warmup_ratio" if isinstance(count, float) and count < 1 else "warmup_steps"
        how = None if name == "warmup_ratio" else whole
        draft.apply(to(f"training.{name}", how), count, *section, "warmup_steps")
    elif share is not None:
        draft.apply(to("training.warmup_ratio", number), share, *section, "warmup_ratio")
    elif count is not None:
        draft.carry("training.warmup_steps", 0, *section, "warmup_steps")


PROBES = ("is_bfloat16_supported", "is_bf16_supported")


def precision(draft: Draft, *section: str) -> None:
    """`bf16` and `fp16` are one choice here; one that asks the GPU is `auto`."""
    found = {key: draft.reading.get(*section, key) for key in ("bf16", "fp16")}
    for key, value in found.items():
        if isinstance(value, Code):
            if any(probe in value for probe in PROBES):
                draft.carry("training.precision", "auto", *section, key, matters=False)
            else:
                draft.apply(to("training.precision"), value, *section, key)
            return
    if found["bf16"] == "auto":
        draft.carry("training.precision", "auto", *section, "bf16")
        return
    for key, value in found.items():
        if value:
            draft.carry("training.precision", key, *section, key)
            return
    for key, value in found.items():
        if value is False:
            draft.carry("training.precision", "fp32", *section, key)
            return
