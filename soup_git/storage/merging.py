"""A merged adapter, computed and written module by module.

What is known before any number is (names, shapes, ranks, the config) is planned first and
refused first; then modules are computed on two threads and written where they belong.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from soup_git.arithmetic import dora
from soup_git.arithmetic.elementwise import Settings
from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import STORAGE, Array, Stored, to_bits, widest, work_dtype
from soup_git.arithmetic.merging import Task, merge
from soup_git.arithmetic.strategies import Linear, Strategy
from soup_git.core.groups import GroupWeights
from soup_git.core.manifest import CONFIG, WEIGHTS
from soup_git.errors import FatalError
from soup_git.storage.basemodel import BaseModel
from soup_git.storage.files import copy_bytes
from soup_git.storage.patterns import patterns
from soup_git.storage.tensors import Slot, TensorWriter
from soup_git.storage.updates import Module, OpenAdapter

_WORKERS = 2
_PREFIX = "base_model.model."
_TOKENS = ".token_adapter.trainable_tokens_delta"
# Keys of a LoraConfig that change what the factors mean: merged only where all agree.
_MUST_AGREE = (
    "task_type", "bias", "fan_in_fan_out", "layer_replication", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "megatron_config", "use_qalora",
    "qalora_group_size",
)  # fmt: skip
_CANNOT = ("use_bdlora", "kasa_config", "arrow_config", "monteclora_config", "velora_config")
# Initialisations that leave the base as it is; the others also change it (FIELD: PEFT).
_PLAIN_INIT = (True, False, None, "gaussian", "eva", "orthogonal", "default")


@dataclass(frozen=True)
class Input:
    opened: OpenAdapter
    weight: float
    groups: GroupWeights | None = None
    """Where modules are weighed by group; `weight` is then their mean, for people."""

    def inside(self, module: str) -> Input:
        """This input as one module, or a tensor of that name, sees it."""
        if self.groups is None:
            return self
        return Input(self.opened, self.groups.of(module))

    @property
    def digest(self) -> str:
        return self.opened.adapter.manifest.weights_md5


@dataclass(frozen=True)
class Recipe:
    """How to merge: everything besides the inputs that the result depends on."""

    name: str
    strategy: Strategy
    settings: Settings
    space: str
    rank: int | None
    """None: exact where the strategy is, else the largest input rank of each module."""

    @property
    def is_exact(self) -> bool:
        method = self.strategy.method
        return (
            isinstance(method, Linear)
            and method.exact
            and self.rank is None
            and self.space != "factors"
        )


@dataclass(frozen=True)
class MergedModule:
    module: str
    rank: int
    inputs: int
    residual: float | None
    """‖ΔW − written‖/‖ΔW‖: what the rank cost; None where it is not defined."""


@dataclass
class Outcome:
    modules: list[MergedModule]
    rank: int
    alpha: float
    dtype: str
    residual: float | None
    notes: list[str] = field(default_factory=list)


class Sink(Protocol):
    """Where merged tensors go."""

    def put(self, name: str, bits: Array, start: int = 0) -> None:
        """`bits`, in the tensor's storage dtype, `start` elements into `name`."""


@dataclass(frozen=True)
class _Planned:
    """One module of the result."""

    name: str
    parts: _Parts
    rank: int
    """Of each expert's matrices."""
    dtype: str
    scale: float
    bias: str | None = None
    magnitude: str | None = None
    """lora_bias and DoRA are one switch for all of PEFT's modules: these tensors are in each or none."""


