"""The training methods, one row each.

A row is data. Classes and functions are named, not imported: the trainers cost seven seconds,
and `git soup` reads this table for its help, its schema and its checks.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Source = tuple[str, str, str]  # package, file, class


@dataclass(frozen=True)
class Head:
    """What a model answers with: transformers' class for it, and PEFT's word."""

    auto: str
    task_type: str


HEADS = {
    "words": Head("AutoModelForCausalLM", "CAUSAL_LM"),
    "labels": Head("AutoModelForSequenceClassification", "SEQ_CLS"),
    "token labels": Head("AutoModelForTokenClassification", "TOKEN_CLS"),
    "vectors": Head("AutoModel", "FEATURE_EXTRACTION"),
}
# A head of labels in transformers' models: new in most bases, trained and saved whole by PEFT.
SAVED_HEADS = ("score", "classifier")
LABELLING = ("labels", "token labels")


@dataclass(frozen=True)
class Task:
    """One method: what it reads, who trains it, and which options are its own.

    What a name refers to is written `module:attribute` and loaded by `load`.
    """

    name: str
    summary: str
    paper: str
    shapes: tuple[str, ...]
    """What a row looks like after conversion, see data/formats.py."""
    encode: str
    """A row -> Example: its tokens, and what else the trainer reads of it (prepared.py)."""
    columns: str
    """Examples -> the columns of the trainer's table."""
    trainer: str
    config: str
    config_sources: tuple[Source, ...]
    """Where the names of the trainer's options are, base class first."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Keys of `training` that not every task honours -> the trainer's option that each becomes,
    empty where our own code reads it."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Options of the trainer that make this method of it."""
    works_out: str = ""
    """Config -> options of the trainer that take more than a new name."""
    check: str = ""
    """Config, keys that the file gives -> what does not go together, beside what is said here."""
    needs: tuple[str, ...] = ()
    """Keys of `training` of which exactly one has to be given."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `training` whose default is another for this task ("lora.dropout")."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Options of the trainer that would do nothing -> why."""
    compares: bool = False
    """Is the base, without the adapter, what the adapter's answers are compared with, whatever
    the options say? Whether a config compares is SoupConfig.compares."""
    head: str = "words"
    """What the model answers with: a key of HEADS."""
    head_options: str = ""
    """Config -> what the head is made with."""
    check_row: str = ""
    """Row, config -> BadRowError for what does not fit this config; before torch is imported."""
    equip: str = ""
    """Model, reading, examples -> what else the trainer is constructed with."""
    notes: str = ""
    """Config -> what to say before the first step, in lines."""
    inputs: str = ""
    """Config, workspace -> sha256 of each file that decides the bytes beside data and config."""
    long_rows: Literal["cut", "drop"] = "cut"
    """What happens to rows beyond data.max_length."""

    @property
    def packages(self) -> list[str]:
        """What has to be installed, by its name in Python."""
        named = (self.trainer, self.config)
        found = [n.partition(":")[0].partition(".")[0] for n in named]
        found += [package for package, _, _ in self.config_sources]
        return [package for package in dict.fromkeys(found) if package != "soup_git"]


TRAINING_ARGUMENTS: tuple[Source, ...] = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
)

# What task preference takes as a loss. Those that DPO's trainer computes can be mixed.
MIXED_LOSSES: dict[str, str] = {
    "dpo": "sigmoid",
    "ipo": "ipo",
    "bco": "bco_pair",
    **{
        name: name
        for name in (
            *("hinge", "robust", "exo_pair", "nca_pair", "sppo_hard", "aot", "aot_unpaired"),
            *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
        )
    },
}
PREFERENCE_LOSSES = (*MIXED_LOSSES, "orpo", "cpo", "simpo")

