"""What a merge with a common ancestor does to each module, decided before any number is read.

The unit is the module, not the tensor: A without its B is no update. What one side changed
is taken from that side byte for byte; what several changed is combined as task vectors from
the common ancestor (the origin); what cannot be combined is a clash, and no guess.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Literal, TypeVar

from soup_git.core.adapter import CONVERT, INIT, AdapterConfig, parse_adapter_config
from soup_git.core.kinds import NO_PRODUCT
from soup_git.core.manifest import FACTS, FILE, Manifest, Tensor, config_bytes, settled
from soup_git.core.targets import NoTargetError, rank_axis, targets_of
from soup_git.errors import ExitCode, FatalError

MEAN = "mean"
DEFAULT_STRATEGY = "linear"
DEFAULT_WEIGHTS = MEAN
"""Of each side: the mean of the steps from the origin, which never overshoots where both sides
learned the same. Measured beside the others: `benchmarks/merge_strategies.py`, docs/explanation/merging.md."""
KEEP, GROW = "keep", "grow"
"""What becomes of a sum that the rank of its sides cannot hold: its best approximation, or a higher
rank. Measured: `benchmarks/merge_rank.py`, docs/explanation/merging.md."""
ORIGIN = -1
MAX_SIDES = 16

_T = TypeVar("_T")
_Group = tuple[Tensor, ...]
_PER_MODULE = {"module", "rank", "alpha", "rank_pattern", "alpha_pattern"}
_FLOATS = {"BF16", "F16", "F32", "F64"}


@dataclass(frozen=True)
class Combination:
    """How the versions of a module that several sides changed are joined."""

    strategy: str = DEFAULT_STRATEGY
    weights: str = DEFAULT_WEIGHTS
    density: float = 0.5
    seed: int = 0
    rank: str = KEEP

    def of_sides(self, count: int) -> list[float | None]:
        """A weight for each side; None is an equal share of those that changed a module.

        Raises `FatalError` where the weights are not numbers, or not as many as the sides.
        """
        if self.weights == MEAN:
            return [None] * count
        try:
            found = [float(part) for part in self.weights.split(",")]
        except ValueError:
            found = []
        if not found or not all(math.isfinite(weight) for weight in found):
            raise FatalError(
                f"soup.merge.weights is {self.weights!r}: neither numbers with commas between nor {MEAN}",
                hint=f"git config soup.merge.weights {DEFAULT_WEIGHTS}",
            )
        if len(found) == 1:
            return [found[0]] * count
        if len(found) != count:
            raise FatalError(
                f"soup.merge.weights has {len(found)} weights for {count} sides",
                hint="one for all sides, or one for each, ours first",
            )
        return list(found)


STEP = Combination(weights="1")
"""Ours + (theirs − origin): what it means to pick, revert, rebase or stash a step, and no setting's
business. Settings say how two trainings are joined; a step that is put elsewhere is put there whole."""


def parse_combination(settings: Mapping[str, str]) -> Combination:
    """What `git config` says under `soup.merge.`; a key that is not there has its default."""
    try:
        density, seed = float(settings.get("density", 0.5)), int(settings.get("seed", 0))
    except ValueError:
        raise FatalError(
            "soup.merge.density or soup.merge.seed is no number",
            hint="git config --get-regexp soup.merge",
        ) from None
    if not 0.0 < density <= 1.0 or seed < 0:
        raise FatalError(
            "soup.merge.density is no share in (0, 1], or soup.merge.seed is negative",
            hint="git config --get-regexp soup.merge",
        )
    rank = settings.get("rank", KEEP)
    if rank not in {KEEP, GROW}:
        raise FatalError(
            f"soup.merge.rank is {rank!r}: neither {KEEP} nor {GROW}",
            hint=f"git config soup.merge.rank {KEEP}",
        )
    strategy = settings.get("strategy", DEFAULT_STRATEGY)
    weights = settings.get("weights", DEFAULT_WEIGHTS).strip()
    return Combination(strategy, weights, density, seed, rank)


@dataclass(frozen=True)
class Choice:
    """What becomes of one module."""

    module: str
    kind: Literal["unchanged", "taken", "combined", "deleted"]
    source: int = ORIGIN
    """The side whose bytes are taken; `ORIGIN` where nobody changed it."""
    changed_by: tuple[int, ...] = ()


@dataclass(frozen=True)
class Clash:
    """What cannot be merged; `module` is empty where it is the whole adapter."""

    module: str
    reason: str
    hint: str | None = None
    """Where another command helps than the one that merges by hand."""


class ConflictError(FatalError):
    """Versions that cannot be merged: an ordinary conflict for git."""

    code = ExitCode.CHECK_FAILED

    def __init__(self, clashes: Sequence[Clash], *, hint: str) -> None:
        own = next((clash.hint for clash in clashes if clash.hint), None)
        super().__init__("; ".join(summarised(clashes)), hint=own or hint)
        self.clashes = tuple(clashes)


@dataclass(frozen=True)
class Decision:
    config: bytes
    """The merged header as an adapter's config (`config_bytes`)."""
    choices: tuple[Choice, ...]
    clashes: tuple[Clash, ...]
    facts: tuple[tuple[str, str], ...] = ()
    """The merged header's lines that no config holds."""

    @property
    def combined(self) -> list[Choice]:
        return [choice for choice in self.choices if choice.kind == "combined"]

    @property
    def kept(self) -> list[Choice]:
        """Modules whose bytes come from one version as they are."""
        return [choice for choice in self.choices if choice.kind in {"unchanged", "taken"}]


