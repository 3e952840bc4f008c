"""ReLoRA, in the two readings that go by the name. Imported late: it loads torch.

`relora_mode: prune`, the original tool's: every `relora_steps` steps the smallest entries of
A and B become zero, and so does what the optimizer remembers of them.

`relora_mode: merge`, the paper's (https://arxiv.org/abs/2307.05695): the update so far goes
into the base, A starts anew and B from zero, most of the optimizer's state is forgotten (at
random: that is what stays stable), and the learning rate comes back slowly. The sum of the
updates has a higher rank than any of them. The base on the disk never changes: what was
merged is kept, and the adapter that is saved holds all of it side by side,
[s₁B₁ … s_kB_k sB] and [A₁; …; A_k; A], exactly, as one LoRA of rank r·(k+1).

Which steps fire, and the factor on the learning rate, are functions of the step; what is
drawn comes from a generator of its own, seeded by the step; and what was merged is part of
each checkpoint, to be added to the base again in the same order. So a resumed run goes on
to the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import TrainerCallback

from soup_git.errors import FatalError
from soup_git.training.schema import SoupConfig, TrainingBlock

Tensors = dict[str, Any]
_KEPT = "merged."  # merged.2.NAME: the factor NAME of the update that was merged third


def fires(step: int, total: int, training: TrainingBlock) -> bool:
    """Does something happen after `step` of `total`? Not after the last: nothing would heal."""
    if training.relora_steps is None or not 0 < step < total:
        return False
    return step % training.relora_steps == 0 and step >= training.relora_warmup_ratio * total


def rewarmup(step: int, total: int, training: TrainingBlock) -> float:
    """The factor on the learning rate of the step after `step`, up to 1 after a restart."""
    if training.relora_steps is None or training.relora_mode != "merge":
        return 1.0
    since = step % training.relora_steps
    length = training.relora_restart_warmup
    if length is None:
        length = training.relora_steps // 10
    if since < length and fires(step - since, total, training):
        return (since + 1) / (length + 1)
    return 1.0


def jagged(schedule: Any, total: int, training: TrainingBlock) -> None:
    """Put `rewarmup` on every group of a torch LambdaLR, in place."""

    def wrapped(function: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: function(step) * rewarmup(step, total, training)

    schedule.lr_lambdas = [wrapped(function) for function in schedule.lr_lambdas]


def layers(peft_model: Any) -> Iterator[tuple[str, Any]]:
    """The LoRA layers by name, as their tensors are named in the adapter's file."""
    for name, module in peft_model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


