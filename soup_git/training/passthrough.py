"""Options of TRL's and PEFT's config classes under their own names: which are taken.

`training.trl` and `training.lora.peft` reach every option that is not in `soup.yaml` under
a name of its own, and that does what it says here. The rest is refused with the reason.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from soup_git.core.yamllines import Where, nearest
from soup_git.training import optimizers, upstream
from soup_git.training.choosing import chosen
from soup_git.training.lora.kinds import KINDS
from soup_git.training.tasks import TASKS

# Options of TRL's config that soup.yaml has under a name of its own, and those that would
# not do what they say here. A name ending in * stands for all that start so.
TRL_IS_OURS = {
    "num_train_epochs": "training.epochs",
    "max_steps": "training.max_steps",
    "learning_rate": "training.lr",
    "lr_scheduler_type": "training.scheduler",
    "warmup_steps": "training.warmup_steps or training.warmup_ratio",
    "per_device_train_batch_size": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "weight_decay": "training.weight_decay",
    "max_grad_norm": "training.max_grad_norm",
    "optim": "training.optimizer",
    "neftune_noise_alpha": "training.neftune_alpha",
    "packing": "training.packing",
    "assistant_only_loss": "training.assistant_only_loss",
    "completion_only_loss": "training.assistant_only_loss",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "activation_checkpointing": "training.gradient_checkpointing",
    "bf16": "training.precision",
    "fp16": "training.precision",
    "use_cpu": "training.device",
    "seed": "training.seed",
    "save_steps": "training.save_steps",
    "save_strategy": "training.save_steps",
    "save_total_limit": "training.save_total_limit",
    "eval_steps": "training.eval_steps",
    "eval_strategy": "training.eval_steps",
    "logging_steps": "training.logging_steps",
    "logging_strategy": "training.logging_steps",
    "max_length": "data.max_length",
    "chat_template_path": "data.chat_template",
    "trust_remote_code": "trust_remote_code",
    "disable_dropout": "training.lora.dropout: 0",
    "output_dir": "output",
    "resume_from_checkpoint": "training.resume",
}
TRL_REFUSED = {
    "report_to": "trackers are off: the run's history is in git",
    "run_name": "trackers are off: the run's history is in git",
    "project": "trackers are off: the run's history is in git",
    "trackio_*": "trackers are off: the run's history is in git",
    "push_to_hub": "nothing is uploaded while training",
    "hub_*": "nothing is uploaded while training",
    "full_determinism": "training.reproducible does this",
    "save_only_model": "a checkpoint could not be resumed",
    "ignore_data_skip": "a resumed run would see other rows",
    "enable_jit_checkpoint": "Ctrl-C saves already",
    "save_on_each_node": "there is one machine",
    "log_on_each_node": "there is one machine",
    "restore_callback_states_from_checkpoint": "git-soup restores its own state",
    "load_best_model_at_end": "the output is the last step; pick another with run/ID@STEP",
    "metric_for_best_model": "the output is the last step; pick another with run/ID@STEP",
    "greater_is_better": "the output is the last step; pick another with run/ID@STEP",
    "auto_find_batch_size": "training.batch_size: auto finds one first, and writes it down",
    "do_train": "has no effect in the trainer",
    "do_eval": "has no effect in the trainer",
    "do_predict": "has no effect in the trainer",
    "disable_tqdm": "progress is shown on a terminal only",
    "log_level": "has no effect here",
    "log_level_replica": "has no effect here",
    "logging_first_step": "the curve is kept per training.logging_steps",
    "debug": "has no effect here",
    "local_rank": "the launcher says it",
    "fsdp*": "that is training.fsdp, fsdp_layers and fsdp_min_num_params here",
    "deepspeed": "that is training.deepspeed and deepspeed_zero here",
    "parallelism_config": "processes share the rows; training.fsdp and deepspeed split the model",
    "average_tokens_across_devices": "a token counts the same in every process",
    "dataset_text_field": "rows are tokenized before TRL sees them",
    "dataset_kwargs": "rows are tokenized before TRL sees them",
    "eos_token": "set it in the base's tokenizer",
    "pad_token": "set it in the base's tokenizer",
    "truncation_mode": "rows are cut at their end, at data.max_length",
    "remove_unused_columns": "rows are tokenized before TRL sees them",
    "label_names": "rows are tokenized before TRL sees them",
    "length_column_name": "rows have no such column: their tokens are counted",
    "include_for_metrics": "no metric function runs in training",
    "batch_eval_metrics": "no metric function runs in training",
    "prediction_loss_only": "no metric function runs in training",
    "eval_do_concat_batches": "no metric function runs in training",
    "eval_use_gather_object": "no metric function runs in training",
    "eval_accumulation_steps": "no metric function runs in training",
    "bf16_full_eval": "the last validation would round the adapter before it is saved",
    "fp16_full_eval": "the last validation would round the adapter before it is saved",
    "logging_nan_inf_filter": "a loss that is not finite ends the training",
    "include_num_input_tokens_seen": "would write wall-clock values",
    "skip_memory_metrics": "would write wall-clock values",
    "activation_checkpointing_kwargs": "use gradient_checkpointing_kwargs",
    "dataset_num_proc": "rows are tokenized before TRL sees them",
    "optim_target_modules": "only GaLore and APOLLO read it, and an adapter trains with neither",
    "use_cache": "training has no use for a cache of what was generated",
    "padding_free": "TRL's trainers of preferences have it switched off",
    "sync_ref_model": "the reference is the base",
    "ref_model_*": "the reference is the base",
}
PEFT_IS_OURS = {
    "r": "training.lora.r",
    "vera_dropout": "training.lora.dropout",
    "vblora_dropout": "training.lora.dropout",
    "lora_alpha": "training.lora.alpha",
    "lora_dropout": "training.lora.dropout",
    "init_lora_weights": "training.lora.init_strategy",
    "base_model_name_or_path": "base",
    "revision": "revision",
    "target_modules": "training.lora.target_modules",
    "exclude_modules": "training.lora.exclude_modules",
    "modules_to_save": "training.lora.modules_to_save",
    "bias": "training.lora.bias",
    "use_dora": "training.lora.use_dora",
    "use_rslora": "training.lora.use_rslora",
    "rank_pattern": "training.lora.rank_pattern",
    "alpha_pattern": "training.lora.alpha_pattern",
    "layers_to_transform": "training.lora.layers_to_transform",
    "layers_pattern": "training.lora.layers_pattern",
    "target_parameters": "training.lora.target_parameters",
}
PEFT_REFUSED = {
    "peft_type": "lora is what this block configures",
    "task_type": "the task decides it",
    "auto_mapping": "the task decides it",
    "peft_version": "PEFT writes it",
    "inference_mode": "the trainer decides it",
    "megatron_*": "Megatron is not offered",
    "loftq_config": "that is training.lora.loftq_bits and loftq_iter here",
    "use_qalora": "PEFT pools the inputs in it, which no other tool that reads the adapter does",
    "qalora_group_size": "PEFT pools the inputs in it, which no other tool that reads it does",
    "lora_ga_config": "init_strategy: lora_ga is not offered",
    "init_weights": "the adapter would not start from zero",
    "save_only_topk_weights": "a checkpoint could not be resumed",
    "save_projection": "without them the adapter depends on torch's random numbers",
    "fan_in_fan_out": "PEFT looks at the layers, whatever is said here",
    "arrow_config": "it chooses among adapters that are there already, and trains none",
    "monteclora_config": "the trainer would have to add its part of the loss, and TRL's do not",
    "runtime_config": "is not saved, so the adapter would not be what was trained",
}
_MODEL_KWARGS_OURS = {
    *("revision", "trust_remote_code", "dtype", "torch_dtype", "use_safetensors"),
    *("device_map", "quantization_config", "load_in_4bit", "load_in_8bit"),
}


def check(raw: dict[str, Any]) -> Iterator[tuple[Where, str]]:
    """What the installed TRL, PEFT and transformers would not take, key by key."""
    training = mapping(raw, "training")
    name, loss = str(raw.get("task", "sft")), training.get("preference_loss")
    task = chosen(name if name in TASKS else "sft", loss if isinstance(loss, str) else None)
    missing = [package for package in task.packages if not upstream.installed(package)]
    for package in missing:
        yield ("task",), f"{name} needs {package}: {upstream.extra_of(package)}"
    if missing:
        return  # the names of its options are in there, too
    lora = mapping(training, "lora")
    trl = mapping(training, "trl")
    ours = TRL_IS_OURS | {new: f"training.{key}" for key, new in task.options.items() if new}
    refused = {**TRL_REFUSED, **task.refuses}
    if training.get("launcher") != "accelerate":
        refused["ddp_*"] = "needs training.launcher: accelerate"
    refused |= {name: f"task {task.name} sets it" for name in task.sets if name not in ours}
    yield from _options(
        ("training", "trl"), trl, upstream.options(task.config_sources), ours, refused
    )
    for name in sorted(_MODEL_KWARGS_OURS & set(mapping(trl, "model_init_kwargs"))):
        yield ("training", "trl", "model_init_kwargs", name), "is git-soup's to decide"
    yield from _generation(mapping(trl, "generation_kwargs"))
    yield from _peft(lora)
    yield from _deepspeed(training)
    names = upstream.enum_values("transformers", "trainer_utils.py", "SchedulerType")
    scheduler = training.get("scheduler")
    if isinstance(scheduler, str) and scheduler not in names:
        yield ("training", "scheduler"), f"{scheduler} is not one of {', '.join(names)}"
    yield from optimizers.check(training.get("optimizer"))
    if trl.get("use_liger_kernel") is True and not upstream.installed("liger_kernel"):
        yield (
            ("training", "trl", "use_liger_kernel"),
            "needs liger_kernel, which is not installed: pip install liger-kernel",
        )
    quantization = training.get("quantization")
    if quantization in {"4bit", "8bit"} and not upstream.installed("bitsandbytes"):
        yield (
            ("training", "quantization"),
            f"{quantization} needs bitsandbytes, which is not installed: pip install 'git-soup[quantized]'",
        )


# What TRL says itself when it generates, and counts on when it computes the loss.
_GENERATION_OURS = {
    **{
        name: f"training.trl.{name}"
        for name in (
            *("temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
            "cache_implementation",
        )
    },
    "max_new_tokens": "training.trl.max_completion_length",
    "max_length": "training.trl.max_completion_length",
    "num_return_sequences": "training.num_generations",
}
_GENERATION_SET = {
    "do_sample": "the answers of a group have to differ",
    "num_beams": "the answers of a group have to differ",
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), "the tokenizer decides it"),
    **dict.fromkeys(
        (
            *("return_dict_in_generate", "output_scores", "output_logits"),
            *("output_attentions", "output_hidden_states"),
        ),
        "TRL reads tokens only",
    ),
}


def _generation(given: dict[str, Any]) -> Iterator[tuple[Where, str]]:
    """transformers keeps a name that it does not know, and generates as if it were not there."""
    source = ("transformers", "generation/configuration_utils.py", "GenerationConfig")
    known = {name: upstream.Option(name, None, None) for name in upstream.popped(*source)}
    at: Where = ("training", "trl", "generation_kwargs")
    yield from _options(at, given, known, _GENERATION_OURS, _GENERATION_SET)


_OF_AN_INIT = {"eva_config": "eva", "corda_config": "corda"}
_CORDA_OPTIONS = {"corda_method", "use_float16_for_covariance"}


def _peft(lora: dict[str, Any]) -> Iterator[tuple[Where, str]]:
    """What is wrong under `training.lora.peft`, for the kind of adapter that the block makes."""
    at: Where = ("training", "lora", "peft")
    peft = mapping(lora, "peft")
    kind = next((k for k in KINDS if lora.get(f"use_{k}") is True), "lora")
    known = upstream.options(KINDS[kind].sources)
    yield from _options(at, peft, known, PEFT_IS_OURS, PEFT_REFUSED)
    for name, init in _OF_AN_INIT.items():
        if name in peft and lora.get("init_strategy") != init:
            yield (*at, name), f"needs init_strategy: {init}"
    for name in mapping(peft, "corda_config"):
        if name not in _CORDA_OPTIONS:
            # Its cache files are pickles, and a cached init is no function of the config.
            yield (*at, "corda_config", name), f"only {', '.join(sorted(_CORDA_OPTIONS))} are taken"


def _deepspeed(training: dict[str, Any]) -> Iterator[tuple[Where, str]]:
    if training.get("deepspeed") is None:
        return
    if not upstream.installed("deepspeed"):
        yield ("training", "deepspeed"), f"needs deepspeed: {upstream.extra_of('deepspeed')}"
        return
    known = upstream.options((("deepspeed", "runtime/zero/config.py", "DeepSpeedZeroConfig"),))
    ours = {"stage": "training.deepspeed"}
    zero = mapping(training, "deepspeed_zero")
    yield from _options(("training", "deepspeed_zero"), zero, known, ours, {})


def _options(
    at: Where,
    given: dict[str, Any],
    known: dict[str, upstream.Option],
    ours: dict[str, str],
    refused: dict[str, str],
) -> Iterator[tuple[Where, str]]:
    for name, value in given.items():
        reasons = [why for key, why in refused.items() if _matches(name, key)]
        if name in ours:
            yield (*at, name), f"that is {ours[name]} here"
        elif reasons:
            yield (*at, name), f"is not taken: {reasons[0]}"
        elif name not in known:
            free = [k for k in known if not any(_matches(k, key) for key in refused)]
            yield (*at, name), f"no such option{nearest(name, free)}"
        elif refusal := known[name].refusal(value):
            yield (*at, name), refusal


def _matches(name: str, key: str) -> bool:
    return fnmatch.fnmatchcase(name, key)


def mapping(block: dict[str, Any], key: str) -> dict[str, Any]:
    """The block under `key`, empty when it is not one (which the schema reports)."""
    value = block.get(key)
    return value if isinstance(value, dict) else {}
