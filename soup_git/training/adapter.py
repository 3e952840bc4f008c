"""LoRA onto a base, and the trained adapter out of it: checked alive, saved plain.

What is saved always loads on the untouched base. pissa, olora and corda start by moving part
of the base's weight W into the adapter (W - s·B₀A₀ stays behind), so their own factors would
be wrong on W. The update relative to W is s·(BA - B₀A₀), exactly a LoRA of twice the rank
with factors [B, -B₀] and [A; A₀].
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from soup_git.errors import FatalError
from soup_git.training.lora import freezing, inits, kinds, reach, surgery
from soup_git.training.lora.inits import Tokens
from soup_git.training.schema import LoraBlock, SoupConfig
from soup_git.training.tasks import HEADS, SAVED_HEADS

Tensors = dict[str, Any]  # name in the adapter's file -> torch.Tensor
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
# Without the second factor the update is zero, whatever the first one holds.
_SECOND = re.compile(r"\.lora_B|\.lora_embedding_B|\.vera_lambda_b")
_FIRST_FACTOR = re.compile(r"\.lora_(embedding_)?A\b")
_SECOND_FACTOR = re.compile(r"\.lora_(embedding_)?B\b")
# What PEFT raises on a base or an option that it was not written for.
_PEFT_RAISES = (
    *(ValueError, TypeError, ImportError, NotImplementedError),
    *(AttributeError, LookupError, RuntimeError, UserWarning),
)


def attach(
    model: Any,
    config: SoupConfig,
    rows: Sequence[Tokens] = (),
    *,
    original: Callable[[], Any] | None = None,
) -> Any:
    """A PeftModel around `model`, with `training.lora`. Draws from torch's generator.

    `rows` are the training rows, for inits that look at them; `original` loads the base
    unquantized, for the one that looks at what quantizing lost.
    """
    import peft
    import torch

    training, lora = config.training, config.training.lora
    if getattr(model, "is_quantized", False):
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=training.gradient_checkpointing
        )
    layers, frozen = freezing.frozen_layers(model, config)
    exclude = freezing.excluding(_excluded(model, config), layers, frozen)
    wanted = None if lora.target_modules == "auto" else lora.target_modules
    targets = kinds.Targets(wanted, exclude, lora.dropout)
    targets = surgery.inside_wrappers(model, targets)
    reach.before(model, config)
    try:
        peft_config = kinds.peft_config(
            config, targets, task_type=HEADS[config.method.head].task_type
        )
        surgery.take_dropout(model, peft_config)
        inits.before(model, peft_config, config, rows)
        with reach.instead_of_peft():
            peft_model = peft.get_peft_model(
                model,
                peft_config,
                # eva makes its own factors, so PEFT is to make none.
                low_cpu_mem_usage=lora.init == "eva",
            )
        inits.after(peft_model, config, rows, original)
    except torch.OutOfMemoryError:
        raise  # no option's fault, and no PEFT's
    except _PEFT_RAISES as error:
        raise config.refuse("training.lora", f"PEFT refuses this: {error}") from error
    reach.after(peft_model, config)
    surgery.give_dropout_back(peft_model, lora)
    freezing.still(peft_model, layers, frozen)
    names = [name for name, p in peft_model.named_parameters() if p.requires_grad]
    if lora.bias != "none" and not any(name.endswith(".bias") for name in names):
        raise config.refuse("training.lora.bias", f"{config.base} has no such biases to train")
    return peft_model


def _excluded(model: Any, config: SoupConfig) -> list[str] | str | None:
    """What the config excludes; and a new head, which is trained whole. Of the heads that label
    tokens PEFT does not know that all-linear does not mean them."""
    given = config.training.lora.exclude_modules
    heads = [name for name in SAVED_HEADS if hasattr(model, name)]
    if HEADS[config.method.head].task_type != "TOKEN_CLS" or not heads:
        return given
    if isinstance(given, str):
        return f"({given})|({'|'.join(heads)})"
    return [*(given or ()), *heads]


def modules(peft_model: Any) -> list[str]:
    """Names of the modules that got an adapter, and kept it: eva may give one rank 0.

    Of experts each parameter counts. It is wrapped, and the wrappers of one module are in each
    other: `mlp.experts`, `mlp.experts.base_layer`.
    """
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuner = peft_model.base_model
    wrappers = [n for n, m in tuner.model.named_modules() if isinstance(m, ParamWrapper)]
    return [
        name
        for name in [*tuner.targeted_module_names, *wrappers]
        if isinstance(tuner.model.get_submodule(name), BaseTunerLayer)
    ]


@contextlib.contextmanager
def kept_exact(peft_model: Any) -> Iterator[None]:
    """What trains keeps its precision, whatever is done to the model inside.

    TRL rounds the adapter on a quantized base to bf16 while it builds a trainer, also where
    fp32 is asked for: most of what a small learning rate adds would be lost in it.
    """
    trainable = [(p, p.data) for p in peft_model.parameters() if p.requires_grad]
    yield
    for parameter, data in trainable:
        parameter.data = data


def factors(peft_model: Any) -> Tensors:
    """The trained tensors by their names in an adapter's file, on the CPU, not shared."""
    from peft import get_peft_model_state_dict

    with _together(peft_model):
        # "auto" would ask the hub whether the vocabulary was resized; we never resize it.
        state = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
        return {name: _whole_tensor(t) for name, t in state.items()}


