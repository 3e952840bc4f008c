"""The keys of axolotl's YAML, one rule each.

Source: https://docs.axolotl.ai/docs/config-reference.html
"""

from __future__ import annotations

from typing import Any

from soup_git.migration import launchers, reasons
from soup_git.migration.draft import BASE
from soup_git.migration.rules import (
    TOGETHER,
    CannotCarryError,
    Rule,
    above_zero,
    cosmetic,
    lost,
    number,
    positive,
    split_share,
    steps,
    to,
    under,
    whole,
)

_ATTENTION = "speed only; training.trl.model_init_kwargs: {attn_implementation: …} chooses one"
_MEMORY = "where things are held in memory, not what is learnt"
_PARALLEL = "processes share the rows, or split the model by training.fsdp or training.deepspeed"
_GENERATION = "an adapter's answers are looked at with git soup eval, not while it trains"

CHAT_TEMPLATES = {
    "chatml": "chatml",
    "llama3": "llama3",
    "gemma": "gemma",
    "gemma3": "gemma3",
    "qwen_25": "qwen2_5",
    "qwen3": "qwen3",
    "phi_3": "phi3",
    "phi_35": "phi3_5",
    "deepseek_v3": "deepseekv3",
    "cohere": "cohere",
}
# Names that axolotl registers itself: transformers has none of them.
OWN_OPTIMIZERS = (
    *("optimi_adamw", "ao_adamw_4bit", "ao_adamw_8bit", "ao_adamw_fp8", "adopt_adamw"),
    *("came_pytorch", "muon", "dion", "sinkgd", "q_galore_adamw8bit"),
)


def _init(value: Any) -> Any:
    if value is True:
        return "random"
    if value is False:
        raise CannotCarryError("an adapter that starts with random B is not offered")
    return value


def _optimizer(value: Any) -> Any:
    if value in OWN_OPTIMIZERS or str(value).startswith("flash_"):
        raise CannotCarryError(f"{value} is axolotl's own; transformers' names go here")
    return value


def _scheduler(value: Any) -> Any:
    if value in ("one_cycle", "rex"):
        raise CannotCarryError(f"{value} is axolotl's own; transformers' names go here")
    return value


def _long_rows(value: Any) -> Any:
    if value == "truncate":
        return True
    raise CannotCarryError("rows longer than data.max_length are cut, and counted in the report")


LORA: dict[str, Rule] = {
    "adapter": TOGETHER,
    "load_in_4bit": TOGETHER,
    "load_in_8bit": TOGETHER,
    "lora_r": to("training.lora.r", whole),
    "lora_alpha": to("training.lora.alpha", whole),
    "lora_dropout": to("training.lora.dropout", number),
    "lora_target_modules": TOGETHER,
    "lora_target_linear": TOGETHER,
    "lora_target_parameters": to("training.lora.target_parameters"),
    "lora_modules_to_save": to("training.lora.modules_to_save"),
    "lora_rank_pattern": to("training.lora.rank_pattern"),
    "lora_alpha_pattern": to("training.lora.alpha_pattern"),
    "lora_fan_in_fan_out": to("training.lora.peft.fan_in_fan_out"),
    "lora_model_dir": lost(reasons.FRESH),
    "lora_on_cpu": cosmetic(_MEMORY),
    "peft_use_dora": to("training.lora.use_dora"),
    "peft_use_rslora": to("training.lora.use_rslora"),
    "peft_init_lora_weights": to("training.lora.init_strategy", _init),
    "peft_layers_to_transform": to("training.lora.layers_to_transform"),
    "peft_layers_pattern": to("training.lora.layers_pattern"),
    "peft_layer_replication": to("training.lora.peft.layer_replication"),
    "peft_trainable_token_indices": to("training.lora.peft.trainable_token_indices"),
    "peft_ensure_weight_tying": to("training.lora.peft.ensure_weight_tying"),
    "peft_autocast_adapter_dtype": cosmetic("adapters are kept in 32 bits"),
    "peft": lost(reasons.LOFTQ),
    "loraplus_lr_ratio": to("training.loraplus_lr_ratio", number),
    "loraplus_lr_embedding": to("training.loraplus_lr_embedding", number),
    "relora*": lost("training.relora_steps is written differently: docs/reference/tasks.md"),
    "jagged_restart*": lost(
        "training.relora_steps is written differently: docs/reference/tasks.md"
    ),
    "lora_mlp_kernel": cosmetic(reasons.SPEED),
    "lora_qkv_kernel": cosmetic(reasons.SPEED),
    "lora_o_kernel": cosmetic(reasons.SPEED),
    "lora_embedding_kernel": cosmetic(reasons.SPEED),
    "bnb_config_kwargs": lost("4bit is nf4 with double quantisation, 8bit is LLM.int8()"),
    "gptq": lost("a quantised base is loaded as its own config says"),
    "qlora_sharded_model_loading": cosmetic(_MEMORY),
    "merge_lora": cosmetic("the adapter stays an adapter"),
    "merge_method": cosmetic("the adapter stays an adapter"),
}

