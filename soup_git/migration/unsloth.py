"""Unsloth: the YAML or JSON of its command line, and the keyword arguments of a script or notebook.

Source: https://docs.unsloth.ai/get-started/fine-tuning-llms-guide/lora-hyperparameters-guide,
and unsloth_cli/config.py and unsloth-cli.py of https://github.com/unslothai/unsloth
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
    CannotCarryError,
    Code,
    Rule,
    Tool,
    cosmetic,
    lost,
    names,
    number,
    positive,
    table,
    to,
    under,
    whole,
)

_MODAL = "pictures and sound are not trained on"
_SAVING = "the adapter is saved; git soup push shares it"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

TEMPLATES = {
    "chatml": "chatml",
    "llama-3": "llama3",
    "llama3": "llama3",
    "llama-3.1": "llama3_1",
    "llama-31": "llama3_1",
    "qwen-2.5": "qwen2_5",
    "qwen2.5": "qwen2_5",
    "qwen-25": "qwen2_5",
    "qwen3": "qwen3",
    "qwen-3": "qwen3",
    "qwen3-instruct": "qwen3_instruct_2507",
    "gemma": "gemma",
    "gemma-3": "gemma3",
    "gemma3": "gemma3",
    "phi-3": "phi3",
    "phi-3.5": "phi3_5",
}
TRAINERS = {
    "SFTTrainer": "sft",
    "UnslothTrainer": "sft",
    "DPOTrainer": "dpo",
    "KTOTrainer": "kto",
    "ORPOTrainer": "orpo",
    "CPOTrainer": "cpo",
    "GRPOTrainer": "grpo",
    "RLOOTrainer": "rloo",
    "RewardTrainer": "reward_model",
    "PPOTrainer": "ppo",
}

TRL_LR = {"sft": 2e-5, "reward_model": 1e-4}
"""What TRL's configs take where the script names no learning rate; elsewhere 1e-6."""


def _checkpointing(value: Any) -> Any:
    return value not in (False, "false", "none", "False", "")


def _dtype(value: Any) -> Any:
    known = {"auto": "auto", "None": "auto", "bfloat16": "bf16", "torch.bfloat16": "bf16",
             "float16": "fp16", "torch.float16": "fp16", "float32": "fp32", "torch.float32": "fp32"}  # fmt: skip
    if str(value) in known:
        return known[str(value)]
    raise CannotCarryError("training.precision is auto, fp32, bf16 or fp16")


def _init(value: Any) -> Any:
    return "random" if value is True else value


MODEL: dict[str, Rule] = {
    "model_name": to(BASE),
    "max_seq_length": to("data.max_length", whole),
    "dtype": TOGETHER,
    "load_in_4bit": TOGETHER,
    "load_in_8bit": TOGETHER,
    "load_in_16bit": cosmetic("training.precision is auto"),
    "load_in_fp8": lost("8-bit floats are not offered"),
    "full_finetuning": lost("full fine-tuning is not offered; git-soup trains a LoRA"),
    "trust_remote_code": to("trust_remote_code"),
    "revision": to("revision"),
    "rope_scaling": lost(reasons.CONFIG),
    "resize_model_vocab": lost(reasons.TOKENIZER),
    "qat_scheme": lost(reasons.QAT),
    "random_state": cosmetic("training.seed decides everything that is random"),
    "token": cosmetic(reasons.SECRET),
    **dict.fromkeys(
        ("device_map", "fast_inference", "max_lora_rank", "gpu_memory_utilization", "fix_tokenizer",
         "float8_kv_cache", "disable_log_stats", "use_exact_model_name", "offload_embedding",
         "unsloth_tiled_mlp", "float32_mixed_precision", "attn_implementation", "text_only",
         "use_gradient_checkpointing"), cosmetic(reasons.SPEED),
    ),
}  # fmt: skip