# Comparing wants small steps and the answers as they are: TRL switches dropout off.
_COMPARING = {"lr": 1e-5, "lora.dropout": 0.0}
# What transformers' own loss reads, and a trainer with another one does not.
_NO_SMOOTHING = {"label_smoothing_factor": "the trainer would not read it"}
_PAIRS = "soup_git.training.methods.pairs"
# A task with one loss is that loss.
_ONE_LOSS = {
    **_NO_SMOOTHING,
    "loss_type": "task preference has the losses, by preference_loss",
    "loss_weights": "task preference has the losses, by preference_loss_weights",
}
_DPO: dict[str, Any] = {
    "shapes": ("pairs",),
    "encode": f"{_PAIRS}:pair",
    "columns": f"{_PAIRS}:columns",
    "trainer": "soup_git.training.methods.pairtrainers:DPO",
    "config": "trl:DPOConfig",
    "config_sources": (*TRAINING_ARGUMENTS, ("trl", "trainer/dpo_config.py", "DPOConfig")),
    "check": f"{_PAIRS}:check_schedule",
    "defaults": _COMPARING,
    "compares": True,
}
_NEFTUNE = {"neftune_alpha": "neftune_noise_alpha"}
_SCHEDULE = {"dpo_beta_schedule": "", "dpo_beta_end": "", **_NEFTUNE}
_NO_REFERENCE: dict[str, Any] = {
    "shapes": ("pairs",),
    "encode": f"{_PAIRS}:pair",
    "columns": f"{_PAIRS}:labelled_columns",
    "defaults": _COMPARING,
    "refuses": {
        **_NO_SMOOTHING,
        "max_completion_length": "data.max_length is for prompt and answer together",
        "is_encoder_decoder": "the base decides it",
        "generate_during_eval": "trackers are off: the run's history is in git",
    },
}
_PROMPTS = "soup_git.training.methods.prompts"
_REWARDS = {
    "reward_fn": "",
    "reward_model": "",
    "reward_timeout": "",
    "verifiable_domain": "",
    "num_generations": "num_generations",
}
_RL: dict[str, Any] = {
    "shapes": ("prompt", "messages", "prompt_completion"),
    "encode": f"{_PROMPTS}:question",
    "columns": f"{_PROMPTS}:columns",
    "check": f"{_PROMPTS}:check",
    "check_row": f"{_PROMPTS}:check_row",
    "inputs": f"{_PROMPTS}:inputs",
    "equip": f"{_PROMPTS}:equip",
    "defaults": _COMPARING,
    "long_rows": "drop",
    "refuses": {
        **_NO_SMOOTHING,
        "train_sampling_strategy": "TRL draws the prompts, group by group",
        "data_seed": "training.seed draws the prompts",
        "*vllm*": "answers are generated in the process that trains",
        "use_transformers_*": "answers are generated in the process that trains",
        "transformers_continuous_*": "answers are generated in the process that trains",
        "log_completions*": "trackers are off: the run's history is in git",
        "log_multimodal": "trackers are off: the run's history is in git",
        "log_unique_prompts": "trackers are off: the run's history is in git",
        "num_completions_to_print": "trackers are off: the run's history is in git",
        "chat_template_kwargs": "prompts are tokens before TRL sees them",
    },
}
# A checkpoint lies between two generations, so each answer is used for one step, by the model
# that gave it.
_ON_POLICY = "an answer is used for one step, so the ratio of new to old that it looks at is 1"
_GRPO_REFUSES = {
    "max_tool_calling_iterations": "calls no tools",
    "loss_type": "training.grpo_variant says it",
    "importance_sampling_level": "training.grpo_variant says it",
    **dict.fromkeys(
        ("epsilon", "epsilon_high", "sapo_*", "vespo_*", "off_policy_mask_threshold"), _ON_POLICY
    ),
}
_LABELLED = "soup_git.training.methods.labelled"
_LABELS: dict[str, Any] = {
    "columns": f"{_LABELLED}:columns",
    "trainer": "transformers:Trainer",
    "config": "transformers:TrainingArguments",
    "config_sources": TRAINING_ARGUMENTS[:1],
    "sets": {"remove_unused_columns": False, "label_names": ["labels"]},
    "head": "labels",
    "head_options": f"{_LABELLED}:head",
    "check": f"{_LABELLED}:check",
    "check_row": f"{_LABELLED}:check_row",
    "equip": f"{_LABELLED}:equip",
}
_OWN_LOSS: dict[str, Any] = {
    **{k: _LABELS[k] for k in ("config", "config_sources", "sets")},
    "refuses": _NO_SMOOTHING,
}
_DISTILL = "soup_git.training.methods.distill"
_STEPS = "soup_git.training.methods.steps"
_RELATED = "soup_git.training.methods.related"
_CPO: dict[str, Any] = {
    **_NO_REFERENCE,
    "trainer": "soup_git.training.methods.pairtrainers:CPO",
    "config": "trl.experimental.cpo:CPOConfig",
    "config_sources": (
        *TRAINING_ARGUMENTS,
        ("trl", "experimental/cpo/cpo_config.py", "CPOConfig"),
    ),
}

