"""Which LoRA options exclude each other, and why: one sentence for each pair.

Read at load, before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterator

from soup_git.core.yamllines import Where
from soup_git.training.schema import DATA_INITS, PREQUANTIZED, SoupConfig, TrainingBlock

Problem = tuple[Where, str]
_TRAINING: Where = ("training",)
_LORA: Where = ("training", "lora")

# Tasks whose rows are plain sequences of tokens before the trainer is built.
WITH_TOKENS = frozenset({"sft", "pretrain"})
# Optimizers whose state has one number for each weight: what pruning can clear.
PLAIN_STATE = frozenset({"adamw_torch", "adamw_torch_fused", "adagrad", "rmsprop", "sgd"})
# Schedulers that are functions of the step (torch's LambdaLR); the others watch the loss.
_WATCHING = frozenset({"reduce_lr_on_plateau", "greedy"})

# PEFT's options that make another model of the base, which is there with the adapter off too.
_OTHER_BASE = frozenset({"kasa_config", "layer_replication"})

_LORA_ONLY = (
    *("use_dora", "use_rslora", "use_olora", "init_strategy", "rank_pattern", "alpha_pattern"),
    "target_parameters",
)
_ADAPTERS = {"use_vera": "VeRA", "use_vblora": "VB-LoRA"}


def check(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    """Every pair that does not go together; `given` are the keys that the file sets."""
    training = config.training
    yield from _kinds(training, given)
    yield from _inits(config, given)
    if config.compares:
        for key in _OTHER_BASE & set(training.lora.peft):
            yield (
                (*_LORA, "peft", key),
                f"changes the base, and {config.compares} compares with its answers",
            )
    yield from _quantized(training)
    yield from _loraplus(training, given)
    yield from _relora(config, given)
    yield from _frozen(training)


def _kinds(training: TrainingBlock, given: set[Where]) -> Iterator[Problem]:
    lora = training.lora
    exclusive = [k for k in ("use_dora", "use_vera", "use_vblora", "use_olora") if getattr(lora, k)]
    for key in exclusive[1:]:
        yield (*_LORA, key), f"excludes {exclusive[0]}: give one of them"
    key = f"use_{lora.kind}"
    if key not in _ADAPTERS:
        return
    name = _ADAPTERS[key]
    lacks = dict.fromkeys(_LORA_ONLY, "has no such option")
    lacks |= {
        "rank_pattern": "has one rank for all modules",
        "alpha_pattern": "has no alpha",
        "init_strategy": "has an init of its own",
        "target_parameters": "adapts linear layers only",
    }
    if lora.use_vera:
        lacks["exclude_modules"] = "cannot leave modules out: give target_modules instead"
    for option, why in lacks.items():
        if (*_LORA, option) in given and option not in exclusive:
            yield (*_LORA, option), f"{name} ({key}) {why}"
    if (*_LORA, "alpha") in given and lora.alpha != 1:
        yield (*_LORA, "alpha"), f"{name} ({key}) has no alpha: leave it out, or 1"
    for option in ("loraplus_lr_ratio", "relora_steps"):
        if getattr(training, option) is not None:
            yield (*_TRAINING, option), f"{name} (lora.{key}) has no A and B that train"
    if lora.use_vera and (training.freeze_layers or training.freeze_ratio):
        option = "freeze_layers" if training.freeze_layers else "freeze_ratio"
        yield (*_TRAINING, option), "use_vera cannot leave layers out: give target_modules instead"


def _inits(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    training, lora = config.training, config.training.lora
    if lora.use_olora and lora.init_strategy not in {"random", "olora"}:
        yield (*_LORA, "use_olora"), f"excludes init_strategy: {lora.init_strategy}"
    at: Where = (*_LORA, "use_olora" if lora.use_olora else "init_strategy")
    if lora.mutates_base:
        yield from _moved_base(config, at)
    if lora.init in DATA_INITS and config.task not in WITH_TOKENS:
        yield at, f"{lora.init} looks at token sequences, which task {config.task} does not have"
    if lora.init in {*DATA_INITS, "loftq"} and lora.target_parameters:
        yield (*_LORA, "target_parameters"), f"init_strategy: {lora.init} knows linear layers only"
    if lora.init == "eva" and lora.use_dora:
        yield (*_LORA, "use_dora"), "excludes init_strategy: eva, which sets A after DoRA's norms"
    yield from _loftq(training, given)
    if lora.init == "orthogonal":
        ranks = {("r",): lora.r} | {("rank_pattern", k): r for k, r in lora.rank_pattern.items()}
        for where, rank in ranks.items():
            if rank % 2:
                yield (*_LORA, *where), "init_strategy: orthogonal needs an even rank"


def _moved_base(config: SoupConfig, at: Where) -> Iterator[Problem]:
    """What goes with an init that takes its part out of the base's weights."""
    training, lora = config.training, config.training.lora
    why = f"excludes init_strategy: {lora.init}, whose result could not be saved as a plain adapter for the untouched base"
    clashes = {
        "use_dora": lora.use_dora,
        "target_parameters": lora.target_parameters,
        "peft": set(lora.peft) - {"corda_config"},
    }
    yield from (((*_LORA, key), why) for key, clash in clashes.items() if clash)
    if training.quantization != "none":
        yield at, f"{lora.init} needs an unquantized base"
    # Such a task gets the base's answer by turning the adapter off: where the base's weights
    # were moved, that is another model.
    if config.compares:
        yield at, f"{lora.init} moves the base, and {config.compares} compares with its answers"