LORA: dict[str, Rule] = {
    "r": to("training.lora.r", whole),
    "lora_alpha": to("training.lora.alpha", whole),
    "lora_dropout": to("training.lora.dropout", number),
    "target_modules": to("training.lora.target_modules", names),
    "target_parameters": to("training.lora.target_parameters"),
    "modules_to_save": to("training.lora.modules_to_save"),
    "bias": to("training.lora.bias"),
    "layers_to_transform": to("training.lora.layers_to_transform"),
    "layers_pattern": to("training.lora.layers_pattern"),
    "finetune_last_n_layers": lost("training.lora.layers_to_transform names the layers"),
    "use_rslora": to("training.lora.use_rslora"),
    "use_dora": to("training.lora.use_dora"),
    "init_lora_weights": to("training.lora.init_strategy", _init),
    "loftq_config": lost(reasons.LOFTQ),
    "use_gradient_checkpointing": to(
        "training.gradient_checkpointing", _checkpointing, matters=False
    ),
    "random_state": TOGETHER,
    "ensure_weight_tying": to("training.lora.peft.ensure_weight_tying"),
    "qat_scheme": lost(reasons.QAT),
    "max_seq_length": cosmetic("is not used by Unsloth any more"),
    "temporary_location": cosmetic(reasons.SPEED),
    "finetune_vision_layers": cosmetic(_MODAL),
    "finetune_language_layers": lost("training.lora.exclude_modules leaves modules alone", True),
    "finetune_attention_modules": lost("training.lora.target_modules names the modules", True),
    "finetune_mlp_modules": lost("training.lora.target_modules names the modules", True),
}

TRAINER: dict[str, Rule] = {
    "beta": TOGETHER,
    "max_length": to("data.max_length", whole),
    "max_seq_length": to("data.max_length", whole),
    "packing": to("training.packing"),
    "max_prompt_length": cosmetic("data.max_length is for prompt and answer together"),
    "formatting_func": lost("rows are made by code of the script: write them to the file as they are"),
    "ref_model": lost("the reference is the base without the adapter"),
    "reward_funcs": lost("training.reward_fn names rewards, or a Python file of the workspace"),
    "reward_model": lost("training.reward_model names one"),
    "callbacks": lost("callbacks are code of the script"),
    "compute_metrics": cosmetic("git soup eval scores an adapter"),
    "data_collator": lost("rows are put together by TRL's own collator"),
    "peft_config": lost("write r, alpha and target_modules under training.lora"),
    "optimizers": lost("training.optimizer and training.scheduler name them"),
    **dict.fromkeys(
        ("model", "tokenizer", "processing_class", "train_dataset", "args", "dataset_text_field",
         "dataset_num_proc", "eval_dataset"), TOGETHER,
    ),
}  # fmt: skip

ARGUMENTS: dict[str, Rule] = {
    **trainerarguments.ARGUMENTS,
    "beta": TOGETHER,
    "loss_type": TOGETHER,
    "embedding_learning_rate": lost("one learning rate for embeddings and the rest"),
    "max_prompt_length": cosmetic("data.max_length is for prompt and answer together"),
    "output_dir": to("output", matters=False),
    **dict.fromkeys(("use_vllm", "vllm_*", "unsloth_*"), cosmetic(reasons.SPEED)),
}

# unsloth-cli.py: everything on one level.
FLAT: dict[str, Rule] = {
    **ARGUMENTS,
    **MODEL,
    **LORA,
    "max_seq_length": to("data.max_length", whole),
    "use_gradient_checkpointing": to(
        "training.gradient_checkpointing", _checkpointing, matters=False
    ),
    "dataset": TOGETHER,
    "raw_text_file": TOGETHER,
    "chunk_size": cosmetic("long texts are cut, or split by packing"),
    "stride": lost("pieces of a text do not overlap", 512),
    **dict.fromkeys(
        ("save_model", "save_method", "save_path", "save_gguf", "push_model", "push_gguf",
         "hub_path", "hub_token", "quantization"), cosmetic(_SAVING),
    ),
}  # fmt: skip

# The YAML of the newer command line: blocks.
BLOCKS: dict[str, Rule] = {
    "model": to(BASE),
    "data.dataset": TOGETHER,
    "data.local_dataset": TOGETHER,
    "data.format_type": to("data.format", table(
        {"auto": "auto", "alpaca": "alpaca", "chatml": "auto", "sharegpt": "sharegpt"},
        "rows are read as data.format says",
    )),
    **under("training", {
        "training_type": lost("full fine-tuning is not offered; git-soup trains a LoRA", "lora"),
        "max_seq_length": to("data.max_length", whole),
        "load_in_4bit": TOGETHER,
        "output_dir": to("output", matters=False),
        "num_epochs": to("training.epochs", number),
        "learning_rate": to("training.lr", number),
        "batch_size": to("training.batch_size", whole),
        "gradient_accumulation_steps": to("training.gradient_accumulation_steps", whole),
        "warmup_steps": to("training.warmup_steps", whole),
        "max_steps": to("training.max_steps", positive),
        "save_steps": to("training.save_steps", positive, matters=False),
        "weight_decay": to("training.weight_decay", number),
        "random_seed": to("training.seed", whole),
        "packing": to("training.packing"),
        "train_on_completions": to("training.assistant_only_loss"),
        "gradient_checkpointing": to(
            "training.gradient_checkpointing", _checkpointing, matters=False
        ),
    }),
    **under("lora", {
        **LORA,
        "lora_r": to("training.lora.r", whole),
        "vision_all_linear": cosmetic(_MODAL),
        "use_loftq": lost(reasons.LOFTQ),
    }),
    "logging.hf_token": cosmetic(reasons.SECRET),
    "logging.wandb_token": cosmetic(reasons.SECRET),
    "logging.*": cosmetic(reasons.TRACKING),
}  # fmt: skip

