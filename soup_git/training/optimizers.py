"""Which optimizers of transformers can train an adapter here, and LoRA+ on top of any.

The names are transformers' own; what it asks for only when training starts is asked at load.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from soup_git.core.yamllines import Where
from soup_git.training import upstream
from soup_git.training.schema import SoupConfig, TrainingBlock

# A part of the optimizer's name, the package to import, and how pip calls it.
_NEEDS = (
    ("lomo", "lomo_optim", "lomo-optim"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("torch_4bit", "torchao", "torchao"),
    ("torch_8bit", "torchao", "torchao"),
    ("_xla", "torch_xla", "torch-xla"),
    ("_npu", "torch_npu", "torch-npu"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("8bit", "bitsandbytes", "bitsandbytes"),
    ("lion", "bitsandbytes", "bitsandbytes"),
    ("paged", "bitsandbytes", "bitsandbytes"),
    ("ademamix", "bitsandbytes", "bitsandbytes"),
    ("bnb", "bitsandbytes", "bitsandbytes"),
)
_PROJECTS = "saves memory on full weights by projecting their gradients to a low rank; an adapter's factors have a low rank already"
_REFUSED = {
    "galore": f"GaLore {_PROJECTS}",
    "apollo": f"APOLLO {_PROJECTS}",
    "schedule_free": "it trains one set of weights and means another, their average, to be used; transformers saves the first",
}
_AT: Where = ("training", "optimizer")


def check(name: Any) -> Iterator[tuple[Where, str]]:
    """Why `training.optimizer: name` cannot be honoured with what is installed."""
    names = upstream.enum_values("transformers", "training_args.py", "OptimizerNames")
    if not isinstance(name, str):
        return
    if name not in names:
        yield _AT, f"{name} is not one of {', '.join(names)}"
        return
    for part, why in _REFUSED.items():
        if name.startswith(part):
            yield _AT, f"{name}: {why}"
            return
    for part, package, pip_name in _NEEDS:
        if part in name:
            if not upstream.installed(package):
                yield _AT, f"{name} needs {package}, which is not installed: pip install {pip_name}"
            return


# Optimizers by a part of their names -> the keys of `trl: {optim_args: "a=1,b=2"}` that
# transformers reads for them. The others read none.
_ARGS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum", "dampening", "nesterov"),
    "adagrad": ("lr_decay", "eps"),
    "rmsprop": ("momentum", "alpha", "eps", "centered"),
    "ademamix": ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3"),
    "anyprecision": (
        *("use_kahan_summation", "momentum_dtype", "variance_dtype", "compensation_buffer_dtype"),
    ),
    "grokadamw": (
        *("alpha_init", "lamb", "gamma", "grokking_signal_decay_rate", "gradient_clipping"),
    ),
    "torch_4bit": ("block_size", "bf16_stochastic_round"),
    "torch_8bit": ("block_size", "bf16_stochastic_round"),
    "stable_adamw": ("max_lr", "kahan_sum", "decouple_lr"),
}


def has_betas(name: str) -> bool:
    """Does transformers give it `adam_beta1` and `adam_beta2`?"""
    return name != "grokadamw" and any(part in name for part in ("adam", "ademamix", "lion"))


def has_epsilon(name: str) -> bool:
    """Does transformers give it `adam_epsilon`?"""
    return has_betas(name) and "lion" not in name


def unread(training: TrainingBlock) -> Iterator[tuple[Where, str]]:
    """Arguments under `trl.optim_args` that this optimizer does not read."""
    given = training.trl.get("optim_args")
    if not isinstance(given, str):
        return
    at: Where = ("training", "trl", "optim_args")
    known = next((keys for part, keys in _ARGS.items() if part in training.optimizer), ())
    for pair in filter(None, given.replace(" ", "").split(",")):
        key = pair.partition("=")[0]
        if key == "weight_decay":
            yield at, "weight_decay is training.weight_decay here"
        elif key not in known:
            takes = f"it reads {', '.join(known)}" if known else "it reads none of them"
            yield at, f"{training.optimizer} has no {key}: {takes}"


def check_device(config: SoupConfig, device: str) -> None:
    """Refuse an optimizer whose kernels `device` ("cpu", "cuda") does not have."""
    name = config.training.optimizer
    reasons = {
        "paged": "pages its state out of a GPU, and there is none here",
        "adalomo": "has its numbers on a GPU, and there is none here",
    }
    for part, why in reasons.items():
        if device == "cpu" and part in name:
            raise config.refuse("training.optimizer", f"{name} {why}")


def loraplus(trainer: Any, config: SoupConfig) -> Any:
    """An optimizer whose B matrices learn at `loraplus_lr_ratio` times the rate of the rest.

    PEFT counts every vector among them: DoRA's lengths, and the base's biases. Only B is meant.
    Built on the class and options that `training.optimizer` means to transformers.
    """
    from peft.optimizers import create_loraplus_optimizer

    training = config.training
    optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    optimizer = create_loraplus_optimizer(
        trainer.model,
        optimizer_class,
        loraplus_lr_ratio=training.loraplus_lr_ratio,
        loraplus_lr_embedding=training.loraplus_lr_embedding,
        loraplus_weight_decay=training.weight_decay,
        **options,
    )
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    slow, embeddings, *fast = optimizer.param_groups
    if not embeddings["params"] and config.given("training.loraplus_lr_embedding"):
        raise config.refuse(
            "training.loraplus_lr_embedding", "is for adapted embeddings, and none has an adapter"
        )
    for group in fast:
        others = [p for p in group["params"] if ".lora_B." not in names[id(p)]]
        group["params"] = [p for p in group["params"] if ".lora_B." in names[id(p)]]
        if not others:
            continue
        if group["weight_decay"] == slow["weight_decay"]:
            slow["params"] += others
        else:
            rest = {"params": others, "lr": slow["lr"], "weight_decay": group["weight_decay"]}
            optimizer.add_param_group(rest)
    return optimizer
