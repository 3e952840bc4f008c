"""Two places where PEFT and an architecture do not fit, and what makes them fit.

Both look at the architecture and at the class of the modules, and leave every other model
as it is.

Gemma 4 wraps the linear layers of its vision and audio towers in a module that clips what
goes in and out. `target_modules: [q_proj]` means the wrapper there and the layer itself in
the text model; PEFT knows no such wrapper and refuses all of it. The adapter belongs on the
layer inside: the clipping stays where it was.

Mixtures of experts keep the weights of all experts in one 3-D parameter (`target_parameters`).
all-linear, and the names that the experts' layers had before, mean these parameters as well.
PEFT cannot drop out the inputs of such an adapter and refuses any dropout in its config, also
that of the attention's linear layers. Those get it back after the adapter is attached.
"""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

from soup_git.training.lora.kinds import Targets
from soup_git.training.schema import LoraBlock

_CLIPPABLE = "Gemma4ClippableLinear"


def clippable(model: Any) -> list[str]:
    """Names of Gemma 4's clipping wrappers; of no other architecture's modules."""
    if not str(getattr(model.config, "model_type", "")).startswith("gemma4"):
        return []
    return [name for name, m in model.named_modules() if type(m).__name__ == _CLIPPABLE]


def inside_wrappers(model: Any, targets: Targets) -> Targets:
    """`targets` that name the linear layer inside each clipping wrapper, not the wrapper."""
    if not isinstance(targets.modules, list):
        return targets  # all-linear finds the layers inside by itself; a pattern is exact
    wrapped = [name for name in clippable(model) if named(name, targets.modules)]
    if not wrapped:
        return targets
    inner = sorted({f"{name.rpartition('.')[2]}.linear" for name in wrapped})
    # A wrapper that the user leaves out takes the layer inside with it.
    left_out = [f"{name}.linear" for name in wrapped if named(name, targets.exclude)]
    names = [*wrapped, *left_out]
    if isinstance(targets.exclude, str):
        exclude: str | list[str] = f"({targets.exclude})|({'|'.join(map(re.escape, names))})"
    else:
        exclude = [*(targets.exclude or []), *names]
    return replace(targets, modules=[*targets.modules, *inner], exclude=exclude)


def named(module: str, names: str | list[str] | None) -> bool:
    """Does `names` mean this module? PEFT's rule: a whole pattern, or ends of dotted names."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def adapts_parameters(model: Any, peft_config: Any) -> bool:
    """Will PEFT adapt raw parameters, asked for or as what it makes of modules' names?"""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    tried = copy.deepcopy(peft_config)
    convert_peft_config_for_transformers(tried, model, conversions=None)
    return bool(getattr(tried, "target_parameters", None))


def take_dropout(model: Any, peft_config: Any) -> None:
    """No dropout in the config, where raw parameters are adapted: PEFT refuses any."""
    if getattr(peft_config, "lora_dropout", 0.0) and adapts_parameters(model, peft_config):
        peft_config.lora_dropout = 0.0


def give_dropout_back(peft_model: Any, lora: LoraBlock) -> None:
    """Dropout on the linear layers that share an adapter with raw parameters."""
    taken = getattr(peft_model.peft_config["default"], "lora_dropout", lora.dropout)
    if taken == lora.dropout:
        return
    import torch
    from peft.tuners.lora import Linear

    for module in peft_model.modules():
        if isinstance(module, Linear):
            module.lora_dropout["default"] = torch.nn.Dropout(lora.dropout)
