"""Bases in few bits: loaded so (bitsandbytes), or that come so from the hub.

What a base comes in is read from its config.json, before its weights are. A format is
refused with the reason where its library is not installed, where it runs on another device
than the one here, or where transformers can compute with it and not train through it.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.training import upstream
from soup_git.training.model import Base, NamesBase, described
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import HEADS, LABELLING, SAVED_HEADS, load


@dataclass(frozen=True)
class Format:
    """A `quant_method` of transformers, and what training an adapter on it takes."""

    packages: tuple[tuple[str, str], ...] = ()
    """What it imports, and how pip calls that."""
    needs_gpu: bool = False
    frozen: bool = False
    """transformers computes with it, and does not send gradients through it."""


FORMATS: dict[str, Format] = {
    "aqlm": Format((("aqlm", "aqlm[gpu,cpu]"),)),
    "auto-round": Format((("auto_round", "auto-round"),), frozen=True),
    "awq": Format((("gptqmodel", "gptqmodel"),)),
    "bitnet": Format(frozen=True),
    "bitsandbytes": Format((("bitsandbytes", "git-soup[quantized]"),)),
    "compressed-tensors": Format((("compressed_tensors", "compressed-tensors"),)),
    "eetq": Format((("kernels", "kernels"),), needs_gpu=True),
    "fbgemm_fp8": Format(needs_gpu=True, frozen=True),
    "fp8": Format(needs_gpu=True),
    "fp_quant": Format(needs_gpu=True, frozen=True),
    "gguf": Format(frozen=True),
    "gptq": Format((("optimum", "optimum"), ("gptqmodel", "gptqmodel"))),
    "higgs": Format(needs_gpu=True, frozen=True),
    "hqq": Format((("hqq", "hqq"),), needs_gpu=True),
    "mxfp4": Format(frozen=True),
    "mxfp8": Format(needs_gpu=True),
    "nvfp4": Format(needs_gpu=True, frozen=True),
    "quanto": Format((("optimum.quanto", "optimum-quanto"),)),
    "quark": Format(frozen=True),
    "spqr": Format(needs_gpu=True, frozen=True),
    "torchao": Format((("torchao", "torchao"),)),
    "vptq": Format(needs_gpu=True, frozen=True),
}
BITSANDBYTES = ("4bit", "8bit")


def format_of(base: Base) -> str | None:
    """The `quant_method` in the base's config.json; None for a base in full precision.

    Reads a hub model's from the hub, or from its cache.
    """
    described = _description(base)
    if not isinstance(described, dict):
        return None
    method = described.get("quant_method")
    if method is None and (described.get("load_in_4bit") or described.get("load_in_8bit")):
        return "bitsandbytes"
    return str(method) if method is not None else None


def _description(base: Base) -> Any:
    if base.local:
        path = Path(base.source) / "config.json"
        return json.loads(path.read_bytes()).get("quantization_config")
    from transformers import PretrainedConfig

    try:
        settings, _ = PretrainedConfig.get_config_dict(base.source, revision=base.revision)
    except OSError:
        return None  # loading it says why
    return settings.get("quantization_config")


def check(base: Base, config: SoupConfig) -> str | None:
    """The format that `base` comes in; refuses what cannot train an adapter, GPU or not."""
    asked, found = config.training.quantization, format_of(base)
    key = "training.quantization"
    described = _description(base)
    if described is not None and not isinstance(described, dict):
        raise config.refuse(
            "base", f"{config.base}/config.json: quantization_config is no block of options"
        )
    if found is None:
        if asked not in {"none", *BITSANDBYTES}:
            raise config.refuse(
                key,
                f"{config.base} is not in {asked}: its config.json has no quantization_config",
                hint=f"a base that somebody quantized to {asked}; or 4bit, 8bit for this one",
            )
        return None
    if asked in BITSANDBYTES:
        raise config.refuse(
            key,
            f"{config.base} is quantized already ({found}), {asked} would do it again",
            hint=f"leave training.quantization out, or {found}",
        )
    if asked not in {"none", found}:
        raise config.refuse(key, f"{config.base} is in {found}, not in {asked}")
    known = FORMATS.get(found)
    if known is None:
        raise config.refuse("base", f"{config.base} is in {found}, a format unknown to git-soup")
    if known.frozen:
        raise config.refuse(
            "base",
            f"{config.base} is in {found}: transformers computes with it, and sends no gradients "
            "through it",
            hint="the unquantized model as base, with training.quantization: 4bit",
        )
    check_installed(base, config, found)
    _check_lora(config, found)
    return found


def check_installed(base: Base, names: NamesBase, found: str) -> None:
    """Refuse a format whose library is missing; one that is unknown needs none that we know."""
    for package, pip_name in FORMATS.get(found, Format()).packages:
        if not upstream.installed(package):
            raise names.refuse(
                "base",
                f"{base.name} is in {found}, which needs {package}: not installed",
                hint=f"pip install '{pip_name}'",
            )


def check_kernels(base: Base, names: NamesBase, found: str, device: str) -> None:
    """Refuse a format that computes on a GPU alone, where there is none."""
    if device == "cpu" and FORMATS.get(found, Format()).needs_gpu:
        raise names.refuse("base", f"{base.name} is in {found}, which needs a GPU")


def _check_lora(config: SoupConfig, found: str) -> None:
    """What needs weights in full precision cannot start from the ones of `found`."""
    training = config.training
    if training.lora.mutates_base or training.lora.init == "loftq":
        raise config.refuse(
            "training.lora.init_strategy",
            f"{training.lora.init} needs an unquantized base, and {config.base} is in {found}",
        )
    if training.relora_steps is not None and training.relora_mode == "merge":
        raise config.refuse(
            "training.relora_mode", f"merge adds to the base's weights, and {found} takes none"
        )


def check_device(base: Base, config: SoupConfig, found: str | None, device: str) -> None:
    """Refuse a format that has no kernels on `device` ("cpu", "cuda")."""
    if device != "cpu":
        return
    if found is not None:
        check_kernels(base, config, found, device)
    if config.training.quantization == "8bit" and config.training.lora.use_dora:
        raise config.refuse(
            "training.lora.use_dora",
            "excludes quantization: 8bit on a CPU: bitsandbytes loses the weights' scales when "
            "DoRA has measured their norms",
            hint="quantization: 4bit goes with use_dora",
        )


def versions(config: SoupConfig, found: str | None) -> dict[str, str]:
    """The versions of what quantizes: they decide the bytes of a run as well."""
    names = [pip_name for _, pip_name in FORMATS[found].packages] if found else []
    if found == "bitsandbytes" or config.training.quantization in BITSANDBYTES:
        names = ["bitsandbytes"]
    return {name: importlib.metadata.version(name.partition("[")[0]) for name in names}


def check_loaded(config: SoupConfig, model: Any) -> Any:
    """Refuse layers that were made for bitsandbytes' weights and got plain ones, and modules that
    are to train in full and are in few bits; returns `model`.

    transformers believes the quantization_config, and the first forward pass finds out.
    """
    full = config.training.lora.modules_to_save or ()
    for name, module in model.named_modules():
        kind, weight = type(module).__name__, getattr(module, "weight", None)
        if kind in {"Linear4bit", "Linear8bitLt"} and type(weight).__name__ == "Parameter":
            raise config.refuse(
                "base",
                f"{config.base} is in bitsandbytes by its config.json, and {name}.weight is plain "
                "in its files",
                hint="take quantization_config out of its config.json, and "
                "training.quantization: 4bit or 8bit",
            )
        integers = weight is not None and not weight.dtype.is_floating_point
        if integers and any(f".{wanted}." in f".{name}." for wanted in full):
            raise config.refuse(
                "training.lora.modules_to_save",
                f"{name} is in few bits in {config.base}, and cannot train in full",
                hint="leave it out, or take the unquantized model as base",
            )
    return model


def keep_as_trained(model: Any) -> Any:
    """Stop bitsandbytes from repacking 4-bit weights; returns `model`.

    On a CPU with AVX-512 BF16 the first forward pass in eval mode turns a layer's weights,
    in place and for good, into a form that is rounded to bf16 and sends no gradients to what
    is below it. A validation loss in the middle would silently end the training there.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_options(
    base: Base, config: SoupConfig, dtype: str, device: str, found: str | None
) -> dict[str, Any]:
    """What from_pretrained gets for `training.quantization`, or for a base in format `found`.

    What trains in full, a head or modules_to_save, is left as it is: it needs gradients.
    """
    if found == "bitsandbytes" and config.method.head in LABELLING:
        return {"device_map": {"": device}, "settings": _with_a_plain_head(base, config)}
    return options(
        base, config, config.training.quantization, compute=dtype, device=device, found=found,
        head=config.method.head, full=config.training.lora.modules_to_save or (),
    )  # fmt: skip