TASKS: dict[str, Task] = {
    "sft": Task(
        name="sft",
        summary="supervised fine-tuning on conversations, prompts with completions, or text",
        paper="https://arxiv.org/abs/2203.02155",
        shapes=("messages", "prompt_completion", "text"),
        encode="soup_git.training.tokens:example",
        columns="soup_git.training.tokens:columns",
        trainer="trl:SFTTrainer",
        config="trl:SFTConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/sft_config.py", "SFTConfig")),
        options={"assistant_only_loss": "", "packing": "packing", **_NEFTUNE},
        check="soup_git.training.methods.packed:check",
    ),
    "pretrain": Task(
        name="pretrain",
        summary="continues pre-training on text; long documents are split, not cut",
        paper="https://arxiv.org/abs/2004.10964",
        shapes=("text",),
        encode="soup_git.training.tokens:example",
        columns="soup_git.training.tokens:columns",
        trainer="trl:SFTTrainer",
        config="trl:SFTConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/sft_config.py", "SFTConfig")),
        options={"packing": "packing", **_NEFTUNE},
        check="soup_git.training.methods.packed:check",
        sets={"packing_strategy": "bfd_split"},
        defaults={"packing": True},
    ),
    "dpo": Task(
        name="dpo",
        summary="the chosen answer above the rejected one, measured from the base",
        paper="https://arxiv.org/abs/2305.18290",
        options={"dpo_beta": "beta", **_SCHEDULE},
        refuses=_ONE_LOSS,
        **_DPO,
    ),
    "ipo": Task(
        name="ipo",
        summary="as dpo, with a margin to reach instead of one without end",
        paper="https://arxiv.org/abs/2310.12036",
        options={"ipo_tau": "beta", **_SCHEDULE},
        sets={"loss_type": ["ipo"]},
        refuses=_ONE_LOSS,
        **_DPO,
    ),
    "bco": Task(
        name="bco",
        summary="a classifier of good and bad answers, on pairs",
        paper="https://arxiv.org/abs/2404.04656",
        options={"bco_beta": "beta", **_SCHEDULE},
        sets={"loss_type": ["bco_pair"]},
        refuses=_ONE_LOSS,
        **_DPO,
    ),
    "preference": Task(
        name="preference",
        summary="any of these losses by preference_loss, or several by preference_loss_weights",
        paper="https://arxiv.org/abs/2411.10442",
        options={
            "preference_loss": "",
            "preference_loss_weights": "",
            "dpo_beta": "beta",
            **_SCHEDULE,
        },
        works_out=f"{_PAIRS}:losses",
        needs=("preference_loss", "preference_loss_weights"),
        refuses={
            **_NO_SMOOTHING,
            "loss_type": "training.preference_loss says it",
            "loss_weights": "training.preference_loss_weights says it",
        },
        **_DPO,
    ),
    "kto": Task(
        name="kto",
        summary="answers that are good or bad, each by itself, measured from the base",
        paper="https://arxiv.org/abs/2402.01306",
        shapes=("judged",),
        encode=f"{_PAIRS}:judged",
        columns=f"{_PAIRS}:judged_columns",
        trainer="soup_git.training.methods.pairtrainers:KTO",
        config="trl:KTOConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/kto_config.py", "KTOConfig")),
        options={"kto_beta": "beta", **_NEFTUNE},
        check=f"{_PAIRS}:check_kto",
        refuses=_NO_SMOOTHING,
        defaults=_COMPARING,
        compares=True,
    ),
    "orpo": Task(
        name="orpo",
        summary="imitates the chosen answer and lowers the odds of the rejected one",
        paper="https://arxiv.org/abs/2403.07691",
        trainer="soup_git.training.methods.pairtrainers:ORPO",
        config="trl.experimental.orpo:ORPOConfig",
        config_sources=(
            *TRAINING_ARGUMENTS,
            ("trl", "experimental/orpo/orpo_config.py", "ORPOConfig"),
        ),
        options={"orpo_beta": "beta", **_NEFTUNE},
        sets={"remove_unused_columns": False},
        **_NO_REFERENCE
        | {
            "refuses": {
                **_NO_REFERENCE["refuses"],
                "padding_value": "padding is masked, whatever it is",
            }
        },
    ),
    "cpo": Task(
        name="cpo",
        summary="as dpo without a reference, and imitates the chosen answer",
        paper="https://arxiv.org/abs/2401.08417",
        options={"cpo_alpha": "cpo_alpha", **_NEFTUNE},
        sets={"remove_unused_columns": False},
        check=f"{_PAIRS}:check_cpo",
        **_CPO | {"refuses": {**_CPO["refuses"], "simpo_gamma": "task simpo has it"}},
    ),
    "simpo": Task(
        name="simpo",
        summary="compares log-probabilities per token, with a margin and without a reference",
        paper="https://arxiv.org/abs/2405.14734",
        options={"simpo_gamma": "simpo_gamma", "cpo_alpha": "cpo_alpha", **_NEFTUNE},
        sets={"loss_type": "simpo", "cpo_alpha": 0.0, "remove_unused_columns": False},
        **_CPO,
    ),
    "grpo": Task(
        name="grpo",
        summary="answers by itself, in groups, and learns from which got more reward",
        paper="https://arxiv.org/abs/2402.03300",
        trainer="soup_git.training.methods.rltrainers:GRPO",
        config="trl:GRPOConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/grpo_config.py", "GRPOConfig")),
        options={"grpo_beta": "beta", "grpo_variant": "", "grpo_delta": "delta", **_REWARDS},
        works_out=f"{_PROMPTS}:variant",
        notes=f"{_PROMPTS}:variant_here",
        **_RL | {"refuses": {**_RL["refuses"], **_GRPO_REFUSES}},
    ),
    "rloo": Task(
        name="rloo",
        summary="as grpo, with each answer measured from the mean of the others, near the base",
        paper="https://arxiv.org/abs/2402.14740",
        trainer="soup_git.training.methods.rltrainers:RLOO",
        config="trl:RLOOConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/rloo_config.py", "RLOOConfig")),
        options=_REWARDS,
        compares=True,
        **_RL,
    ),
    "reward_model": Task(
        name="reward_model",
        summary="scores answers, from which of two is better; rloo and grpo learn from it",
        paper="https://arxiv.org/abs/2203.02155",
        shapes=("pairs",),
        encode=f"{_PAIRS}:pair",
        columns=f"{_PAIRS}:whole_columns",
        trainer="trl:RewardTrainer",
        config="trl:RewardConfig",
        config_sources=(*TRAINING_ARGUMENTS, ("trl", "trainer/reward_config.py", "RewardConfig")),
        head="labels",
        head_options=f"{_LABELLED}:one_number",
        refuses=_NO_SMOOTHING,
        long_rows="drop",
        defaults={"lr": 1e-4},
    ),
    "classifier": Task(
        name="classifier",
        summary="labels texts: one label each, several, or a number",
        paper="https://arxiv.org/abs/1810.04805",
        shapes=("labelled",),
        encode=f"{_LABELLED}:text",
        options={"num_labels": "", "classifier_kind": "", "label_names": ""},
        **_LABELS,
    ),
    "reranker": Task(
        name="reranker",
        summary="scores how well a document answers a query",
        paper="https://arxiv.org/abs/1901.04085",
        shapes=("ranked", "text_pair"),
        encode=f"{_LABELLED}:pair",
        **_LABELS,
    ),
    "cross_encoder": Task(
        name="cross_encoder",
        summary="labels or scores two texts read together",
        paper="https://arxiv.org/abs/1908.10084",
        shapes=("text_pair",),
        encode=f"{_LABELLED}:pair",
        options={"num_labels": "", "classifier_kind": "", "label_names": ""},
        **_LABELS,
    ),
    "prm": Task(
        name="prm",
        summary="judges each step of an answer, not only the whole",
        paper="https://arxiv.org/abs/2305.20050",
        shapes=("steps",),
        encode=f"{_STEPS}:steps",
        columns=f"{_STEPS}:columns",
        trainer="transformers:Trainer",
        head="token labels",
        head_options=f"{_STEPS}:right_or_wrong",
        equip=f"{_STEPS}:equip",
        options={"step_separator": ""},
        **_OWN_LOSS,
    ),
    "distill": Task(
        name="distill",
        summary="a teacher's probabilities for each word of given answers, and the answers",
        paper="https://arxiv.org/abs/1503.02531",
        shapes=("messages", "prompt_completion", "text"),
        encode="soup_git.training.tokens:example",
        columns="soup_git.training.tokens:columns",
        trainer="soup_git.training.methods.distilltrainer:Distill",
        options={
            "teacher_model": "",
            "teacher_revision": "",
            "distill_divergence": "",
            "distill_temperature": "",
            "distill_ce_weight": "",
            "assistant_only_loss": "",
            **_NEFTUNE,
        },
        needs=("teacher_model",),
        check=f"{_DISTILL}:check",
        inputs=f"{_DISTILL}:inputs",
        equip=f"{_DISTILL}:equip",
        **_OWN_LOSS,
    ),
    "embedding": Task(
        name="embedding",
        summary="texts to vectors that are near where the texts belong together",
        paper="https://arxiv.org/abs/1908.10084",
        shapes=("related",),
        encode=f"{_RELATED}:texts",
        columns=f"{_RELATED}:columns",
        trainer="soup_git.training.methods.embeddingtrainer:Embedding",
        config="sentence_transformers:SentenceTransformerTrainingArguments",
        config_sources=(
            TRAINING_ARGUMENTS[0],
            ("sentence_transformers", "base/training_args.py", "BaseTrainingArguments"),
        ),
        options={f"embedding_{key}": "" for key in ("loss", "temperature", "margin", "pooling")},
        sets={"remove_unused_columns": False},
        refuses={
            **_NO_SMOOTHING,
            "train_sampling_strategy": "batch_sampler says it",
            "data_seed": "training.seed draws the batches",
            **dict.fromkeys(("prompts", "router_mapping"), "rows are tokens already"),
            "multi_dataset_batch_sampler": "there is one dataset",
            "warmup_ratio": "training.warmup_ratio says it",
        },
        head="vectors",
        check=f"{_RELATED}:check",
        check_row=f"{_RELATED}:check_row",
        equip=f"{_RELATED}:equip",
    ),
}

# What the original tool has and upstream has no more -> what does its work here.
GONE = {
    "ppo": "is gone from TRL; task rloo, or grpo, with training.reward_model does its work",
}


def load(reference: str) -> Any:
    """`"trl:SFTTrainer"` -> the class. The one place where a row's names become imports."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
