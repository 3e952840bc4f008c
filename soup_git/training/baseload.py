"""A base as an adapter was trained on it: recorded by a training, loaded again for whoever asks.

The weights are those of the training (quantized, rounded, with its positions); what is computed
with them is in this machine's precision, as in full bases.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from soup_git.core.baseload import DTYPES, FULL, NOT_TO_CHANGE, BaseLoad
from soup_git.training import model as bases
from soup_git.training import quantized, upstream
from soup_git.training.model import Base, NamesBase

if TYPE_CHECKING:
    from soup_git.training.schema import SoupConfig

_OLDER_NAMES = {"rope_scaling": "rope_parameters"}


def recorded(base: Base, config: SoupConfig, loaded: Any, dtype: str) -> BaseLoad:
    """How `loaded`, the base of a training in `dtype`, differs from the base as it is."""
    described = bases.described(base, config)
    own = str(described.dtype or "float32").removeprefix("torch.")
    kind = config.training.quantization
    before, now = described.to_dict(), loaded.config.to_dict()
    asked = config.training.trl.get("model_init_kwargs") or {}
    changed = {_OLDER_NAMES.get(key, key) for key in asked} & now.keys() - NOT_TO_CHANGE
    return BaseLoad(
        quantization=kind if kind in quantized.BITSANDBYTES else None,
        dtype=dtype if dtype in DTYPES and dtype != own else None,
        config={key: now[key] for key in sorted(changed) if now[key] != before.get(key)},
    )


def load(
    base: Base,
    names: NamesBase,
    how: BaseLoad,
    *,
    device: str,
    precision: str,
    full: Collection[str] = (),
) -> Any:
    """The base as `how` says, on `device`, computing in `precision` ("float32", …).

    `full` are modules that an adapter brings whole, which stay as they are. Raises FatalError
    where this machine cannot: a library is missing, or there is no GPU.
    """
    import torch

    found = _checked(base, names, how, device)
    options = quantized.options(
        base, names, how.quantization or "none", compute=precision, device=device, found=found,
        full=full,
    )  # fmt: skip
    if how.config:
        options["config"] = _changed(base, names, how.config)
    dtype = how.dtype or ("float32" if how.in_few_bits else precision)
    loaded = bases.load_weights(base, names, dtype=dtype, extra=options)
    quantized.keep_as_trained(loaded)
    if how.in_few_bits or (how.dtype and device == "cpu"):
        # PEFT does so before a training; what is in few bits are no floating-point numbers.
        for parameter in loaded.parameters():
            if parameter.dtype in {torch.float16, torch.bfloat16}:
                parameter.data = parameter.data.float()
    return loaded if "device_map" in options else loaded.to(device)


def _checked(base: Base, names: NamesBase, how: BaseLoad, device: str) -> str | None:
    """The format that the base comes in; refuses what it or this machine cannot do."""
    found = quantized.format_of(base)
    if found is None:
        if how.in_few_bits and not upstream.installed("bitsandbytes"):
            raise names.refuse(
                "base",
                f"{base.name} is to be loaded in {how.quantization}, which needs bitsandbytes: "
                "not installed",
                hint="pip install 'git-soup[quantized]'; or --base-as full: on the full base",
            )
        return None
    if how.quantization == FULL:
        raise names.refuse(
            "base",
            f"{base.name} comes in {found}, there is no full one in it",
            hint="--base MODEL names the unquantized model; or leave --base-as out",
        )
    if how.in_few_bits:
        raise names.refuse(
            "base",
            f"{base.name} is quantized already ({found}), {how.quantization} would do it again",
            hint="--base MODEL names the unquantized model",
        )
    quantized.check_installed(base, names, found)
    quantized.check_kernels(base, names, found, device)
    return found


def _changed(base: Base, names: NamesBase, changes: Mapping[str, Any]) -> Any:
    """The base's config with the values of a training in it."""
    described = bases.described(base, names)
    known = described.to_dict()
    for key, value in changes.items():
        if key not in known:
            raise names.refuse(
                "base",
                f"{base.name} has no {key}, which the adapter's training changed",
                hint="--base MODEL names the base that it was trained on",
            )
        try:
            setattr(described, key, value)
        except (ValueError, TypeError) as error:
            why = str(error).strip().splitlines()
            raise names.refuse(
                "base",
                f"{base.name} does not take the {key} of the adapter's training: "
                f"{why[0] if why else type(error).__name__}",
                hint="git soup show names the adapter's base",
            ) from error
    return described
