"""Modules taken out of an adapter, one by one, on the loaded model; or put back to another's.

PEFT's own switch does it: a module whose list of active adapters is empty is the base's
module, whatever the method (LoRA, DoRA, IA³, LoHa, …). A gate on the scaling, between
nothing and all of a module, is a matter of plain LoRA alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soup_git.errors import FatalError

if TYPE_CHECKING:
    from soup_git.evaluation.candidate import Candidate
    from soup_git.evaluation.model import Model
    from soup_git.evaluation.runner import Runner

_WRAPPER = "base_model.model."


@dataclass(frozen=True)
class Adapted:
    """A model with an adapter on it, and with what stands in for a module that is taken out.

    `active` is the adapter's name in PEFT, `instead` the other's, or None for the base.
    """

    model: Any
    modules: Mapping[str, Any]
    """Name -> PEFT's layer: all that either adapter changes, in the model's order."""
    active: str
    instead: str | None

    @property
    def hooked(self) -> dict[str, Any]:
        """The modules by their names in the model as it is wrapped."""
        return {f"{_WRAPPER}{name}": module for name, module in self.modules.items()}

    @contextmanager
    def without(self, names: Iterable[str]) -> Iterator[None]:
        """These modules taken out, or put back to the other adapter's."""
        modules = [self.modules[name] for name in names]
        other = [] if self.instead is None else [self.instead]
        for module in modules:
            module.set_adapter(other, inference_mode=True)
        try:
            yield
        finally:
            for module in modules:
                module.set_adapter([self.active], inference_mode=True)

    @property
    def why_no_gates(self) -> str | None:
        """Why a module cannot be there in part; None when it can."""
        for name, module in self.modules.items():
            if not isinstance(getattr(module, "scaling", None), dict):
                return f"{name} has no scaling"
            if any(n in getattr(module, "lora_variant", {}) for n in (self.active, self.instead)):
                return f"{name} is a variant of LoRA (DoRA or another) that a scaling does not fade"
        return None

    @contextmanager
    def gated(self, names: Sequence[str], value: float) -> Iterator[list[Any]]:
        """A scalar gate per module at `value`: 1 is the adapter, 0 what `without` leaves.

        Gives the gates, float32 tensors that take gradients; nothing else does.
        """
        import torch

        gates = []
        before: list[tuple[dict[str, Any], str, Any]] = []
        frozen = [p for p in self.model.parameters() if p.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            for name in names:
                module = self.modules[name]
                gate = torch.tensor(value, device=self.model.device, requires_grad=True)
                gates.append(gate)
                both = [(self.active, gate), (self.instead, 1 - gate)]
                there = [(n, share) for n, share in both if n is not None and n in module.scaling]
                for adapter, share in there:
                    scaling = module.scaling
                    before.append((scaling, adapter, scaling[adapter]))
                    scaling[adapter] = scaling[adapter] * share
                module.set_adapter([n for n, _ in there], inference_mode=True)
            yield gates
        finally:
            for scaling, adapter, number in before:
                scaling[adapter] = number
            for name in names:
                self.modules[name].set_adapter([self.active], inference_mode=True)
            for parameter in frozen:
                parameter.requires_grad_(True)


def adapted(model: Any, name: str, active: str, instead: str | None = None) -> Adapted:
    """The modules of PEFT's `model` that either adapter changes; `name` is for errors."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wanted = {active, instead} - {None}
    found = {
        inner.removeprefix(_WRAPPER): module
        for inner, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and wanted & _held(module)
    }
    if not found:
        raise FatalError(
            f"{name} changes no module of the model, so there is none to take out",
            hint="blame takes adapters that do: LoRA, DoRA, IA3 and others; no prompt tuning",
        )
    return Adapted(model, found, active, instead)


@contextmanager
def on_model(
    runner: Runner, one: Candidate, other: Candidate | None
) -> Iterator[tuple[Model, Adapted]]:
    """The runner's model with `one` on it, and `other`, where given, beside it."""
    if other is None:
        with runner.using(one) as model:
            yield model, adapted(model.model, one.name, model.model.active_adapter)
        return
    with runner.using_both(one, other) as (model, active, instead):
        yield model, adapted(model.model, one.name, active, instead)


def _held(module: Any) -> set[str]:
    """The adapters that a PEFT layer holds parts of."""
    parts = [getattr(module, attribute) for attribute in module.adapter_layer_names]
    return {name for part in parts if hasattr(part, "keys") for name in part}