def write_merged(
    folder: Path, inputs: Sequence[Input], recipe: Recipe, base: BaseModel | None
) -> Outcome:
    """Write config and weights of the merge of `inputs` into `folder`.

    Raises `FatalError`, before anything is written, where modules cannot be combined.
    """
    refuse_what_cannot_merge(inputs)
    planned = _plan(inputs, recipe, _scale)
    extras = _Extras(inputs, base)
    config, rank, alpha = _config(inputs, planned)
    slots = [slot for p in planned for slot in _slots(p)]
    slots += extras.slots()
    notes = extras.notes()
    with TensorWriter(folder / WEIGHTS, sorted(slots, key=lambda s: s.name)) as out:
        with ThreadPoolExecutor(_WORKERS) as pool:
            measured = list(pool.map(lambda p: _write_module(out, p, recipe, base), planned))
        extras.write(out)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    norm2 = sum(norm**2 for _, norm, _ in measured)
    lost2 = sum(lost**2 for _, _, lost in measured)
    residual = math.sqrt(lost2 / norm2) if norm2 > 0 else 0.0
    return Outcome(
        modules=[module for module, _, _ in measured],
        rank=rank,
        alpha=alpha,
        dtype=widest({p.dtype for p in planned}),
        residual=residual if math.isfinite(residual) else None,
        notes=notes,
    )


@dataclass(frozen=True)
class InMemory:
    """A merged adapter that is in no file: PEFT's config, and tensors as float32 or float64."""

    config: dict[str, Any]
    tensors: dict[str, Array]
    stacks: dict[str, tuple[str, tuple[int, ...]]]
    """Of an exact merge: a left factor's name -> its module, and the columns each input has."""


def merge_in_memory(
    inputs: Sequence[Input], recipe: Recipe, base: BaseModel | None = None
) -> InMemory:
    """What `write_merged` writes, as arrays, and of one form whatever the weights are.

    Every input keeps its place, one of weight 0 too, and the scaling is 1: merges that differ
    in nothing but weights have equal configs and shapes. Raises `FatalError` as `write_merged`.
    """
    refuse_what_cannot_merge(inputs)
    planned = _plan(inputs, recipe, lambda _: 1.0)
    extras = _Extras(inputs, base)
    config, _, _ = _config(inputs, planned)
    slots = [slot for p in planned for slot in _slots(p)] + extras.slots()
    sink = _Arrays(slots)
    for p in planned:
        _write_module(sink, p, recipe, base)
    extras.write(sink)
    stacks = {}
    for p in planned:
        ranks = {id(i.opened): _rank(i, module) for i, module in p.parts}
        widths = tuple(ranks.get(id(i.opened), 0) for i in inputs)
        stacks[p.parts[0][1].left] = (p.name, widths)
    return InMemory(config, sink.values(), stacks)


def is_plain(inputs: Sequence[Input]) -> bool:
    """Whether the adapters are factors and nothing else, one matrix to a module."""
    return all(
        not i.opened.extras
        and all(
            m.experts == 1 and not m.bias and not m.magnitude for m in i.opened.modules.values()
        )
        for i in inputs
    )