def pick(origin: _T, values: Sequence[_T]) -> tuple[bool, _T]:
    """(agreed, value): the value that the changing sides agree on; False where they do not.

    The three-way rule of every text merge, for any number of sides.
    """
    changed = [value for value in values if value != origin]
    if not changed:
        return True, origin
    return all(value == changed[0] for value in changed), changed[0]


def decide(origin: Manifest, sides: Sequence[Manifest]) -> Decision:
    """Choose for every module; clashes hold all reasons at once, not the first."""
    header, clashes = _merged_header(origin, sides)
    if clashes:
        return Decision(b"", (), tuple(clashes))
    facts = _facts_of(header)
    raw = config_bytes(pair for pair in header if not pair[0].startswith(f"{FILE} "))
    merged = parse_adapter_config(raw, "the merged header")
    configs = [config_of(side) for side in sides]
    versions = [modules_of(side) for side in sides]
    before = modules_of(origin)
    choices = []
    keys = _pattern_keys(configs, sides)
    is_retrained = sum(side.tensors != origin.tensors for side in sides) > 1
    for name in sorted({*before, *(name for version in versions for name in version)}):
        groups = [version.get(name) for version in versions]
        choice = _choose(name, before.get(name), groups)
        choices.append(choice)
        if choice.kind == "combined" and INIT in merged.options:
            clashes.append(_moved(name, merged.options[INIT]))
            continue
        reason = _combine_reason(merged, before.get(name), groups, choice)
        is_factor = any(".lora_" in t.name for group in groups for t in group or ())
        if reason is None and is_retrained and is_factor and merged.is_lora:
            reason = _scaling_reason(keys.get(name, name), merged, configs, choice)
        if reason is not None:
            clashes.append(Clash(name, reason))
    return Decision(raw, tuple(choices), tuple(clashes), facts)