def _whole_tensor(tensor: Any) -> Any:
    # FSDP2's tensors are split among processes, all of which have to ask.
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().to("cpu", copy=True).contiguous()


def _together(peft_model: Any) -> contextlib.AbstractContextManager[Any]:
    """ZeRO-3 leaves each process a part of a parameter: inside, what trains is whole."""
    split = [p for p in peft_model.parameters() if p.requires_grad and hasattr(p, "ds_id")]
    if not split:
        return contextlib.nullcontext()
    from deepspeed import zero

    gathered: contextlib.AbstractContextManager[Any] = zero.GatheredParameters(split)
    return gathered


def load_factors(peft_model: Any, tensors: Tensors) -> None:
    """Put `factors` back, bit by bit."""
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(peft_model, tensors)
    if result.unexpected_keys:
        raise FatalError(
            f"the checkpoint has tensors that this adapter lacks: {result.unexpected_keys[0]}",
            hint="training.resume: false starts anew",
        )


def plain(tensors: Tensors, initial: Tensors, *, rslora: bool) -> Tensors:
    """`tensors` of a mutating init as a LoRA for the untouched base; the rank doubles."""
    import torch

    converted = {}
    for name, tensor in tensors.items():
        if _FIRST_FACTOR.search(name):
            converted[name] = torch.cat([tensor, initial[name]], dim=0)
        elif _SECOND_FACTOR.search(name):
            both = torch.cat([tensor, -initial[name]], dim=1)
            # alpha / sqrt(r) shrinks by sqrt(2) as r doubles; plain LoRA doubles alpha instead.
            converted[name] = both * math.sqrt(2) if rslora else both
        else:
            converted[name] = tensor
    return converted


def settings(peft_model: Any, config: SoupConfig) -> dict[str, Any]:
    """The contents of adapter_config.json: no machine paths, sets sorted."""
    lora = config.training.lora
    values: dict[str, Any] = {
        key: sorted(value) if isinstance(value, set | frozenset) else value
        for key, value in peft_model.peft_config["default"].to_dict().items()
    }
    values["base_model_name_or_path"] = config.base
    values["revision"] = config.revision
    values["inference_mode"] = True
    # The weights are in the file: loading must not start an init that moves the base.
    if lora.kind == "lora":
        values["init_lora_weights"] = True
        values["eva_config"] = values["corda_config"] = None
    if lora.mutates_base:
        values["r"] *= 2
        values["rank_pattern"] = {k: 2 * r for k, r in lora.rank_pattern.items()}
        if not lora.use_rslora:
            values["lora_alpha"] *= 2
            values["alpha_pattern"] = {k: 2 * a for k, a in lora.alpha_pattern.items()}
    return values


def save(tensors: Tensors, values: dict[str, Any], folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json (`values`), and nothing else.

    Each file appears whole or not at all.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2, sort_keys=True, default=_plain_value)
    _whole(folder / CONFIG, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    _whole(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))


def _plain_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _whole(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_alive(
    tensors: Tensors,
    initial: Tensors,
    targets: list[str],
    lora: LoraBlock,
    why_still: str = "was the learning rate 0 all through, in warmup?",
) -> None:
    """Refuse an adapter that is healthy in its loss curve only; `why_still` is what may have kept
    it from changing at all.

    Raises FatalError when a tensor is not finite, when nothing moved from the start, when
    the update is zero, or when a targeted module has no tensors.
    """
    import torch

    bad = [name for name, t in tensors.items() if not torch.isfinite(t).all()]
    if bad:
        raise _dead(f"{len(bad)} of {len(tensors)} tensors are not finite, first {bad[0]}")
    missing = [m for m in targets if not any(_is_of(name, m) for name in tensors)]
    if missing:
        raise _dead(f"{len(missing)} of {len(targets)} modules were not saved: {missing[0]}")
    if all(torch.equal(t, initial[name]) for name, t in tensors.items()):
        raise _dead(f"training changed nothing in it ({why_still})")
    second = [t for name, t in tensors.items() if _SECOND.search(name)]
    if not lora.mutates_base and second and not any(t.any() for t in second):
        raise _dead("its update is zero everywhere")


def _is_of(tensor: str, module: str) -> bool:
    """Is this the name of one of `module`'s own tensors, rather than of what it wraps?"""
    own = f"base_model.model.{module}."
    return tensor.startswith(own) and not tensor.startswith(f"{own}base_layer.")


def _dead(why: str) -> FatalError:
    return FatalError(
        f"the trained adapter is dead: {why}",
        hint="look at plots/loss.csv; a lower training.lr, or data with more to learn",
    )
