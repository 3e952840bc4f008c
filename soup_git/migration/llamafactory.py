"""LLaMA-Factory's YAML or JSON.

Source: https://llamafactory.readthedocs.io/en/latest/advanced/arguments.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soup_git.migration import launchers, reasons, trainerarguments
from soup_git.migration.datasets import ONE_PATH, data_file
from soup_git.migration.draft import BASE, DATA, Draft, Reading
from soup_git.migration.methods import carry_beta, choose
from soup_git.migration.rules import (
    TOGETHER,
    UNSET,
    Rule,
    Tool,
    cosmetic,
    lost,
    names,
    number,
    positive,
    split_share,
    table,
    to,
    whole,
)

_SERVING = "is for serving or exporting, not for training"
own_template = "the tokenizer's own chat template is used: git soup data show 1 --tokens shows it"
_REFERENCE = "the reference is the base without the adapter"
_PPO = "PPO is gone from TRL; task rloo or grpo with the reward model does its work"
_OPTIMIZER = (
    "training.optimizer takes transformers' names, and training.trl.optim_args their options"
)

TEMPLATES = {
    "chatml": "chatml",
    "llama3": "llama3",
    "qwen": "qwen2_5",
    "qwen3": "qwen3",
    "qwen3_nothink": "qwen3_instruct_2507",
    "gemma": "gemma",
    "gemma3": "gemma3",
    "phi": "phi3",
    "deepseek3": "deepseekv3",
    "cohere": "cohere",
}
"""Names of LLaMA-Factory's templates -> the chat template that writes the same turns."""

STAGES = {"sft": "sft", "pt": "pretrain", "rm": "reward_model", "dpo": "dpo", "kto": "kto",
          "ppo": "ppo"}  # fmt: skip
LOSSES = {"sigmoid": "dpo", "ipo": "ipo", "orpo": "orpo", "simpo": "simpo", "hinge": "hinge"}


def _revision(value: Any) -> Any:
    return UNSET if value == "main" else value