# A script: the arguments of the calls that configure something, by what they configure.
SCRIPT: dict[str, Rule] = {
    **under("from_pretrained", MODEL),
    **under("get_peft_model", LORA),
    **under("trainer", TRAINER),
    **under("args", ARGUMENTS),
    **under("get_chat_template", {
        "chat_template": TOGETHER,
        "mapping": lost("rename the columns in the file: data.format takes the names of its formats"),
        "map_eos_token": cosmetic("the chat template ends the turns"),
        "*": cosmetic("the chat template is all that is read"),
    }),
    "train_on_responses_only.*": cosmetic("the chat template marks what is learnt"),
    "load_dataset": TOGETHER,
    "changed_rows": TOGETHER,
    "responses_only": TOGETHER,
    "trainer_class": TOGETHER,
    "more_trainings": TOGETHER,
    "unread_cells": TOGETHER,
}  # fmt: skip


def decide(reading: Reading, draft: Draft) -> None:
    """The YAML or JSON of a command line."""
    blocks = "model" in reading.values
    at = ("training",) if blocks else ()
    _quantization(reading, draft, *at, default=blocks)
    if not blocks:
        trainerarguments.warmup(draft)
        trainerarguments.precision(draft)
        if reading.get("dtype") is not None:
            draft.apply(to("training.precision", _dtype), reading.get("dtype"), "dtype")
        for key in ("dataset", "raw_text_file"):
            if isinstance(reading.get(key), str):
                data_file(draft, reading.get(key), key)
    for key in ("dataset", "local_dataset") if blocks else ():
        found = reading.get("data", key)
        listed = [found] if isinstance(found, str) else found or []
        for i, path in enumerate(listed if isinstance(listed, list) else []):
            if DATA in draft.carried:
                draft.lose(f"{path}: {ONE_PATH}", "data", key, i)
            else:
                data_file(draft, str(path), "data", key, i)
    if DATA not in draft.carried:
        draft.stand_in(
            DATA, "the config names no dataset", *(("data",) if blocks else ("dataset",))
        )


def decide_script(reading: Reading, draft: Draft) -> None:
    """What the calls of a script say together."""
    trainer = reading.get("trainer_class")
    if trainer is not None:
        choose(draft, TRAINERS.get(str(trainer), str(trainer)), "trainer_class")
    for i, why in enumerate(reading.get("unread_cells") or []):
        draft.lose(f"what this cell sets is not carried over: {why}", "unread_cells", i)
    for i, more in enumerate(reading.get("more_trainings") or []):
        draft.lose(
            f"{more} trains a second time: that is a soup.yaml of its own", "more_trainings", i
        )
    _loss(reading, draft)
    _quantization(reading, draft, "from_pretrained", default=bool(reading.get("from_pretrained")))
    dtype = reading.get("from_pretrained", "dtype")
    trainerarguments.warmup(draft, "args")
    launchers.carry(reading, draft, "args")
    trainerarguments.precision(draft, "args")
    if dtype is not None and "training.precision" not in draft.carried:
        draft.apply(to("training.precision", _dtype), str(dtype), "from_pretrained", "dtype")
    _template(reading, draft)
    if reading.get("args", "seed") is None and draft.task:
        state = reading.get("get_peft_model", "random_state")
        draft.apply(to("training.seed", whole), state, "get_peft_model", "random_state")
    if draft.task == "sft":
        only = bool(reading.get("responses_only"))
        draft.carry("training.assistant_only_loss", only, "responses_only" if only else "trainer")
    _rows(reading, draft)


def _loss(reading: Reading, draft: Draft) -> None:
    loss = reading.get("args", "loss_type")
    if draft.task == "cpo" and loss == "simpo":
        choose(draft, "simpo", "args", "loss_type")
    elif draft.task == "dpo" and loss in ("ipo", "bco_pair"):
        choose(draft, {"ipo": "ipo", "bco_pair": "bco"}[loss], "args", "loss_type")
    elif loss is not None and not (draft.task == "dpo" and loss == "sigmoid"):
        draft.apply(to("training.trl.loss_type"), loss, "args", "loss_type")
    for section in ("trainer", "args"):
        beta = reading.get(section, "beta")
        if not isinstance(beta, Code):
            carry_beta(draft, beta, section, "beta")
        else:
            draft.apply(to("training.trl.beta"), beta, section, "beta")


