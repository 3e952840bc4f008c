"""`freeze_layers` and `freeze_ratio`: the lowest layers get no adapter, the upper ones do."""

from __future__ import annotations

import re
from typing import Any

from soup_git.training.schema import SoupConfig


def frozen_layers(model: Any, config: SoupConfig) -> tuple[str, int]:
    """The name of the list of layers and how many of its first ones are frozen.

    Raises FatalError where no layer would be left, or none can be counted.
    """
    training = config.training
    key = "freeze_layers" if training.freeze_layers is not None else "freeze_ratio"
    if training.freeze_layers is None and training.freeze_ratio is None:
        return "", 0
    total = model.config.get_text_config().num_hidden_layers
    lists = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ == "ModuleList" and len(module) == total
    ]
    if not lists:
        raise config.refuse(f"training.{key}", f"the layers of {config.base} cannot be found")
    count = training.freeze_layers
    if count is None:
        count = int(training.freeze_ratio * total)
        if not count:
            raise config.refuse(
                "training.freeze_ratio", f"{training.freeze_ratio:g} of {total} layers is none"
            )
    if count >= total:
        raise config.refuse(f"training.{key}", f"{config.base} has {total} layers: none is left")
    # The layers of the text model are the list nearest to the root.
    return min(lists, key=lambda name: name.count(".")), count


def excluding(exclude: str | list[str] | None, layers: str, count: int) -> str | list[str] | None:
    """`exclude_modules` with the first `count` modules of the list `layers` as well."""
    if not count:
        return exclude
    numbers = "|".join(map(str, range(count)))
    frozen = rf"(.*\.)?{re.escape(layers)}\.({numbers})\..*"
    if exclude is None:
        return frozen
    if isinstance(exclude, list):
        names = "|".join(re.escape(name) for name in exclude)
        exclude = rf"(.*\.)?({names})"
    return f"({exclude})|({frozen})"


def still(peft_model: Any, layers: str, count: int) -> None:
    """Stop what else would train in the frozen layers: biases of the base (`bias: all`)."""
    prefixes = tuple(f"base_model.model.{layers}.{n}." for n in range(count))
    for name, parameter in peft_model.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