KEYS: dict[str, Rule] = {
    **trainerarguments.ARGUMENTS,
    "model_name_or_path": to(BASE),
    "model_revision": to("revision", _revision),
    "trust_remote_code": to("trust_remote_code"),
    "adapter_name_or_path": lost(reasons.FRESH),
    "create_new_adapter": cosmetic("training starts from a fresh adapter"),
    "stage": TOGETHER,
    "finetuning_type": TOGETHER,
    "lora_rank": to("training.lora.r", whole),
    "lora_alpha": TOGETHER,
    "lora_dropout": to("training.lora.dropout", number),
    "lora_target": to("training.lora.target_modules", names),
    "additional_target": to("training.lora.modules_to_save", names),
    "use_rslora": to("training.lora.use_rslora"),
    "use_dora": to("training.lora.use_dora"),
    "pissa_init": TOGETHER,
    "pissa_iter": TOGETHER,
    "pissa_convert": cosmetic("a pissa adapter is always saved for the untouched base"),
    "loraplus_lr_ratio": to("training.loraplus_lr_ratio", number),
    "loraplus_lr_embedding": to("training.loraplus_lr_embedding", number),
    "dataset": TOGETHER,
    "eval_dataset": TOGETHER,
    "dataset_dir": TOGETHER,
    "template": TOGETHER,
    "cutoff_len": to("data.max_length", whole),
    "max_samples": to("data.max_rows", positive),
    "val_size": to("data.val_split", split_share),
    "mask_history": lost("all of the assistant's turns are learnt"),
    "packing": TOGETHER,
    "neat_packing": TOGETHER,
    "tool_format": lost("the chat template writes the tools"),
    "default_system": lost("write it into the rows, as a first turn of role system"),
    "enable_thinking": lost("the chat template is given the row alone", True),
    "preserve_thinking": lost("the chat template is given the row alone"),
    "tokenized_path": lost("rows are converted and tokenized here"),
    "interleave_probs": lost("data.train is one file or one folder: mix the rows there"),
    "mix_strategy": lost("data.train is one file or one folder: mix the rows there", "concat"),
    "ignore_pad_token_for_loss": lost("padding is never learnt", True),
    "streaming": cosmetic(reasons.SPEED),
    "quantization_bit": TOGETHER,
    "quantization_method": lost(
        "a base is quantised by bitsandbytes; one that is quantised already loads as it is", "bnb"
    ),
    "quantization_type": lost("4bit is nf4 with double quantisation", "nf4"),
    "double_quantization": TOGETHER,
    "disable_gradient_checkpointing": TOGETHER,
    "pure_bf16": TOGETHER,
    "pref_beta": TOGETHER,
    "pref_loss": TOGETHER,
    "pref_ftx": lost("training.preference_loss_weights: {dpo: 1, sft: …} does this"),
    "pref_bco_weight": lost("training.preference_loss_weights: {dpo: 1, bco: …} does this"),
    "dpo_label_smoothing": to("training.trl.label_smoothing", number),
    "ld_alpha": to("training.trl.ld_alpha", number),
    "kto_chosen_weight": to("training.trl.desirable_weight", number),
    "kto_rejected_weight": to("training.trl.undesirable_weight", number),
    "simpo_gamma": TOGETHER,
    "ref_model*": lost(_REFERENCE),
    "reward_model*": lost(_PPO, "lora"),
    "ppo_*": lost(_PPO),
    "early_stopping_steps": to("training.early_stop_patience", whole),
    "disable_shuffling": lost("rows are drawn at random, by training.seed"),
    "use_dft_loss": to("training.trl.loss_type", table({True: "dft", False: "nll"}, "")),
    **dict.fromkeys(
        ("use_asft_loss", "use_eaft_loss"), lost("the loss is plain cross-entropy, or dft")
    ),
    **dict.fromkeys(("asft_alpha", "eaft_alpha"), cosmetic("belongs to a loss that is not offered")),
    "use_llama_pro": lost("new blocks are not added"),
    "mixture_of_depths": lost("is not offered"),
    "shift_attn": lost("LongLoRA's shifted attention is not offered"),
    "rope_scaling": lost(reasons.CONFIG),
    "moe_aux_loss_coef": lost("training.trl.model_init_kwargs: {router_aux_loss_coef: …} does this"),
    "train_from_scratch": lost("a base is trained, with an adapter"),
    "upcast_layernorm": lost("norms stay in the dtype of the base"),
    "upcast_lmhead_output": lost("the head stays in the dtype of the base"),
    **dict.fromkeys(
        ("resize_vocab", "split_special_tokens", "add_tokens", "add_special_tokens",
         "new_special_tokens_config"), lost(reasons.TOKENIZER),
    ),
    "init_special_tokens": cosmetic("belongs to tokens that are added"),
    "use_galore": lost(f"{_OPTIMIZER}: galore_adamw"),
    "use_apollo": lost(f"{_OPTIMIZER}: apollo_adamw"),
    "use_badam": lost(f"{_OPTIMIZER}; BAdam is not among them"),
    "use_adam_mini": lost(f"{_OPTIMIZER}; Adam-mini is not among them"),
    "use_muon": lost(f"{_OPTIMIZER}; Muon is not among them"),
    **dict.fromkeys(
        ("galore_*", "apollo_*", "badam_*"), cosmetic("belongs to an optimizer that is not carried")
    ),
    "freeze_vision_tower": lost(reasons.MODAL, True),
    "freeze_multi_modal_projector": lost(reasons.MODAL, True),
    "freeze_language_model": lost(reasons.MODAL),
    **dict.fromkeys(("image_*", "video_*", "audio_*", "media_dir", "use_audio_in_video",
                     "crop_to_patches"), cosmetic(reasons.MODAL)),
    **dict.fromkeys(
        ("freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "oft_*",
         "module_dropout"), cosmetic("belongs to a finetuning_type that is not offered"),
    ),
    **dict.fromkeys(
        ("use_mca", "use_megatron_bridge", "megatron_bridge_args", "use_hyper_parallel",
         "hyper_parallel_*", "fp8*", "use_kt"), lost("TRL's trainer trains"),
    ),
    "kt_*": cosmetic("belongs to a trainer that is not offered"),
    **dict.fromkeys(
        ("flash_attn", "use_unsloth", "use_unsloth_gc", "enable_liger_kernel", "use_reentrant_gc",
         "use_v1_kernels", "low_cpu_mem_usage", "device_map", "quantization_device_map",
         "use_fast_tokenizer", "cache_dir", "adapter_folder", "buffer_size", "overwrite_cache",
         "preprocessing_batch_size", "preprocessing_num_workers", "data_shared_file_system",
         "offload_folder", "use_kv_cache", "print_param_status"), cosmetic(reasons.SPEED),
    ),
    **dict.fromkeys(
        ("plot_loss", "compute_accuracy", "swanlab_*", "use_swanlab", "enable_torch_profiler",
         "profiler_*", "profile_modules", "include_effective_tokens_per_second", "ray_*",
         "master_addr", "master_port", "placement_strategy", "resources_per_worker",
         "eval_on_each_dataset", "eval_num_beams"), cosmetic(reasons.TRACKING),
    ),
    **dict.fromkeys(
        ("infer_*", "vllm_*", "sglang_*", "export_*", "do_sample", "temperature", "top_p", "top_k",
         "num_beams", "max_new_tokens", "repetition_penalty", "length_penalty",
         "skip_special_tokens"), cosmetic(_SERVING),
    ),
    **dict.fromkeys(
        ("hf_hub_token", "ms_hub_token", "om_hub_token"),
        cosmetic(reasons.SECRET),
    ),
}  # fmt: skip


