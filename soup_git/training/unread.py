"""Options of TRL's and transformers' config classes that nothing would read in this config.

Their classes take each option with any other, and their trainers leave out without a word what
the others do not ask for. The tables say what asks for it; an option that a task never reads is
in the task's own row (tasks.py), and one that nothing reads, in passthrough.py.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from soup_git.core.yamllines import Where
from soup_git.training import optimizers
from soup_git.training.methods import labelled, pairs
from soup_git.training.schema import SoupConfig

Problem = tuple[Where, str]
_TRL: Where = ("training", "trl")

# Schedulers of transformers that are made without a warm-up, and without options.
_NO_WARMUP = frozenset({"constant", "reduce_lr_on_plateau", "greedy"})
_NO_OPTIONS = frozenset({"constant", "constant_with_warmup"})
# What takes the length of a row from its one sequence of tokens.
_BY_LENGTH = frozenset({"group_by_length", "batch_rebalance"})
_ONE_SEQUENCE = frozenset(
    {"sft", "pretrain", "distill", "classifier", "reranker", "cross_encoder", "prm"}
)


@dataclass(frozen=True)
class Need:
    """What has to be so for an option to be read: in words, and as a question to a config."""

    says: str
    holds: Callable[[SoupConfig], Any]


_VALIDATION = Need(
    "a validation loss: data.val_split above 0, or data.validation",
    lambda c: c.data.validation is not None or c.data.val_split,
)
_PACKING = Need("packing: true", lambda c: c.training.packing)
_CHECKPOINTING = Need("gradient_checkpointing: true", lambda c: c.training.gradient_checkpointing)
_SCHEDULE = Need("a scheduler with options", lambda c: c.training.scheduler not in _NO_OPTIONS)
_BETAS = Need("Adam's betas in optimizer", lambda c: optimizers.has_betas(c.training.optimizer))
_EPSILON = Need("Adam's eps in optimizer", lambda c: optimizers.has_epsilon(c.training.optimizer))
_KL = Need("grpo_beta above 0", lambda c: c.training.grpo_beta)
_OWN_RATES = Need("loraplus_lr_ratio left out", lambda c: c.training.loraplus_lr_ratio is None)
_DROPOUT = Need(
    "lora.dropout above 0: without it the ratio that it limits is always 1",
    lambda c: c.training.lora.dropout,
)
_ONE_LABEL = Need(
    "one label for each row (single_label)",
    lambda c: c.method.head != "labels" or labelled.kind(c) == "single_label",
)
_LENGTHS = Need(
    "rows of one sequence of tokens each",
    lambda c: (
        c.training.trl["train_sampling_strategy"] not in _BY_LENGTH or c.task in _ONE_SEQUENCE
    ),
)


def _trl(option: str, value: Any = None, default: Any = None) -> Need:
    """`trl: {option: value}`; without a value, any that asks for something."""
    says = f"trl.{option}" if value is None else f"trl.{option}: {value}"

    def holds(config: SoupConfig) -> bool:
        given = config.training.trl.get(option, default)
        return bool(given) if value is None else given == value

    return Need(says, holds)


# Option -> all of what has to be so for anything to read it.
_NEEDS: dict[str, tuple[Need, ...]] = {
    "per_device_eval_batch_size": (_VALIDATION,),
    "eval_delay": (_VALIDATION,),
    "eval_on_start": (_VALIDATION,),
    "num_generations_eval": (_VALIDATION,),
    "packing_strategy": (_PACKING,),
    "eval_packing": (_VALIDATION,),
    "gradient_checkpointing_kwargs": (_CHECKPOINTING,),
    "liger_kernel_config": (_trl("use_liger_kernel"),),
    "dataloader_prefetch_factor": (_trl("dataloader_num_workers"),),
    "dataloader_persistent_workers": (_trl("dataloader_num_workers"),),
    "dataloader_multiprocessing_context": (_trl("dataloader_num_workers"),),
    "dataloader_in_order": (_trl("dataloader_num_workers"),),
    "train_sampling_strategy": (_LENGTHS,),
    "label_smoothing_factor": (_ONE_LABEL, _trl("loss_type", "nll", default="nll")),
    "lr_scheduler_kwargs": (_SCHEDULE,),
    "adam_beta1": (_BETAS,),
    "adam_beta2": (_BETAS,),
    "adam_epsilon": (_EPSILON,),
    "learning_rate_mapping": (_OWN_RATES,),
    "precompute_ref_batch_size": (_trl("precompute_ref_log_probs"),),
    "f_alpha_divergence_coef": (_trl("f_divergence_type", "alpha_divergence"),),
    "epsilon": (_DROPOUT,),
    "epsilon_high": (_DROPOUT,),
    "use_bias_correction_kl": (_KL,),
    "entropy_coef_min": (_trl("use_adaptive_entropy"),),
    "entropy_coef_max": (_trl("use_adaptive_entropy"),),
    "entropy_coef_delta": (_trl("use_adaptive_entropy"),),
    "entropy_target": (_trl("use_adaptive_entropy"),),
}

# Losses of DPO's trainer, and of CPO's, by TRL's names: option -> those that read it.
_DPO_LOSSES: dict[str, frozenset[str]] = {
    "label_smoothing": frozenset({"robust", "exo_pair", "aot", "aot_unpaired"}),
    "discopop_tau": frozenset({"discopop"}),
}
_CPO_LOSSES: dict[str, frozenset[str]] = {"label_smoothing": frozenset({"sigmoid", "simpo"})}
# The one loss of DPO's trainer that compares with nothing, and what it leaves unread.
_IMITATION = ["sft"]
_OF_COMPARISONS: tuple[Where, ...] = (
    *(("training", key) for key in ("dpo_beta", "dpo_beta_schedule", "dpo_beta_end")),
    *((*_TRL, key) for key in ("ld_alpha", "f_divergence_type", "precompute_ref_log_probs")),
)


def check(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    """Every option that is set and that nothing reads; `given` are the keys that the file sets."""
    training = config.training
    if training.scheduler in _NO_WARMUP:
        for key in ("warmup_ratio", "warmup_steps"):
            if getattr(training, key):
                better = "constant_with_warmup" if training.scheduler == "constant" else "cosine"
                yield (
                    ("training", key),
                    f"scheduler {training.scheduler} has no warm-up; {better} has",
                )
    if training.eval_steps is not None and not _VALIDATION.holds(config):
        yield ("training", "eval_steps"), f"needs {_VALIDATION.says}"
    for option, value in training.trl.items():
        # false, 0 and null ask for nothing, and a task's row may have a better reason.
        if value and not any(fnmatch.fnmatchcase(option, key) for key in config.method.refuses):
            for need in _NEEDS.get(option, ()):
                if not need.holds(config):
                    yield (*_TRL, option), f"has no effect: it needs {need.says}"
    yield from _losses(config, given)
    yield from optimizers.unread(training)


def _losses(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    losses, readers = _losses_of(config)
    for option, those in readers.items():
        if config.training.trl.get(option) and not those.intersection(losses):
            readers_of_it = ", ".join(sorted(those))
            why = f"has no effect: only {readers_of_it} read it, and this is {', '.join(losses)}"
            yield (*_TRL, option), why
    if losses == _IMITATION:
        for where in _OF_COMPARISONS:
            if where in given:
                yield where, "has no effect: preference_loss sft compares with nothing"


def _losses_of(config: SoupConfig) -> tuple[list[str], dict[str, frozenset[str]]]:
    """The losses that are computed, by TRL's names, and which options only some of them read."""
    method, trl = config.method, config.training.trl
    if method.needs and all(getattr(config.training, key) is None for key in method.needs):
        return [], {}  # that no loss is named is an error by itself
    if method.config == "trl:DPOConfig":
        if method.works_out:
            return pairs.losses(config)["loss_type"], _DPO_LOSSES
        return list(method.sets.get("loss_type", ["sigmoid"])), _DPO_LOSSES
    if method.config.endswith(":CPOConfig"):
        return [method.sets.get("loss_type") or trl.get("loss_type", "sigmoid")], _CPO_LOSSES
    return [], {}