def _quantization(reading: Reading, draft: Draft, *at: str, default: bool) -> None:
    """Unsloth loads in 4 bits unless it is told otherwise; a base that is in 4 bits already, as its
    -bnb-4bit ones, says so itself."""
    if str(reading.get(*at, "model_name")).endswith("-bnb-4bit"):
        return
    for key, value in (("load_in_8bit", "8bit"), ("load_in_4bit", "4bit")):
        asked = reading.get(*at, key)
        if isinstance(asked, Code):
            draft.apply(to("training.quantization"), asked, *at, key)
            return
        if asked:
            draft.carry("training.quantization", value, *at, key)
            return
    switched_off = reading.get(*at, "load_in_4bit") is False
    other = any(
        reading.get(*at, key) for key in ("load_in_16bit", "full_finetuning", "load_in_fp8")
    )
    if default and not switched_off and not other:
        draft.carry("training.quantization", "4bit", *at)


def _template(reading: Reading, draft: Draft) -> None:
    where = ("get_chat_template", "chat_template")
    name = reading.get(*where)
    draft.apply(to("data.chat_template", table(TEMPLATES, reasons.OWN_TEMPLATE)), name, *where)


def _rows(reading: Reading, draft: Draft) -> None:
    loaded = reading.get("load_dataset")
    if not isinstance(loaded, list) or not loaded:
        draft.stand_in(DATA, "no call of load_dataset says where the rows are", "load_dataset")
    for i, (path, files) in enumerate(loaded if isinstance(loaded, list) else []):
        where = ("load_dataset", i)
        named = [files] if isinstance(files, str) else files
        if isinstance(named, dict):
            named = list(named.values())
        first = named[0] if isinstance(named, list) and named else path
        if i:
            draft.lose(f"{first}: {ONE_PATH}", *where)
        elif isinstance(first, Code) or not isinstance(first, str):
            draft.stand_in(DATA, f"is computed by the script, which is not run: {first}", *where)
        else:
            data_file(draft, first, *where)
    for i, what in enumerate(reading.get("changed_rows") or []):
        draft.lose(
            f"{what} makes the rows by code of the script: compare with git soup data show 1 --tokens",
            "changed_rows", i,
        )  # fmt: skip


def _lora_defaults(rank: int) -> dict[str, Any]:
    return {
        "data.val_split": 0.0,
        "data.max_length": 2048,
        "training.seed": 3407,
        "training.gradient_checkpointing": True,
        "training.lora.r": rank,
        "training.lora.alpha": 16,
        "training.lora.dropout": 0.0,
        "training.lora.target_modules": LINEAR,
    }


def cli_defaults(_task: str) -> Mapping[str, Any]:
    return _lora_defaults(64) | {
        "training.epochs": 3,
        "training.lr": 2e-4,
        "training.scheduler": "linear",
        "training.optimizer": "adamw_8bit",
        "training.warmup_steps": 5,
        "training.weight_decay": 0.01,
        "training.batch_size": 2,
        "training.gradient_accumulation_steps": 4,
        "training.assistant_only_loss": False,
    }


def script_defaults(task: str) -> Mapping[str, Any]:
    return _lora_defaults(16) | {
        "training.epochs": 3.0,
        "training.lr": TRL_LR.get(task, 1e-6),
        "training.scheduler": "linear",
        "training.optimizer": "adamw_torch_fused",
        "training.warmup_steps": 0,
        "training.batch_size": 8,
        "training.gradient_accumulation_steps": 1,
    }


_DOCUMENTATION = "https://docs.unsloth.ai/"
UNSLOTH = Tool(
    name="unsloth",
    title="Unsloth",
    documentation=_DOCUMENTATION,
    keys={**FLAT, **BLOCKS},
    marks=frozenset({"model_name", "max_seq_length", "lora", "model", "r", "load_in_4bit"}),
    defaults=cli_defaults,
    decide=decide,
)
SCRIPTED = Tool(
    name="unsloth",
    title="Unsloth",
    documentation=_DOCUMENTATION,
    keys=SCRIPT,
    marks=frozenset({"from_pretrained"}),
    defaults=script_defaults,
    decide=decide_script,
    fallback=lambda key: trainerarguments.passed_on(key) if key.startswith("args.") else None,
    notes=("only calls with literal arguments were read; the script was not run",),
)
