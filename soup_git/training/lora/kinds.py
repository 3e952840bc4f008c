"""`training.lora` as the config class of the PEFT method that it names: LoRA, VeRA, VB-LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soup_git.training.schema import LoraBlock, SoupConfig

Source = tuple[str, str, str]  # package, file, class
_BASE: tuple[Source, ...] = (
    ("peft", "config.py", "PeftConfigMixin"),
    ("peft", "config.py", "PeftConfig"),
)


@dataclass(frozen=True)
class Kind:
    """A PEFT method: its config class, and where the names of its options are declared."""

    title: str
    config: str
    sources: tuple[Source, ...]


KINDS: dict[str, Kind] = {
    "lora": Kind("lora", "LoraConfig", (*_BASE, ("peft", "tuners/lora/config.py", "LoraConfig"))),
    "vera": Kind("vera", "VeraConfig", (*_BASE, ("peft", "tuners/vera/config.py", "VeraConfig"))),
    "vblora": Kind(
        "vb-lora", "VBLoRAConfig", (*_BASE, ("peft", "tuners/vblora/config.py", "VBLoRAConfig"))
    ),
}


@dataclass(frozen=True)
class Targets:
    """Which modules get an adapter, after everything that narrows `training.lora`."""

    modules: str | list[str] | None
    exclude: str | list[str] | None
    dropout: float
    """Of the modules that can have it; expert parameters cannot (training/lora/surgery.py)."""


def title(lora: LoraBlock) -> str:
    """What a report calls it: lora, dora, vera, vb-lora."""
    return "dora" if lora.use_dora else KINDS[lora.kind].title


def peft_config(config: SoupConfig, targets: Targets, *, task_type: str) -> Any:
    """The PEFT config object. Raises what PEFT raises on a combination that it refuses."""
    import peft

    lora = config.training.lora
    common: dict[str, Any] = {
        "task_type": task_type,
        "r": lora.r,
        "target_modules": targets.modules,
        "modules_to_save": lora.modules_to_save,
        "layers_to_transform": lora.layers_to_transform,
        "layers_pattern": lora.layers_pattern,
    }
    if lora.kind != "lora":
        common[f"{lora.kind}_dropout"] = targets.dropout
        common["bias"] = lora.bias.replace("lora", lora.kind)
        if lora.kind == "vblora":
            common["exclude_modules"] = targets.exclude
        return getattr(peft, KINDS[lora.kind].config)(**common, **lora.peft)
    options = dict(lora.peft)
    if lora.init == "eva":
        options["eva_config"] = peft.EvaConfig(**options.get("eva_config", {}))
    if lora.init == "corda":
        options["corda_config"] = peft.tuners.lora.config.CordaConfig(
            **options.get("corda_config", {})
        )
    return peft.LoraConfig(
        **common,
        lora_alpha=lora.alpha,
        lora_dropout=targets.dropout,
        exclude_modules=targets.exclude,
        bias=lora.bias,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
        # loftq needs the attached adapter: training/lora/inits.py sets the factors afterwards.
        init_lora_weights=True if lora.init in {"random", "loftq"} else lora.init,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        target_parameters=lora.target_parameters,
        **options,
    )