TRAINING: dict[str, Rule] = {
    "learning_rate": to("training.lr", number),
    "lr_scheduler": to("training.scheduler", _scheduler),
    "lr_scheduler_kwargs": to("training.trl.lr_scheduler_kwargs"),
    "cosine_min_lr_ratio": lost(
        "training.scheduler: cosine_with_min_lr with"
        " training.trl.lr_scheduler_kwargs: {min_lr_rate: …} does this"
    ),
    "cosine_constant_lr_ratio": lost("the cosine has no flat end here"),
    "lr_div_factor": lost("the schedule is transformers'"),
    "lr_quadratic_warmup": lost("the warm-up is linear"),
    "lr_groups": lost("one learning rate for all modules"),
    "embedding_lr*": lost("one learning rate for all modules"),
    "warmup_steps": TOGETHER,
    "warmup_ratio": TOGETHER,
    "num_epochs": to("training.epochs", number),
    "max_steps": to("training.max_steps", positive),
    "micro_batch_size": TOGETHER,
    "batch_size": TOGETHER,
    "gradient_accumulation_steps": TOGETHER,
    "eval_batch_size": cosmetic(reasons.EVALUATING),
    "auto_find_batch_size": lost(reasons.HALVES),
    "weight_decay": to("training.weight_decay", number),
    "max_grad_norm": to("training.max_grad_norm", number),
    "optimizer": to("training.optimizer", _optimizer),
    "optim_args": lost("training.trl.optim_args takes them as text: a=1,b=2"),
    "optim_target_modules": to("training.trl.optim_target_modules"),
    "adam_beta1": to("training.trl.adam_beta1", number),
    "adam_beta2": to("training.trl.adam_beta2", number),
    "adam_epsilon": to("training.trl.adam_epsilon", number),
    "adam_beta3": lost("transformers has no such option"),
    "adam_epsilon2": lost("transformers has no such option"),
    "dion_*": lost("transformers has no such optimizer", 1, 1.0),
    "qgalore_*": lost("transformers has no such optimizer"),
    "neftune_noise_alpha": to("training.neftune_alpha", above_zero),
    "seed": to("training.seed", whole),
    "gradient_checkpointing": TOGETHER,
    "gradient_checkpointing_kwargs": cosmetic(_MEMORY),
    "group_by_length": lost("rows are drawn at random"),
    "train_on_inputs": TOGETHER,
    "curriculum_sampling": lost("rows are drawn at random"),
    "bf16": TOGETHER,
    "fp16": TOGETHER,
    "bfloat16": TOGETHER,
    "float16": TOGETHER,
    "float32": TOGETHER,
    "tf32": cosmetic(reasons.SPEED),
    "fp8*": lost("training in 8-bit floats is not offered"),
    "early_stopping_patience": to("training.early_stop_patience", whole),
    "load_best_model_at_end": lost(reasons.BEST),
    "metric_for_best_model": lost(reasons.BEST),
    "greater_is_better": lost(reasons.BEST),
    "loss_watchdog_threshold": to("training.loss_watchdog_threshold", number, matters=False),
    "loss_watchdog_patience": to("training.loss_watchdog_patience", whole, matters=False),
    "save_steps": to("training.save_steps", steps, matters=False),
    "eval_steps": to("training.eval_steps", steps, matters=False),
    "logging_steps": to("training.logging_steps", steps, matters=False),
    "save_total_limit": to("training.save_total_limit", positive, matters=False),
    **dict.fromkeys(
        ("saves_per_epoch", "save_strategy", "save_first_step", "save_only_model",
         "save_safetensors", "dynamic_checkpoint", "tokenizer_save_jinja_files"), cosmetic(reasons.SAVING),
    ),
    **dict.fromkeys(
        ("evals_per_epoch", "eval_strategy", "evaluation_strategy", "eval_sequence_len",
         "do_causal_lm_eval", "eval_causal_lm_metrics", "do_bench_eval", "bench_*"),
        cosmetic(reasons.EVALUATING),
    ),
    **dict.fromkeys(
        ("generate_samples", "num_generation_samples", "generation_*", "eval_table_size",
         "eval_max_new_tokens"), cosmetic(_GENERATION),
    ),
}  # fmt: skip