def options(
    base: Base,
    names: NamesBase,
    kind: str,
    *,
    compute: str,
    device: str,
    found: str | None,
    head: str = "words",
    full: Collection[str] = (),
) -> dict[str, Any]:
    """What from_pretrained gets for a base in `kind` ("4bit", …): a training's, and later asked.

    `compute` is the dtype that 4-bit layers compute in; the modules `full` are left as they are.
    """
    if found is not None:
        return {"device_map": {"": device}}
    if kind not in BITSANDBYTES:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    # It quantizes on the way in; without a device map the trainer would move it later.
    given: dict[str, Any] = {"device_map": {"": device}}
    plain = _left_plain(base, names, head, full)
    if kind == "8bit":
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=plain)
        return given | {"quantization_config": how}
    return given | {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, compute),
            llm_int8_skip_modules=plain,
        )
    }


def _left_plain(base: Base, names: NamesBase, head: str, full: Collection[str]) -> list[str] | None:
    """Modules by their full names; None for transformers' own choice: the words' head, and what
    shares its weights. A list would go in its place, so it holds these too."""
    import torch
    import transformers
    from transformers.quantizers.base import get_keys_to_not_convert

    if head not in LABELLING and not full:
        return None
    wanted = [*full, *(SAVED_HEADS if head in LABELLING else ())]
    # Without weights, only for its names.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        bare = getattr(transformers, HEADS[head].auto).from_config(
            described(base, names), trust_remote_code=names.trust_remote_code
        )
    inside = [
        name
        for name, _ in bare.named_modules()
        if any(name == w or name.endswith(f".{w}") for w in wanted)
    ]
    return sorted({*inside, *get_keys_to_not_convert(bare)})


def _with_a_plain_head(base: Base, config: SoupConfig) -> Any:
    """The config of a base that is quantized already, with the new head left out of that."""
    settings = described(base, config, **load(config.method.head_options)(config))
    known = dict(settings.quantization_config)
    skipped = known.get("llm_int8_skip_modules") or []
    settings.quantization_config = known | {"llm_int8_skip_modules": [*skipped, *SAVED_HEADS]}
    return settings