class Pruning(TrainerCallback):  # type: ignore[misc]
    """Zeroes the smallest entries of the factors, and the optimizer's state of them."""

    def __init__(self, config: SoupConfig) -> None:
        self._training = config.training
        self.ratio = self._training.relora_prune_ratio or 0.9

    def on_step_end(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        if fires(state.global_step, state.max_steps, self._training):
            with torch.no_grad():
                self._prune(**kwargs)

    def _prune(self, *, model: Any, optimizer: Any, **_: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ".lora_" in name and parameter.dim() > 1:
                count = int(parameter.numel() * self.ratio)
                sizes = parameter.abs().flatten()
                keep = torch.ones_like(sizes, dtype=torch.bool)
                keep[sizes.argsort(stable=True)[:count]] = False
                keep = keep.view_as(parameter)
                parameter.mul_(keep)
                if self._training.relora_reset_optimizer:
                    _forget(optimizer.state.get(parameter, {}), keep)


class Restarts(TrainerCallback):  # type: ignore[misc]
    """Merges the update into the base and starts A and B anew; keeps what was merged."""

    def __init__(self, config: SoupConfig, peft_model: Any) -> None:
        self._training = config.training
        self._model = peft_model
        self.ratio = self._training.relora_prune_ratio or 0.999
        self.merged: list[Tensors] = []
        """A and B of each update that the base holds, oldest first, by names in the file."""
        _check_linear(config, peft_model)

    def on_step_end(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        if not fires(state.global_step, state.max_steps, self._training):
            return
        devices = list(range(torch.cuda.device_count()))
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(args.seed * 1_000_003 + state.global_step)
            self._restart()
            if self._training.relora_reset_optimizer:
                self._forget_most(kwargs["optimizer"])

    def _restart(self) -> None:
        init = self._training.lora.init
        pair: Tensors = {}
        for name, layer in layers(self._model):
            pair |= _factors(name, layer)
            _add_to_base(layer, pair, name)
            layer.reset_lora_parameters("default", True if init == "random" else init)
        self.merged.append(pair)

    def _forget_most(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                keep = torch.rand(parameter.shape, device=parameter.device) > self.ratio
                _forget(optimizer.state.get(parameter, {}), keep)

    def state(self) -> Tensors:
        """What a checkpoint has to hold beside the factors."""
        return {
            f"{_KEPT}{index}.{name}": tensor
            for index, pair in enumerate(self.merged)
            for name, tensor in pair.items()
        }

    def restore(self, tensors: Tensors) -> Tensors:
        """Merge into the untouched base what a checkpoint kept; return the other tensors."""
        kept = [name for name in tensors if name.startswith(_KEPT)]
        count = 1 + max((int(name.split(".")[1]) for name in kept), default=-1)
        self.merged = []
        for index in range(count):
            start = f"{_KEPT}{index}."
            pair = {k.removeprefix(start): tensors[k] for k in kept if k.startswith(start)}
            for name, layer in layers(self._model):
                with torch.no_grad():
                    _add_to_base(layer, pair, name)
            self.merged.append(pair)
        return {name: t for name, t in tensors.items() if not name.startswith(_KEPT)}

    def flat(self, current: Tensors) -> Tensors:
        """All updates as one LoRA with scaling 1, on the untouched base: the ranks add up."""
        if not self.merged:
            return current
        scales = {name: layer.scaling["default"] for name, layer in layers(self._model)}
        flat = {}
        for name, tensor in current.items():
            module, _, part = name.partition(".lora_")
            parts = [*(pair[name] for pair in self.merged), tensor] if part else [tensor]
            if part.startswith("A"):
                flat[name] = torch.cat(parts, dim=0)
            elif part.startswith("B"):
                flat[name] = torch.cat([p * scales[module] for p in parts], dim=1)
            else:
                flat[name] = tensor
        return flat

    def settings(self, values: dict[str, Any]) -> dict[str, Any]:
        """adapter_config.json's `values` for what `flat` gives."""
        times = 1 + len(self.merged)
        if times == 1:
            return values
        ranks = {key: rank * times for key, rank in values["rank_pattern"].items()}
        rank = values["r"] * times
        changed = {"r": rank, "lora_alpha": rank, "rank_pattern": ranks, "alpha_pattern": ranks}
        return values | changed | {"use_rslora": False}


def of(config: SoupConfig, peft_model: Any) -> Pruning | Restarts | None:
    """The callback that `training.relora_steps` asks for."""
    if config.training.relora_steps is None:
        return None
    if config.training.relora_mode == "prune":
        return Pruning(config)
    return Restarts(config, peft_model)


def check_it_fires(config: SoupConfig, total: int) -> None:
    """Refuse a `relora_steps` that does nothing in `total` steps."""
    if config.training.relora_steps is None:
        return
    if not any(fires(step, total, config.training) for step in range(total)):
        raise config.refuse(
            "training.relora_steps",
            f"{config.training.relora_steps} never comes up in {total} steps"
            + (" after relora_warmup_ratio" if config.training.relora_warmup_ratio else ""),
        )


def _factors(name: str, layer: Any) -> Tensors:
    return {
        f"{name}.lora_{part}.weight": factor["default"].weight.detach().to("cpu", copy=True)
        for part, factor in (("A", layer.lora_A), ("B", layer.lora_B))
    }


def _add_to_base(layer: Any, pair: Tensors, name: str) -> None:
    weight = layer.get_base_layer().weight
    a, b = (pair[f"{name}.lora_{part}.weight"].to(weight.device) for part in "AB")
    update = layer.scaling["default"] * (b.float() @ a.float())
    if layer.fan_in_fan_out:
        update = update.T
    weight.data = (weight.data.float() + update).to(weight.dtype)


def _forget(state: dict[str, Any], keep: Any) -> None:
    """Zero the entries of an optimizer's state that are not in `keep`; counters stay."""
    for value in state.values():
        if isinstance(value, torch.Tensor) and value.shape == keep.shape:
            value.mul_(keep)


def _check_linear(config: SoupConfig, peft_model: Any) -> None:
    """Restarts change weights: they must be dense, and no other module's as well."""
    owners: dict[int, set[str]] = {}
    for name, parameter in peft_model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    for name, layer in layers(peft_model):
        # Experts have no weight: theirs are parameters of other names.
        weight = getattr(layer.get_base_layer(), "weight", None)
        plain = name.removeprefix("base_model.model.")
        if not layer.lora_A or weight is None or not weight.dtype.is_floating_point:
            raise _no_merge(config, f"{plain} is no linear layer")
        if len(owners[id(weight)]) > 1:
            raise _no_merge(config, f"{plain} shares its weight with another module")


def _no_merge(config: SoupConfig, why: str) -> FatalError:
    return config.refuse("training.relora_mode", f"merge changes weights, and {why}")