DATA_KEYS: dict[str, Rule] = {
    "datasets": TOGETHER,
    "test_datasets": TOGETHER,
    "pretraining_dataset": TOGETHER,
    "val_set_size": to("data.val_split", split_share),
    "sequence_len": to("data.max_length", whole),
    "excess_length_strategy": Rule(to="data.long_rows", how=_long_rows, together=True),
    "sample_packing": to("training.packing"),
    "pretraining_sample_concatenation": to("training.packing"),
    "chat_template": TOGETHER,
    "chat_template_jinja": lost(reasons.OWN_TEMPLATE),
    "chat_template_kwargs": lost("the chat template is given the row alone"),
    "default_system_message": lost("write it into the rows, as a first turn of role system"),
    "eot_tokens": lost("the chat template marks what is learnt: git soup data show --tokens"),
    "special_tokens": TOGETHER,
    "tokens": lost(reasons.TOKENIZER),
    "added_tokens_overrides": lost(reasons.TOKENIZER),
    "fix_untrained_tokens": lost(reasons.TOKENIZER),
    "shrink_embeddings": lost(reasons.TOKENIZER),
    "min_sample_len": lost("short rows are kept"),
    "max_prompt_len": lost("data.max_length is for prompt and answer together", 512),
    "shuffle_merged_datasets": cosmetic("rows are drawn at random, by training.seed"),
    "shuffle_before_merging_datasets": cosmetic("rows are drawn at random, by training.seed"),
    "dataset_exact_deduplication": lost("remove equal rows from the file before training"),
    "skip_prepare_dataset": lost("rows are converted and tokenized here"),
    "streaming": cosmetic(_MEMORY),
    "use_pose": lost("positions are not skipped"),
    "pose_*": lost("positions are not skipped"),
    **dict.fromkeys(
        ("eval_sample_packing", "pad_to_sequence_len", "pad_to_multiple_of", "sample_packing_*",
         "multipack_real_batches", "batch_flattening", "pretrain_multipack*",
         "streaming_multipack*", "dataset_prepared_path", "dataset_processes", "dataset_num_proc",
         "dataset_keep_in_memory", "dataset_shard_num", "dataloader_*", "remove_unused_columns",
         "num_dataset_shards_to_save", "preprocess_iterable", "total_num_tokens", "is_preprocess"),
        cosmetic(reasons.SPEED),
    ),
    "dataset_shard_idx": lost("all rows of the file are read", 0),
}  # fmt: skip

MODEL: dict[str, Rule] = {
    "base_model": to(BASE),
    "revision_of_model": to("revision"),
    "trust_remote_code": to("trust_remote_code"),
    "base_model_config": TOGETHER,
    "tokenizer_config": TOGETHER,
    "model_config": lost(reasons.CONFIG),
    "overrides_of_model_*": lost(reasons.CONFIG),
    "rope_scaling": lost(reasons.CONFIG),
    "resize_token_embeddings_to_32x": lost(reasons.TOKENIZER),
    "mean_resizing_embeddings": lost(reasons.TOKENIZER),
    "reinit_weights": lost("the base is trained as it is"),
    "unfrozen_parameters": lost("training.lora.modules_to_save trains whole modules"),
    "freeze_mm_modules": cosmetic("only the adapter trains"),
    "model_quantization_config*": lost("a quantised base is loaded as its own config says"),
    "quantize_moe_experts": lost("experts stay as the base has them"),
    "qat": lost(reasons.QAT),
    "quantization": lost(reasons.QAT),
    "use_onebitllms": lost("1-bit training is not offered"),
    "is_mistral_derived_model": cosmetic("the base's own config decides its class"),
    **dict.fromkeys(
        ("model_type", "tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy", "processor_type",
         "tokenizer_use_mistral_common", "is_llama_derived_model", "is_falcon_derived_model",
         "is_qwen_derived_model", "cls_model_config", "embeddings_skip_upcast"),
        cosmetic("the base's own config decides its class"),
    ),
    **dict.fromkeys(
        ("flash_attention", "sdp_attention", "xformers_attention", "flex_attention",
         "eager_attention", "sage_attention", "attn_implementation", "flash_attn_*",
         "flash_optimum", "flex_attn_compile_kwargs", "s2_attention", "sdpa_varlen",
         "large_head_attention", "gemma4_hybrid_attn_impl", "fused_attn_kernel"),
        cosmetic(_ATTENTION),
    ),
    **dict.fromkeys(
        ("liger_*", "cut_cross_entropy*", "chunked_cross_entropy*", "torch_compile*", "use_kernels",
         "tiled_mlp*", "unsloth_*", "experts_implementation"), cosmetic(reasons.SPEED),
    ),
    **dict.fromkeys(
        ("activation_offloading", "layer_offloading", "selective_checkpointing", "low_cpu_mem_usage",
         "max_memory", "gpu_memory_limit", "device", "device_map", "gc_steps", "gc_collect_steps",
         "torch_empty_cache_steps", "experimental_skip_move_to_device"), cosmetic(_MEMORY),
    ),
    **dict.fromkeys(
        ("deepcompile", "fsdp_*", "dp_shard_size", "dp_replicate_size",
         "sequence_parallel_degree", "context_parallel_size", "tensor_parallel_size",
         "accelerator_config"), lost(_PARALLEL, 1),
    ),
    **launchers.KEYS,
    **dict.fromkeys(
        ("ddp*", "world_size", "local_rank", "ring_attn_func", "heads_k_stride"),
        cosmetic(launchers.BATCH),
    ),
    "plugins": TOGETHER,
    "output_dir": to("output", matters=False),
    "resume_from_checkpoint": lost(reasons.RESUMING),
    "auto_resume_from_checkpoints": cosmetic(reasons.RESUMING),
    "strict": cosmetic("an unknown key is always an error"),
    "use_eaft": lost("the loss is plain cross-entropy"),
    "eaft_*": lost("the loss is plain cross-entropy"),
    **dict.fromkeys(
        ("wandb_*", "use_wandb", "mlflow_*", "use_mlflow", "comet_*", "use_comet", "swanlab_*",
         "use_swanlab", "trackio_*", "use_trackio", "lisa_otel", "use_otel_metrics", "otel_*",
         "use_tensorboard", "profiler_*", "include_tokens_per_second", "include_tkps", "use_ray",
         "ray_*"), cosmetic(reasons.TRACKING),
    ),
    **dict.fromkeys(
        ("hub_*", "push_dataset_to_hub", "hf_use_auth_token"),
        cosmetic(reasons.UPLOAD),
    ),
}  # fmt: skip