def whole(decision: Decision, origin: Manifest, sides: Sequence[Manifest]) -> Manifest | None:
    """The version whose weights file is the result as it is; None where one must be written."""
    if decision.combined:
        return None
    versions = [modules_of(side) for side in sides]
    before = modules_of(origin)
    wanted = tuple(
        tensor
        for choice in decision.kept
        for tensor in (before if choice.source == ORIGIN else versions[choice.source])[
            choice.module
        ]
    )
    equal = [side for side in sides if sorted_by_name(wanted) == side.tensors]
    # Files of equal tensors may differ in their metadata: the one that somebody changed.
    fresh = [side for side in equal if side.weights_md5 != origin.weights_md5] or equal
    return min(fresh, key=lambda side: side.weights_md5, default=None)


def distinct(
    choice: Choice, sides: Sequence[Manifest], weights: Sequence[float | None]
) -> list[tuple[int, Fraction]]:
    """The versions of a module that are combined: a side and its weight.

    Of sides with equal bytes it is the first, with the largest of their weights; a weight that
    is None is an equal share of the versions that differ.
    """
    found: dict[_Group, list[int]] = {}
    for i in choice.changed_by:
        found.setdefault(modules_of(sides[i])[choice.module], []).append(i)
    share = Fraction(1, len(found))
    return [
        (alike[0], max(share if (w := weights[i]) is None else Fraction(w) for i in alike))
        for alike in found.values()
    ]


def sorted_by_name(tensors: Iterable[Tensor]) -> _Group:
    return tuple(sorted(tensors, key=lambda tensor: tensor.name))


def modules_of(manifest: Manifest) -> dict[str, _Group]:
    """Module -> its tensors."""
    ordered = sorted(manifest.tensors, key=lambda tensor: (tensor.module, tensor.name))
    return {name: tuple(group) for name, group in groupby(ordered, key=lambda t: t.module)}


def summarised(clashes: Sequence[Clash]) -> list[str]:
    """One sentence per reason; a reason that many modules share names the first."""
    by_reason: dict[str, list[str]] = {}
    for clash in clashes:
        by_reason.setdefault(clash.reason, []).append(clash.module)
    return [
        reason
        if not modules[0]
        else f"{modules[0]}{f' and {len(modules) - 1} more' if len(modules) > 1 else ''}: {reason}"
        for reason, modules in by_reason.items()
    ]


@dataclass(frozen=True)
class Recipe:
    """What suffices to make a merge again. A version is the md5 of its weights and its config
    (`config_bytes`): with the weights in the cache, no manifest of history is needed."""

    how: Combination
    """Its weights are those of the sides, and not read."""
    origin: tuple[str, bytes]
    sides: tuple[tuple[str, bytes], ...]
    weights: tuple[float | None, ...]
    """Of each side; None is an equal share."""