class _Arrays:
    """A sink in memory."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._dtypes = {slot.name: slot.dtype for slot in slots}
        self._bits = {slot.name: np.zeros(slot.shape, STORAGE[slot.dtype]) for slot in slots}

    def put(self, name: str, bits: Array, start: int = 0) -> None:
        flat = np.ascontiguousarray(bits).reshape(-1)
        self._bits[name].reshape(-1)[start : start + flat.size] = flat

    def values(self) -> dict[str, Array]:
        return {
            name: Stored(bits, self._dtypes[name]).read(work=work_dtype(self._dtypes[name]))
            for name, bits in self._bits.items()
        }


def is_copy(inputs: Sequence[Input], recipe: Recipe) -> bool:
    """One adapter, weight 1, nothing to approximate: the bytes are the answer, of any method."""
    linear = isinstance(recipe.strategy.method, Linear) and recipe.space == "exact"
    single = [i.weight for i in inputs] == [1.0] and inputs[0].groups is None
    return linear and recipe.rank is None and single


def copy_single(folder: Path, found: Input) -> Outcome:
    """Write an adapter as it is."""
    adapter = found.opened.adapter
    if adapter.weights is not None:
        copy_bytes(adapter.weights, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(adapter.config_data)
    return Outcome(
        modules=[
            MergedModule(m.name, _rank(found, m), 1, 0.0) for m in found.opened.modules.values()
        ],
        rank=adapter.config.rank or 0,
        alpha=adapter.config.alpha or 0.0,
        dtype=widest({e.dtype for e in found.opened.file.entries.values()} & set(STORAGE)),
        residual=0.0,
    )


def refuse_what_cannot_merge(inputs: Sequence[Input]) -> None:
    """Raise `FatalError` for adapters whose factors are no update of the base, or not alike."""
    for found in inputs:
        opened = found.opened
        if opened.adapter.config.peft_type != "LORA":
            raise FatalError(
                f"{opened.spec} is {opened.adapter.config.peft_type}; only LoRA adapters are merged",
                hint="git soup diff compares any two; merge_and_unload in PEFT merges one into its base",
            )
        if not opened.modules:
            raise FatalError(
                f"{opened.spec} holds no LoRA factors", hint=f"git soup show {opened.spec}"
            )
        for key in _CANNOT:
            if opened.settings.get(key):
                raise FatalError(
                    f"{opened.spec} uses {key}, whose factors are no plain B·A and are not merged",
                    hint="merge_and_unload in PEFT merges one adapter into its base",
                )
        init = opened.settings.get("init_lora_weights")
        if not isinstance(init, bool) and init not in _PLAIN_INIT:
            raise FatalError(
                f"{opened.spec} was initialised with {init!r}, which changes the base too: its"
                " factors are not its update of the base",
                hint="save it as a plain LoRA: save_pretrained(DIR, path_initial_model_for_weight_conversion=INIT)",
            )
    _refuse_disagreement(inputs)


def _refuse_disagreement(inputs: Sequence[Input]) -> None:
    first = inputs[0].opened
    for found in inputs[1:]:
        for key in _MUST_AGREE:
            one, two = first.settings.get(key), found.opened.settings.get(key)
            if (one or None) != (two or None):
                raise FatalError(
                    f"{first.spec} and {found.opened.spec} differ in {key}: {one!r} and {two!r}",
                    hint="adapters of one kind can be merged: git soup show SPEC",
                )
    if len(inputs) > 1 and not set.intersection(*[set(i.opened.modules) for i in inputs]):
        raise FatalError(
            "the adapters have no module in common: their merge would only stack them",
            hint="git soup diff A B lists the modules of each",
        )


# -- the plan ---------------------------------------------------------------------------------


_Parts = Sequence[tuple[Input, Module]]


def _plan(
    inputs: Sequence[Input], recipe: Recipe, scale_of: Callable[[_Parts], float]
) -> list[_Planned]:
    names = dict.fromkeys(name for i in inputs for name in i.opened.modules)
    planned = []
    for name in names:
        parts = [
            (i.inside(name), i.opened.modules[name]) for i in inputs if name in i.opened.modules
        ]
        _check_fit(name, parts)
        ranks = [_rank(i, module) for i, module in parts]
        rank = sum(ranks) if recipe.is_exact else recipe.rank or max(ranks)
        if recipe.strategy.columns is False and recipe.space == "factors":
            rank = _factor_rank(name, parts, ranks, recipe)
        dtypes = {i.opened.file.entries[n].dtype for i, m in parts for n in (m.left, m.right)}
        planned.append(
            _Planned(name, parts, rank, widest(dtypes), scale_of(parts) if recipe.is_exact else 1.0)
        )
    planned = _with_companions(planned)
    return _with_common_scale(planned) if recipe.is_exact else planned


def _with_companions(planned: Sequence[_Planned]) -> list[_Planned]:
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


def _rank(found: Input, module: Module) -> int:
    return found.opened.file.entries[module.right].shape[0] // module.experts


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


def _scale(parts: Sequence[tuple[Input, Module]]) -> float:
    """The scaling that the exact form keeps out of the factors: the first input's, positive."""
    return abs(parts[0][0].weight * parts[0][1].scale) or 1.0