def decide(reading: Reading, draft: Draft) -> None:
    _method(reading, draft)
    kind = reading.get("finetuning_type")
    if kind not in (None, "lora"):
        draft.lose(f"{kind} is not offered; git-soup trains a LoRA", "finetuning_type")
    _lora(reading, draft)
    _quantization(reading, draft)
    _packing(reading, draft)
    trainerarguments.warmup(draft)
    launchers.carry(reading, draft)
    if reading.get("pure_bf16"):
        draft.carry("training.precision", "bf16", "pure_bf16")
    else:
        trainerarguments.precision(draft)
    if reading.get("disable_gradient_checkpointing") is not None:
        draft.carry(
            "training.gradient_checkpointing",
            not reading.get("disable_gradient_checkpointing"),
            "disable_gradient_checkpointing",
            matters=False,
        )
    name = reading.get("template")
    if name not in (None, "default", "empty") and draft.task != "pretrain":
        draft.apply(to("data.chat_template", table(TEMPLATES, own_template)), name, "template")
    _rows(reading, draft)


def _method(reading: Reading, draft: Draft) -> None:
    stage = reading.get("stage")
    loss = reading.get("pref_loss")
    if stage == "dpo" and loss not in (None, "sigmoid"):
        task = LOSSES.get(str(loss), str(loss))
        if task == "hinge" and choose(draft, "preference", "pref_loss"):
            draft.carry("training.preference_loss", "hinge", "pref_loss")
        elif task != "hinge":
            choose(draft, task, "pref_loss")
    elif stage is not None:
        choose(draft, STAGES.get(str(stage), str(stage)), "stage")
    if draft.task not in ("sft", "pretrain", "reward_model"):
        carry_beta(draft, reading.get("pref_beta"), "pref_beta")
    if draft.task == "simpo" and reading.get("simpo_gamma") is not None:
        draft.apply(to("training.simpo_gamma", number), reading.get("simpo_gamma"), "simpo_gamma")


def _lora(reading: Reading, draft: Draft) -> None:
    rank, alpha = reading.get("lora_rank"), reading.get("lora_alpha")
    if alpha is not None:
        draft.apply(to("training.lora.alpha", whole), alpha, "lora_alpha")
    elif isinstance(rank, int) and not isinstance(rank, bool):
        draft.carry("training.lora.alpha", 2 * rank, "lora_rank")
    if reading.get("pissa_init"):
        turns = reading.get("pissa_iter")
        name = "pissa" if turns == -1 else f"pissa_niter_{16 if turns is None else turns}"
        draft.carry("training.lora.init_strategy", name, "pissa_init")


def _quantization(reading: Reading, draft: Draft) -> None:
    bits = reading.get("quantization_bit")
    if bits is None:
        return
    method = reading.get("quantization_method")
    if method not in (None, "bnb"):
        return  # the method's own rule says it
    why = f"{bits} bits are not offered: 4 and 8 are"
    draft.apply(
        to("training.quantization", table({4: "4bit", 8: "8bit"}, why)), bits, "quantization_bit"
    )
    if bits == 4 and reading.get("double_quantization") is False:
        draft.lose("4bit is nf4 with double quantisation", "double_quantization")


def _packing(reading: Reading, draft: Draft) -> None:
    neat, packed = reading.get("neat_packing"), reading.get("packing")
    if draft.task not in ("sft", "pretrain"):
        return
    if neat:
        draft.carry("training.packing", True, "neat_packing")
    elif packed is not None:
        draft.apply(to("training.packing"), packed, "packing")
        if packed is True and draft.task == "sft":
            draft.lose(
                "rows that share a sequence do not see each other here (neat_packing, there)",
                "packing",
            )