def recipe_lines(
    how: Combination,
    settings: Mapping[str, float | int | str],
    origin: Manifest,
    sides: Sequence[tuple[Manifest, float | None]],
) -> list[str]:
    """`settings` are those that the strategy reads; `sides` with their weights."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return [
        f"strategy {how.strategy}",
        f"settings {text}",
        f"origin {_version(origin)}",
        *(f"side {MEAN if w is None else repr(w)} {_version(side)}" for side, w in sides),
    ]


def _version(manifest: Manifest) -> str:
    return f"md5:{manifest.weights_md5} {config_bytes(manifest.header).decode()}"


_VERSION = r"md5:([0-9a-f]{32}) (\{[^\n]*\})"
_RECIPE = re.compile(
    rf"strategy (?P<strategy>[a-z_]{{1,40}})\nsettings (?P<settings>\{{[^\n]*\}})"
    rf"\norigin {_VERSION}(?P<sides>(?:\nside [0-9a-z.+-]{{1,40}} {_VERSION}){{2,{MAX_SIDES}}})"
)


def parse_recipe(manifest: Manifest, where: str) -> Recipe:
    """The recipe of a merge with an origin; raises `FatalError` where it is another or edited."""
    found = _RECIPE.fullmatch("\n".join(manifest.recipe))
    try:
        settings = json.loads(found["settings"]) if found else {}
        sides = [line.split(" ", 3) for line in found["sides"].split("\n")[1:]] if found else []
        weights = [None if words[1] == MEAN else float(words[1]) for words in sides]
        how = Combination(
            found["strategy"] if found else "",
            density=float(settings.get("density", 0.5)),
            seed=int(settings.get("seed", 0)),
            rank=GROW if settings.get("rank") == GROW else KEEP,
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = None
    if found is None:
        raise FatalError(
            f"{where}: its recipe is not one of a merge with a common ancestor",
            hint=f"git log -p -- {where} tells who wrote it",
        )
    versions = tuple((words[2].removeprefix("md5:"), words[3].encode()) for words in sides)
    return Recipe(how, (found[3], found[4].encode()), versions, tuple(weights))


def has_origin(manifest: Manifest) -> bool:
    """Whether it is the result of a merge with a common ancestor."""
    return any(line.startswith("origin ") for line in manifest.recipe)


# -- the header -------------------------------------------------------------------------------


def _merged_header(
    origin: Manifest, sides: Sequence[Manifest]
) -> tuple[list[tuple[str, str]], list[Clash]]:
    heads = [_scalars(side) for side in sides]
    before = _scalars(origin)
    clashes, merged = [], []
    for key in dict.fromkeys([*before, *(key for head in heads for key in head)]):
        values = [head.get(key) for head in heads]
        agreed, value = pick(before.get(key), values)
        is_init = key == INIT and len({*values, before.get(key)}) > 1
        if is_init and sum(side.tensors != origin.tensors for side in sides) > 1:
            named = {value for value in [before.get(key), *values] if value}
            clashes.append(_moved("", " and ".join(sorted(v.strip('"') for v in named))))
        elif len(set(values)) > 1 and key == "base":
            clashes.append(Clash("", f"the base model differs: {_listed(values)}"))
        elif not agreed:
            was = before.get(key) or "not set"
            clashes.append(Clash("", f"{key} was {was} and is {_listed(values)}"))
        elif value is not None:
            merged.append((key, value))
    changed = sum(side.tensors != origin.tensors for side in sides)
    for key in [] if clashes or changed < 2 else dict(merged).keys() | before.keys():
        values = [head.get(key) for head in heads]
        if key.startswith(f"{FILE} "):
            continue
        if key not in _PER_MODULE and len(set(values)) > 1:
            reason = f"{key} is {_listed(values)}, and both sides changed the weights"
            clashes.append(Clash("", reason))
        elif key == "base" and values[0] != before.get(key):
            reason = f"the merge base is for {before.get(key)}, and both sides changed the weights"
            clashes.append(Clash("", reason))
    return merged, clashes


def _moved(module: str, init: str) -> Clash:
    what = "it" if module else "the weights"
    return Clash(
        module,
        f"both sides changed {what}, and a version was initialised with {init}, which changes the base too:"
        " its factors are not its update of the base",
        CONVERT,
    )


def _scalars(manifest: Manifest) -> dict[str, str]:
    """Header key -> value; the files beside the weights are keys of their own (`file NAME`)."""
    found = {}
    for key, value in manifest.header:
        if key == FILE:
            name, _, digest = value.rpartition(" ")
            found[f"{FILE} {name}"] = digest
        elif key != "module":
            found[key] = settled((key, value))[1]
    return found


def _facts_of(merged: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The inverse of `_scalars`, of the lines that no config holds."""
    return tuple(
        (FILE, f"{key.removeprefix(f'{FILE} ')} {value}")
        if key.startswith(f"{FILE} ")
        else (key, value)
        for key, value in merged
        if key.partition(" ")[0] in FACTS
    )


def config_of(manifest: Manifest) -> AdapterConfig:
    """The config that a manifest's header gives."""
    return parse_adapter_config(config_bytes(manifest.header), "its header")


def _listed(values: Sequence[str | None]) -> str:
    return " and ".join(dict.fromkeys(value or "not set" for value in values))