def _with_common_scale(planned: list[_Planned]) -> list[_Planned]:
    """One scaling for all modules, the most common; the others' goes into their factors."""
    common = Counter(p.scale for p in planned).most_common(1)[0][0]
    return [replace(p, scale=common) for p in planned]


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


def _slots(p: _Planned) -> list[Slot]:
    found, module = p.parts[0]
    left, right = found.opened.file.entries[module.left], found.opened.file.entries[module.right]
    width = p.rank * module.experts
    slots = [
        Slot(module.right, p.dtype, (width, *right.shape[1:])),
        Slot(module.left, p.dtype, (left.shape[0], width, *left.shape[2:])),
    ]
    slots += [Slot(n, p.dtype, (left.shape[0],)) for n in (p.bias, p.magnitude) if n]
    return slots


def _config(
    inputs: Sequence[Input], planned: Sequence[_Planned]
) -> tuple[dict[str, Any], int, float]:
    """PEFT's config of the result, its rank and its alpha."""
    ranks = {p.name: p.rank for p in planned}
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
    if len(targets) > 1 or any(set(i.opened.modules) != set(ranks) for i in inputs):
        for key in ("layers_to_transform", "layers_pattern", "exclude_modules"):
            config[key] = None
        config["target_modules"] = sorted(ranks)
    elif isinstance(config.get("target_modules"), list):
        config["target_modules"] = sorted(config["target_modules"])
    return config, rank, scale * rank


def _targets(opened: OpenAdapter) -> tuple[object, ...]:
    keys = ("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules")
    values = [opened.settings.get(key) for key in keys]
    return tuple(tuple(sorted(map(str, v))) if isinstance(v, list) else v for v in values)


def _union(inputs: Sequence[Input], key: str) -> list[str] | None:
    names = {name for i in inputs for name in i.opened.settings.get(key) or ()}
    return sorted(names) or None


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


# -- one module -------------------------------------------------------------------------------


def _write_module(
    out: Sink, p: _Planned, recipe: Recipe, base: BaseModel | None
) -> tuple[MergedModule, float, float]:
    """Compute and write one module: (its row, ‖merged‖, ‖what the rank lost‖)."""
    try:
        if p.magnitude is not None:
            return _write_dora(out, p, recipe, base)
        norm, lost = _write_factors(out, p, recipe)
        _write_bias(out, p)
    except ValueError as error:
        raise FatalError(f"{p.name} cannot be merged: {error}", hint="git soup diff A B") from None
    except OverflowError as error:
        raise FatalError(
            f"{p.name}: {error}, the dtype of the inputs",
            hint="smaller --weights, or float32 inputs",
        ) from None
    residual = lost / norm if norm > 0 else (None if math.isnan(norm) else 0.0)
    return MergedModule(p.name, p.rank, len(p.parts), residual), norm, lost


def _write_factors(out: Sink, p: _Planned, recipe: Recipe) -> tuple[float, float]:
    experts = [i.opened.updates(module) for i, module in p.parts]
    left, right = p.parts[0][1].left, p.parts[0][1].right
    lefts, squares = [], [0.0, 0.0]
    for number, updates in enumerate(zip(*experts, strict=True)):
        at = number * p.rank * updates[0].shape[1]
        if recipe.is_exact:
            lefts.append(_concatenated(out, p, updates, at))
            continue
        found = merge(_task(p, updates, number), recipe.strategy, recipe.space, recipe.settings)
        squares = [squares[0] + found.norm**2, squares[1] + found.residual**2]
        for start, values in found.right_blocks():
            out.put(right, to_bits(values, p.dtype), at + start)
        if len(experts[0]) > 1:
            lefts.append(to_bits(found.left, p.dtype))
            continue
        for start, values in found.left_blocks():
            out.put(left, to_bits(values, p.dtype), start)
    if lefts:
        # PEFT interleaves the experts along B's rank axis.
        out.put(left, lefts[0] if len(lefts) == 1 else np.stack(lefts, axis=2))
    return math.sqrt(squares[0]), math.sqrt(squares[1])