def _loftq(training: TrainingBlock, given: set[Where]) -> Iterator[Problem]:
    lora = training.lora
    if lora.init != "loftq":
        for key in ("loftq_bits", "loftq_iter"):
            if (*_LORA, key) in given:
                yield (*_LORA, key), "needs init_strategy: loftq"
        return
    if training.quantization != "4bit":
        yield (
            (*_LORA, "init_strategy"),
            "loftq starts from the error of a 4-bit base: it needs quantization: 4bit, and a base that is not quantized yet",
        )
    if lora.use_dora:
        yield (*_LORA, "use_dora"), "excludes init_strategy: loftq, whose B does not start at zero"
    if lora.loftq_bits != 4:
        yield (*_LORA, "loftq_bits"), "the base is loaded in 4 bits, so 4"
    if lora.loftq_iter != 1:
        yield (
            (*_LORA, "loftq_iter"),
            "a second round moves the 4-bit base, so the adapter would not fit the untouched one",
        )


def _quantized(training: TrainingBlock) -> Iterator[Problem]:
    kind = training.quantization
    if kind == "none":
        return
    at = (*_TRAINING, "quantization")
    if training.reproducible == "portable":
        yield at, f"{kind} excludes reproducible: portable: its kernels differ between CPUs"
    if kind in PREQUANTIZED and training.device == "cpu" and kind in {"eetq", "mxfp4"}:
        yield at, f"{kind} has no kernels for a CPU"


def _loraplus(training: TrainingBlock, given: set[Where]) -> Iterator[Problem]:
    if training.loraplus_lr_ratio is None:
        if (*_TRAINING, "loraplus_lr_embedding") in given:
            yield (*_TRAINING, "loraplus_lr_embedding"), "needs loraplus_lr_ratio"
    elif "lomo" in training.optimizer:
        yield (
            (*_TRAINING, "loraplus_lr_ratio"),
            f"excludes optimizer: {training.optimizer}, which has one learning rate for all",
        )


def _relora(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    training, lora = config.training, config.training.lora
    merging = training.relora_mode == "merge"
    if training.relora_steps is None:
        names = (k for k in type(training).model_fields if k.startswith("relora_"))
        for key in (k for k in names if (*_TRAINING, k) in given):
            yield (*_TRAINING, key), "needs relora_steps"
        return
    if training.relora_restart_warmup is not None and not merging:
        yield (*_TRAINING, "relora_restart_warmup"), "needs relora_mode: merge"
    if (training.relora_restart_warmup or 0) >= training.relora_steps:
        yield (*_TRAINING, "relora_restart_warmup"), "should be less than relora_steps"
    at = (*_TRAINING, "relora_mode" if merging else "relora_steps")
    if lora.mutates_base or lora.init == "loftq":
        yield (
            at,
            (
                f"excludes init_strategy: {lora.init}: its factors hold a part of the base; "
                f"init_strategy: random, or leave {at[-1]} out"
            ),
        )
    if training.relora_reset_optimizer and training.optimizer not in PLAIN_STATE:
        yield (
            (*_TRAINING, "relora_reset_optimizer"),
            f"the state of {training.optimizer} is not one number per weight, so parts of it cannot be cleared; {', '.join(sorted(PLAIN_STATE))} can",
        )
    if merging:
        yield from _restarts(config, given)


def _restarts(config: SoupConfig, given: set[Where]) -> Iterator[Problem]:
    """What goes with relora_mode: merge, where base + adapter change places."""
    training, lora = config.training, config.training.lora
    at = (*_TRAINING, "relora_mode")
    clashes = {
        "use_dora": lora.use_dora,
        "target_parameters": lora.target_parameters,
        "peft": lora.peft,
        "init_strategy": lora.init in {"eva", "orthogonal"},
    }
    for key in (key for key, clash in clashes.items() if clash):
        yield (*_LORA, key), "excludes relora_mode: merge, which restarts plain A and B"
    if training.quantization != "none":
        yield at, "merge adds to the base's weights, and a quantized base takes none"
    if training.scheduler in _WATCHING:
        yield at, f"merge needs a schedule that is a function of the step: {training.scheduler}"
    if config.compares:
        yield at, f"merge moves the base, and {config.compares} compares with the base's answers"
    if (*_TRAINING, "relora_prune_ratio") in given and not training.relora_reset_optimizer:
        yield (
            (*_TRAINING, "relora_prune_ratio"),
            "in relora_mode: merge it is the share of the optimizer's state that is cleared: it needs relora_reset_optimizer: true",
        )


def _frozen(training: TrainingBlock) -> Iterator[Problem]:
    lora = training.lora
    if training.freeze_layers is not None and training.freeze_ratio is not None:
        yield (*_TRAINING, "freeze_ratio"), "excludes freeze_layers: give one of them"
    key = "freeze_layers" if training.freeze_layers is not None else "freeze_ratio"
    if getattr(training, key) is None:
        return
    if lora.layers_to_transform is not None:
        yield (*_TRAINING, key), "excludes lora.layers_to_transform: give one of them"
    if lora.target_parameters:
        yield (*_TRAINING, key), "excludes lora.target_parameters, which PEFT adapts in all layers"
