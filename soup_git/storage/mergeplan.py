"""What is known of a merge before any number is: names, shapes, ranks, the config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soup_git.arithmetic.floats import widest
from soup_git.errors import FatalError
from soup_git.storage.mergeinputs import Input, Recipe, rank_of
from soup_git.storage.patterns import patterns
from soup_git.storage.tensors import Slot
from soup_git.storage.updates import Module, OpenAdapter

Parts = Sequence[tuple[Input, Module]]
"""The inputs that have a module, and it in each."""


@dataclass(frozen=True)
class Planned:
    """One module of the result."""

    name: str
    key: str
    """What patterns are matched against: the module's name, or that of a parameter of it."""
    parts: Parts
    rank: int
    """Of each expert's matrices."""
    dtype: str
    scale: float
    bias: str | None = None
    magnitude: str | None = None
    """lora_bias and DoRA are one switch for all of PEFT's modules: these tensors are in each or none."""
    is_kept: bool = False
    """It is taken from one input as it is, whatever the strategy."""


def plan(
    inputs: Sequence[Input], recipe: Recipe, scale_of: Callable[[Parts], float]
) -> list[Planned]:
    names = dict.fromkeys(name for i in inputs for name in i.opened.modules)
    planned = []
    for name in names:
        parts = [
            (i.inside(name), i.opened.modules[name]) for i in inputs if name in i.opened.modules
        ]
        _check_fit(name, parts)
        is_kept = any(name in i.kept for i in inputs)
        ranks = [rank_of(i, module) for i, module in parts]
        rank = sum(ranks) if recipe.is_exact or is_kept else recipe.rank or max(ranks)
        if not is_kept and recipe.strategy.columns is False and recipe.space == "factors":
            rank = _factor_rank(name, parts, ranks, recipe)
        dtypes = {i.opened.file.entries[n].dtype for i, m in parts for n in (m.left, m.right)}
        planned.append(
            Planned(
                name, parts[0][1].key, parts, rank, widest(dtypes),
                scale_of(parts) if recipe.is_exact else 1.0, is_kept=is_kept,
            )
        )  # fmt: skip
    planned = _with_companions(planned)
    return _with_common_scale(planned) if recipe.is_exact else planned


def scale_of_first(parts: Sequence[tuple[Input, Module]]) -> float:
    """The scaling that the exact form keeps out of the factors: the first input's, positive."""
    return abs(parts[0][0].weight * parts[0][1].scale) or 1.0


def slots_of(p: Planned) -> list[Slot]:
    found, module = p.parts[0]
    left, right = found.opened.file.entries[module.left], found.opened.file.entries[module.right]
    width = p.rank * module.experts
    slots = [
        Slot(module.right, p.dtype, (width, *right.shape[1:])),
        Slot(module.left, p.dtype, (left.shape[0], width, *left.shape[2:])),
    ]
    slots += [Slot(n, p.dtype, (left.shape[0],)) for n in (p.bias, p.magnitude) if n]
    return slots


def config_of(
    inputs: Sequence[Input], planned: Sequence[Planned]
) -> tuple[dict[str, Any], int, float]:
    """PEFT's config of the result, its rank and its alpha."""
    ranks = {p.key: p.rank for p in planned}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    scale = planned[0].scale
    other = patterns({name: value for name, value in ranks.items() if value != rank}, ranks)
    config = dict(inputs[0].opened.settings)
    config.update(
        r=rank,
        lora_alpha=_whole(scale * rank),
        rank_pattern=other,
        alpha_pattern={key: _whole(scale * value) for key, value in other.items()},
        use_rslora=False,
        use_dora=planned[0].magnitude is not None,
        lora_bias=any(p.bias for p in planned),
        init_lora_weights=True,
        inference_mode=True,
        modules_to_save=_union(inputs, "modules_to_save"),
    )
    targets = {_targets(i.opened) for i in inputs}
    names = {p.name for p in planned}
    is_less = any(i.is_partial or set(i.opened.modules) != names for i in inputs)
    if len(targets) > 1 or is_less:
        for key in ("layers_to_transform", "layers_pattern", "exclude_modules"):
            config[key] = None
        config["target_modules"] = sorted(p.name for p in planned if p.key == p.name)
        # PEFT refuses a module by name of which it wraps parameters.
        if config.get("target_parameters"):
            config["target_parameters"] = [p.key for p in planned if p.key != p.name]
    for key in ("target_modules", "target_parameters"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    return config, rank, scale * rank


def _check_fit(name: str, parts: Sequence[tuple[Input, Module]]) -> None:
    def form(found: Input, module: Module) -> tuple[object, ...]:
        entries = found.opened.file.entries
        left, right = entries[module.left].shape, entries[module.right].shape
        return left[0], left[2:], right[1:], module.experts, module.left, module.right

    first = form(*parts[0])
    for found, module in parts[1:]:
        if form(found, module) != first:
            entries = found.opened.file.entries
            raise FatalError(
                f"{name} has other shapes in {parts[0][0].opened.spec} than in {found.opened.spec}"
                f" ({entries[module.left].shape} times {entries[module.right].shape})",
                hint="adapters of one base model have the same shapes: git soup show SPEC",
            )


def _factor_rank(
    name: str, parts: Sequence[tuple[Input, Module]], ranks: Sequence[int], recipe: Recipe
) -> int:
    if len(set(ranks)) > 1 or recipe.rank not in {None, ranks[0]}:
        specs = ", ".join(f"{i.opened.spec} {r}" for (i, _), r in zip(parts, ranks, strict=True))
        raise FatalError(
            f"{name}: --space factors adds A to A and B to B, which needs one rank; it is {specs}",
            hint="--space shared, the default, takes any ranks",
        )
    return ranks[0]


def _with_companions(planned: Sequence[Planned]) -> list[Planned]:
    """lora_bias and DoRA's magnitude in every module, where one module of an input has them."""
    modules = [module for p in planned for _, module in p.parts]
    has_bias = any(m.bias for m in modules)
    magnitude = next((m.magnitude for m in modules if m.magnitude), None)
    suffix = magnitude[magnitude.index(".lora_magnitude") :] if magnitude else None
    found = []
    for p in planned:
        left = p.parts[0][1].left
        bias = has_bias and left.endswith(".lora_B.weight")
        found.append(
            replace(
                p,
                bias=left.removesuffix("weight") + "bias" if bias else None,
                magnitude=left.partition(".lora_")[0] + suffix if suffix else None,
            )
        )
    return found


def _with_common_scale(planned: list[Planned]) -> list[Planned]:
    """One scaling for all modules, the most common; the others' goes into their factors."""
    common = Counter(p.scale for p in planned).most_common(1)[0][0]
    return [replace(p, scale=common) for p in planned]


def _targets(opened: OpenAdapter) -> tuple[object, ...]:
    keys = ("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules")
    values = [opened.settings.get(key) for key in keys]
    return tuple(tuple(sorted(map(str, v))) if isinstance(v, list) else v for v in values)


def _union(inputs: Sequence[Input], key: str) -> list[str] | None:
    given = [i.opened.settings.get(key) or () for i in inputs]
    names = {name for names in given for name in ([names] if isinstance(names, str) else names)}
    before = {name for i in inputs if i.is_partial for name in i.opened.file.entries}
    after = {name for i in inputs for name in i.opened.extras}
    gone = {n for n in names if _holds(before, n) and not _holds(after, n)}
    return sorted(names - gone) or None


def _holds(tensors: Iterable[str], module: str) -> bool:
    return any(f".{module}." in f".{name}" for name in tensors)


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