METHOD: dict[str, Rule] = {
    "rl": TOGETHER,
    "rl_beta": TOGETHER,
    "dpo_beta": TOGETHER,
    "orpo_alpha": TOGETHER,
    "reward_model": TOGETHER,
    "process_reward_model": TOGETHER,
    "dpo_label_smoothing": to("training.trl.label_smoothing", number),
    "dpo_use_weighting": to("training.trl.use_weighting"),
    "dpo_loss_type": lost("training.preference_loss, or preference_loss_weights, says the loss"),
    "dpo_loss_weights": lost("training.preference_loss_weights mixes losses"),
    "dpo_norm_loss": lost("training.preference_loss: sigmoid_norm does this"),
    "rpo_alpha": lost("training.preference_loss_weights: {dpo: 1, sft: …} does this"),
    "precompute_ref_log_probs": cosmetic(reasons.SPEED),
    "dpo_use_liger_kernel": cosmetic(reasons.SPEED),
    "dpo_padding_free": cosmetic(reasons.SPEED),
    "dpo_use_logits_to_keep": cosmetic(reasons.SPEED),
    "dpo_generate_during_eval": cosmetic(_GENERATION),
    "simpo_gamma": to("training.simpo_gamma", number),
    "cpo_alpha": to("training.cpo_alpha", number),
    "kto_desirable_weight": to("training.trl.desirable_weight", number),
    "kto_undesirable_weight": to("training.trl.undesirable_weight", number),
    "center_rewards_coefficient": to("training.trl.center_rewards_coefficient", number),
    "num_labels": lost("the number of labels is that of the rows"),
    "ebft": lost("EBFT is not offered"),
    "vllm": cosmetic(reasons.SPEED),
    "trainer_cls": lost("TRL's trainer for the task trains"),
    **under("trl", {
        "beta": TOGETHER,
        "num_generations": to("training.num_generations", whole),
        "reward_funcs": lost("training.reward_fn names them: docs/reference/tasks.md"),
        "reward_weights": to("training.trl.reward_weights"),
        "rollout_func": lost("answers are sampled by TRL"),
        "use_vllm": cosmetic(reasons.SPEED),
        "vllm_*": cosmetic(reasons.SPEED),
        "use_liger_loss": cosmetic(reasons.SPEED),
        "log_completions": cosmetic(reasons.TRACKING),
        "num_completions_to_print": cosmetic(reasons.TRACKING),
        "use_data_producer": cosmetic(reasons.SPEED),
        "async_prefetch": lost("answers are sampled from the adapter as it is"),
        "reward_num_workers": cosmetic(reasons.SPEED),
        "chat_template_kwargs": lost("the chat template is given the row alone"),
        "*": TOGETHER,
    }),
}  # fmt: skip

KEYS = {**MODEL, **LORA, **TRAINING, **DATA_KEYS, **METHOD}