def _task(p: _Planned, updates: Sequence[Update], number: int) -> Task:
    return Task(
        name=p.name if p.parts[0][1].experts == 1 else f"{p.name}.{number}",
        updates=updates,
        weights=[i.weight for i, _ in p.parts],
        digests=[i.digest for i, _ in p.parts],
        rank=p.rank,
        work=work_dtype(p.dtype),
    )


def _concatenated(out: Sink, p: _Planned, updates: Sequence[Update], at: int) -> Array:
    """Σ w·s·B·A = [B_1 … B_N]·[f_1·A_1; …; f_N·A_N]·scale: writes A, returns B."""
    for (found, _), update in zip(p.parts, updates, strict=True):
        factor = found.weight * update.scale / p.scale
        out.put(p.parts[0][1].right, _scaled(update.right, factor, p.dtype), at)
        at += update.right.bits.size
    return np.concatenate([_scaled(u.left, 1.0, p.dtype) for u in updates], axis=1)


def _scaled(stored: Stored, factor: float, dtype: str) -> Array:
    """`factor` times a tensor, in the bits of `dtype`; the very bytes where nothing changes."""
    if factor == 1.0 and stored.dtype == dtype:
        return stored.bits
    work = work_dtype(stored.dtype, dtype)
    return to_bits(stored.read(work=work) * work(factor), dtype)


def _write_bias(out: Sink, p: _Planned) -> None:
    """lora_bias: ΔW comes with s·b, so the merged bias is Σ w·s·b over the result's scale."""
    if p.bias is None:
        return
    total = np.zeros(p.parts[0][0].opened.file.entries[p.parts[0][1].left].shape[0])
    for found, module in p.parts:
        if module.bias is not None:
            value = found.opened.file[module.bias].read(work=np.float64)
            total += found.weight * module.scale / p.scale * value
    out.put(p.bias, to_bits(total, p.dtype))


def _write_dora(
    out: Sink, p: _Planned, recipe: Recipe, base: BaseModel | None
) -> tuple[MergedModule, float, float]:
    first = p.parts[0][1]
    if base is None or not recipe.is_exact:
        why = (
            "needs the base weights" if recipe.is_exact else "is exact with --strategy linear only"
        )
        raise FatalError(
            f"{p.name} is DoRA: its update is scaled by the norms of the base's rows, so a merge {why}",
            hint="git soup merge … --strategy linear --base FOLDER-OF-THE-BASE-MODEL",
        )
    if first.experts != 1 or len(p.parts[0][0].opened.file.entries[first.right].shape) != 2:
        raise ValueError("DoRA is merged in linear layers only")
    if p.parts[0][0].opened.settings.get("fan_in_fan_out") or any(m.bias for _, m in p.parts):
        raise ValueError("DoRA with fan_in_fan_out or lora_bias is not merged")
    updates = [i.opened.updates(module)[0] for i, module in p.parts]
    left, right, magnitude = dora.merge(
        base.tensor(f"{p.name}.weight"),
        [u.left.read(work=np.float64) * u.scale for u in updates],
        [u.right.read(work=np.float64) for u in updates],
        [
            i.opened.file[m.magnitude].read(work=np.float64).reshape(-1) if m.magnitude else None
            for i, m in p.parts
        ],
        [i.weight for i, _ in p.parts],
    )
    out.put(first.right, to_bits(right, p.dtype))
    out.put(first.left, to_bits(left / p.scale, p.dtype))
    out.put(p.magnitude or "", to_bits(magnitude, p.dtype))
    return MergedModule(p.name, p.rank, len(p.parts), 0.0), 0.0, 0.0