# -- datasets ---------------------------------------------------------------------------------

_COLUMNS: dict[str, set[Any]] = {
    "prompt": {"instruction"},
    "query": {"input"},
    "response": {"output"},
    "messages": {"conversations", "messages"},
    "system": {"system"},
    "tools": {"tools"},
    "chosen": {"chosen"},
    "rejected": {"rejected"},
}
_TAGS: tuple[dict[str, str], ...] = (
    {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
     "observation_tag": "observation", "system_tag": "system"},
    {"role_tag": "role", "content_tag": "content", "user_tag": "user",
     "assistant_tag": "assistant", "observation_tag": "tool", "system_tag": "system"},
)  # fmt: skip


def _rows(reading: Reading, draft: Draft) -> None:
    listed = _listed(reading.get("dataset"))
    if not listed:
        draft.stand_in(DATA, "the config names no dataset", "dataset")
        return
    folder = reading.get("dataset_dir") or "data"
    known = reading.beside(f"{folder}/dataset_info.json")
    _dataset(draft, listed[0], folder, known, "dataset")
    for name in listed[1:]:
        draft.lose(f"{name}: {ONE_PATH}", "dataset")
    for i, name in enumerate(_listed(reading.get("eval_dataset"))):
        info = known.get(name) if isinstance(known, dict) else None
        file = info.get("file_name") if isinstance(info, dict) else None
        if i == 0 and isinstance(file, str):
            data_file(draft, f"{folder}/{file}", "eval_dataset", to="data.validation")
        else:
            draft.lose(f"{name}: data.validation names a file of rows", "eval_dataset")


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(part) for part in value] if isinstance(value, list) else []


def _dataset(draft: Draft, name: str, folder: str, known: Any, key: str) -> None:
    info = known.get(name) if isinstance(known, dict) else None
    if not isinstance(info, dict):
        where = "has no such name" if isinstance(known, dict) else "is not beside the config"
        why = (
            f"{name} is a name in {folder}/dataset_info.json, which {where}: write the path of its"
            " file into data.train"
        )
        draft.stand_in(DATA, why, key)
        return
    file = info.get("file_name")
    if not isinstance(file, str):
        hub = info.get("hf_hub_url") or info.get("ms_hub_url") or name
        data_file(draft, str(hub), key)
        return
    if data_file(draft, f"{folder}/{file}", key) and draft.task == "sft":
        _format(draft, info, key)


def _format(draft: Draft, info: dict[str, Any], key: str) -> None:
    columns, tags = info.get("columns"), info.get("tags")
    for role, column in columns.items() if isinstance(columns, dict) else ():
        if column not in _COLUMNS.get(role, set()):
            draft.lose(f"column {column} is the {role}: rename it in the file", key)
    if isinstance(tags, dict) and not any(tags.items() <= known.items() for known in _TAGS):
        draft.lose("the turns have tags of their own: rename them in the file", key)
    if info.get("formatting", "alpaca") == "alpaca":
        draft.carry("data.format", "alpaca", key)


def defaults(task: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {
        "data.val_split": 0.0,
        "data.max_length": 2048,
        "training.epochs": 3.0,
        "training.lr": 5e-5,
        "training.scheduler": "linear",
        "training.warmup_steps": 0,
        "training.batch_size": 8,
        "training.gradient_accumulation_steps": 1,
        "training.optimizer": "adamw_torch_fused",
        "training.precision": "fp32",
        "training.gradient_checkpointing": True,
        "training.lora.r": 8,
        "training.lora.alpha": 16,
        "training.lora.dropout": 0.0,
        "training.lora.target_modules": "all-linear",
    }
    return found | ({"training.packing": True} if task == "pretrain" else {})


LLAMAFACTORY = Tool(
    name="llamafactory",
    title="LLaMA-Factory",
    documentation="https://llamafactory.readthedocs.io/en/latest/advanced/arguments.html",
    keys=KEYS,
    marks=frozenset(
        {
            "model_name_or_path",
            "stage",
            "finetuning_type",
            "cutoff_len",
            "lora_rank",
            "lora_target",
            "dataset_dir",
            "template",
            "quantization_bit",
        }
    ),
    defaults=defaults,
    decide=decide,
    fallback=trainerarguments.passed_on,
    notes=("turns are written by templates of its own there: git soup data show 1 --tokens",),
)