# -- one module -------------------------------------------------------------------------------


def _choose(name: str, before: _Group | None, groups: Sequence[_Group | None]) -> Choice:
    changed = tuple(i for i, group in enumerate(groups) if group != before)
    if not changed:
        return Choice(name, "unchanged")
    if any(groups[i] != groups[changed[0]] for i in changed):
        return Choice(name, "combined", changed_by=changed)
    kind: Literal["taken", "deleted"] = "deleted" if groups[changed[0]] is None else "taken"
    return Choice(name, kind, changed[0], changed)


def _combine_reason(
    config: AdapterConfig, before: _Group | None, groups: Sequence[_Group | None], choice: Choice
) -> str | None:
    """Why a module that several sides changed cannot be combined; None where it can."""
    if choice.kind != "combined":
        return None
    changed = [group for i in choice.changed_by if (group := groups[i]) is not None]
    if len(changed) < len(choice.changed_by):
        return "deleted on one side and changed on the other"
    if before is None:
        return "added on both sides with different weights, and no common version to start from"
    if not config.is_lora:
        return f"both sides changed it, and only LoRA is combined, not {config.peft_type}"
    if config.not_summed is not None:
        why = NO_PRODUCT[config.not_summed]
        return f"both sides changed it, and with {config.not_summed} it is no plain B·A: {why}"
    if any(".lora_magnitude" in tensor.name for tensor in changed[0]):
        return (
            "both sides changed it, and DoRA's magnitude is combined only with the base's weights"
        )
    everything = [tensor for group in [before, *changed] for tensor in group]
    if any(tensor.dtype not in _FLOATS for tensor in everything):
        return "both sides changed it, and it holds integers"
    if not all(math.isfinite(tensor.norm) for tensor in everything):
        return "both sides changed it, and it holds values that are not finite"
    if len({_form(group) for group in [before, *changed]}) > 1:
        return "both sides changed it, and its tensors have other names or shapes"
    return None


def _form(group: _Group) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes without what the rank alone decides."""
    return tuple((tensor.name, _without_rank(tensor)) for tensor in group)


def _without_rank(tensor: Tensor) -> tuple[int, ...]:
    axis = rank_axis(tensor.name)
    if axis is None or len(tensor.shape) <= axis:
        return tensor.shape
    return tensor.shape[:axis] + tensor.shape[axis + 1 :]


def _pattern_keys(configs: Sequence[AdapterConfig], sides: Sequence[Manifest]) -> dict[str, str]:
    """Module -> the name by which patterns give it rank and alpha, where it is not its own."""
    found: dict[str, str] = {}
    for config, side in zip(configs, sides, strict=True):
        try:
            targets = targets_of(config, side.tensors) if config.target_parameters else {}
        except NoTargetError as error:
            raise FatalError(
                f"the manifest of weights md5:{side.weights_md5} says {error.reason}",
                hint="git log --all -- '*adapter.manifest' tells who wrote it",
            ) from None
        found |= {module: target.key for module, target in targets.items()}
    return found


def _scaling_reason(
    name: str, merged: AdapterConfig, configs: Sequence[AdapterConfig], choice: Choice
) -> str | None:
    """Factors that a side trained must keep the rank and alpha that they were trained with."""
    changed = [] if choice.kind == "deleted" else [configs[side] for side in choice.changed_by]
    values: dict[str, list[float | None]] = {
        "rank": [config.rank_of(name) for config in configs],
        "alpha": [config.alpha_of(name) for config in configs],
    }
    if any(config.rank_of(name) != merged.rank_of(name) for config in changed):
        what = "rank"
    elif any(config.alpha_of(name) != merged.alpha_of(name) for config in changed):
        what = "alpha"
    else:
        return None
    listed = _listed([f"{value:g}" for value in values[what] if value is not None])
    return f"{what} is {listed}, and both sides changed the weights"