# -- whole tensors ----------------------------------------------------------------------------


class _Extras:
    """Tensors that replace the base's (`modules_to_save`, biases): v0 + Σ w·(v − v0).

    v0, the base's value, cancels where the weights of those that have the tensor add up to
    1 and every input has it; else it must be given.
    """

    def __init__(self, inputs: Sequence[Input], base: BaseModel | None) -> None:
        self._inputs = inputs
        self._base = base
        names = dict.fromkeys(name for i in inputs for name in i.opened.extras)
        self._having = {
            n: [i.inside(n) for i in inputs if n in i.opened.file.entries] for n in names
        }
        for name, having in self._having.items():
            self._check(name, having)

    def _check(self, name: str, having: Sequence[Input]) -> None:
        shapes = {i.opened.file.entries[name].shape for i in having}
        if len(shapes) > 1:
            raise FatalError(
                f"{name} has other shapes in {having[0].opened.spec} than in another input",
                hint="adapters of one base model have the same shapes: git soup show SPEC",
            )
        if self._base is None and not self._base_cancels(having):
            has = {id(i.opened) for i in having}
            missing = [i.opened.spec for i in self._inputs if id(i.opened) not in has]
            why = f"{', '.join(missing)} has none" if missing else "the weights do not add up to 1"
            raise FatalError(
                f"{name} replaces the base's tensor, and {why}: its merge needs the base's value",
                hint="--base FOLDER-OF-THE-BASE-MODEL, or weights that add up to 1 (--normalize)",
            )

    def _base_cancels(self, having: Sequence[Input]) -> bool:
        everywhere = len(having) == len(self._inputs)
        return everywhere and abs(sum(i.weight for i in having) - 1.0) < 1e-9

    def slots(self) -> list[Slot]:
        return [
            Slot(name, self._dtype(name), having[0].opened.file.entries[name].shape)
            for name, having in self._having.items()
        ]

    def notes(self) -> list[str]:
        count = len(self._having)
        if not count:
            return []
        return [
            f"{count} whole tensor{'s' if count > 1 else ''} (modules_to_save, biases) merged as a weighted mean"
        ]

    def _dtype(self, name: str) -> str:
        return widest({i.opened.file[name].dtype for i in self._having[name]})

    def write(self, out: Sink) -> None:
        for name, having in self._having.items():
            digests = {i.opened.tensors[name].sha256 for i in having}
            if len(digests) == 1 and self._base_cancels(having):
                out.put(name, having[0].opened.file[name].bits)
            else:
                out.put(name, to_bits(self._merged(name, having), self._dtype(name)))

    def _merged(self, name: str, having: Sequence[Input]) -> Array:
        values = [i.opened.file[name].read(work=np.float64) for i in having]
        total = np.asarray(sum(i.weight * v for i, v in zip(having, values, strict=True)))
        rest = 1.0 - sum(i.weight for i in having)
        if self._base is not None and not self._base_cancels(having):
            total = total + rest * _base_value(self._base, name, having[0].opened)
        return total


def _base_value(base: BaseModel, name: str, opened: OpenAdapter) -> Array:
    """What the base has where an adapter has the whole tensor `name`, float64."""
    plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
    module = plain.removesuffix(_TOKENS)
    if module == plain:
        return base.tensor(plain).read(work=np.float64)
    # Some rows of an embedding: PEFT names them per module, or for the input embeddings alone.
    indices = opened.settings.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((v for k, v in indices.items() if f".{module}".endswith(f".{k}")), None)
    if not isinstance(indices, list):
        raise FatalError(
            f"{opened.spec}: its config names no trainable_token_indices for {module}",
            hint="save the adapter again with PEFT's model.save_pretrained(DIR)",
        )
    return base.tensor(f"{module}.weight").read(indices, np.float64)
