"""An adapter opened for arithmetic: which tensors are factors of which module's update.

The one place that knows how PEFT names and shapes factors; what it hands out are
`arithmetic.factors.Update`s, module by module, as views of a memory map.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import Array, Stored
from soup_git.arithmetic.products import hadamard, kronecker
from soup_git.core.adapter import module_of
from soup_git.core.kinds import KINDS
from soup_git.core.manifest import Tensor
from soup_git.core.targets import NoTargetError, Target, targets_of
from soup_git.core.tensornames import canonical
from soup_git.errors import FatalError
from soup_git.storage import vectorbank
from soup_git.storage.blas import use_one_blas_thread
from soup_git.storage.resolver import Adapter
from soup_git.storage.tensors import TensorFile
from soup_git.storage.weights import Entry

_LORA = re.compile(
    r"(?P<prefix>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector|E)"
    r"(?P<suffix>|\.weight|\.bias)"
)
_PRODUCT = re.compile(r"(?P<prefix>.+)\.(?:hada|lokr)_(?P<part>w[12](?:_[ab])?|t[12])(?:\.weight)?")
_LORA_PARTS = {"A", "B", "B.bias", "magnitude_vector"}
# A Hadamard product of ranks r1 and r2 is a LoRA of rank r1·r2; beyond this it is not cheap.
_MAX_PRODUCT_RANK = 256


@dataclass(frozen=True)
class Module:
    """The tensors that make one module's LoRA update, by their canonical names."""

    name: str
    right: str
    left: str
    scale: float
    key: str
    """What patterns of the config are matched against (`core.targets`)."""
    experts: int = 1
    """Matrices that one pair of factors holds (`target_parameters`)."""
    bias: str | None = None
    magnitude: str | None = None
    energy: str | None = None
    """AdaLoRA's diagonal between the factors."""


@dataclass(frozen=True)
class Unit:
    """What a comparison puts on one row: a module's update, or a tensor that is none."""

    name: str
    tensors: tuple[str, ...]
    scale: float
    load: Callable[[], list[Update]]
    is_update: bool = True


@dataclass
class OpenAdapter:
    """An adapter whose weights are mapped."""

    adapter: Adapter
    file: TensorFile
    settings: Mapping[str, Any]
    modules: dict[str, Module] = field(default_factory=dict)
    extras: list[str] = field(default_factory=list)
    """Tensors that are no LoRA factor: full weights, biases, other methods' tensors."""

    @property
    def spec(self) -> str:
        return self.adapter.spec

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """By their canonical names, as `file.entries` has them."""
        named = ((canonical(tensor.name), tensor) for tensor in self.adapter.manifest.tensors)
        return {name: replace(tensor, name=name) for name, tensor in named}

    def updates(self, module: Module) -> list[Update]:
        """The updates of a module: one, or one for each expert."""
        right, left = self.file[module.right].matrix(), self.file[module.left].matrix()
        if module.energy is not None:
            energy = self.file[module.energy].read(work=np.float64).reshape(-1, 1)
            right = Stored(right.read(work=np.float64) * energy, "F64")
        rank, count = right.shape[0] // module.experts, module.experts
        if count == 1:
            return [Update(left, right, module.scale)]
        # PEFT: A is experts × rank, B is rank × experts, each along its rank axis.
        return [
            Update(
                Stored(left.bits[:, e::count], left.dtype),
                Stored(right.bits[e * rank : (e + 1) * rank], right.dtype),
                module.scale,
            )
            for e in range(count)
        ]

    def units(self) -> dict[str, Unit]:
        """Everything the adapter holds, as rows of a comparison. Nothing is left out."""
        modules = self.modules.values() if self.adapter.config.no_product is None else ()
        units = [self._module_unit(module) for module in modules]
        units += self._product_units()
        units += self._bank_units()
        used = {name for unit in units for name in unit.tensors}
        units += [self._tensor_unit(name) for name in self.file.entries if name not in used]
        return {unit.name: unit for unit in units}

    def _module_unit(self, module: Module) -> Unit:
        names = [n for n in (module.right, module.left, module.energy) if n]
        return Unit(module.name, tuple(names), module.scale, partial(self.updates, module))

    def _product_units(self) -> Iterator[Unit]:
        """LoHa and LoKr: products that are an update of a rank that is still small."""
        config = self.adapter.config
        kind = KINDS.get(config.peft_type)
        build = {"hadamard": _hadamard, "kronecker": _kronecker}.get(str(kind and kind.update))
        grouped: dict[str, dict[str, str]] = {}
        for name in self.file.entries:
            found = _PRODUCT.fullmatch(name)
            if found and build:
                grouped.setdefault(found["prefix"], {})[found["part"]] = name
        for parts in grouped.values():
            shapes = {part: self.file.entries[name].shape for part, name in parts.items()}
            if build and product_rank(shapes) <= _MAX_PRODUCT_RANK:
                names = tuple(parts.values())
                module = module_of(names[0])
                scale = (config.alpha_of(module) or 0.0) / (config.rank_of(module) or 1)
                load = partial(self._product, build, parts, scale)
                yield Unit(module, names, scale, load)

    def _product(self, build: _Build, parts: Mapping[str, str], scale: float) -> list[Update]:
        left, right = build({p: self.file[n].read(work=np.float64) for p, n in parts.items()})
        return [Update(Stored(left, "F64"), Stored(right, "F64"), scale)]

    def _bank_units(self) -> Iterator[Unit]:
        """VB-LoRA: two tensors of logits, and the bank that they choose from."""
        if self.adapter.config.peft_type != "VBLORA" or vectorbank.BANK not in self.file.entries:
            return
        for prefix, names in vectorbank.modules(self.file.entries).items():
            load = partial(self._from_bank, names)
            yield Unit(module_of(f"{prefix}.vblora_logits_A"), (*names, vectorbank.BANK), 1.0, load)

    def _from_bank(self, names: tuple[str, str]) -> list[Update]:
        a, b, bank = (self.file[n].read(work=np.float64) for n in (*names, vectorbank.BANK))
        left, right = vectorbank.factors(
            a, b, bank, int(self.adapter.config.options.get("topk", 2))
        )
        return [Update(Stored(left, "F64"), Stored(right, "F64"), 1.0)]

    def _tensor_unit(self, name: str) -> Unit:
        def column() -> list[Update]:
            values = self.file.values(name)
            one = Stored(np.ones((1, 1), np.float32), "F32")
            return [Update(Stored(values.bits.reshape(-1, 1), values.dtype), one, 1.0)]

        return Unit(name.removeprefix("base_model.model."), (name,), 1.0, column, is_update=False)


_Build = Callable[[Mapping[str, Array]], tuple[Array, Array]]


def product_rank(shapes: Mapping[str, tuple[int, ...]]) -> float:
    """The rank of the update that LoHa's or LoKr's tensors of these shapes make; inf: not cheap."""
    if any(len(shape) != 2 for shape in shapes.values()):
        return math.inf
    if {"w1_a", "w1_b", "w2_a", "w2_b"} == set(shapes) and shapes["w1_a"][1] == shapes["w1_b"][0]:
        ranks = [shapes["w1_b"][0], shapes["w2_b"][0]]
        return min(math.prod(ranks), shapes["w1_b"][1] * ranks[1])
    first, second = shapes.get("w1") or shapes.get("w1_b"), shapes.get("w2_b") or shapes.get("w2")
    if not first or not second:
        return math.inf
    return first[1] * (second[0] if "w2_b" in shapes else second[1])


def _hadamard(parts: Mapping[str, Array]) -> tuple[Array, Array]:
    return hadamard(parts["w1_a"], parts["w1_b"], parts["w2_a"], parts["w2_b"])


def _kronecker(parts: Mapping[str, Array]) -> tuple[Array, Array]:
    first = parts["w1"] if "w1" in parts else parts["w1_a"] @ parts["w1_b"]
    if "w2" in parts:
        return kronecker(first, parts["w2"], np.eye(parts["w2"].shape[1]))
    return kronecker(first, parts["w2_a"], parts["w2_b"])


def open_adapter(adapter: Adapter) -> OpenAdapter:
    """Map the weights of `adapter` and sort its tensors into updates and the rest.

    Raises `FatalError` when the weights are not here, not finite, not the ones that the
    manifest describes, or not factors that fit each other and the config.
    """
    if adapter.weights is None:
        raise FatalError(
            f"the weights of {adapter.spec} (md5:{adapter.manifest.weights_md5}) are not here",
            hint="git soup checkout brings what HEAD names, git soup pull --all what every branch and run does",
        )
    use_one_blas_thread()
    file = TensorFile(adapter.weights, adapter.spec)
    opened = OpenAdapter(adapter, file, json.loads(adapter.config_data))
    _check_manifest(opened)
    kind = KINDS.get(adapter.config.peft_type)
    is_product = kind is not None and kind.update in {"product", "svd"}
    if is_product and adapter.config.not_summed is None:
        _sort_lora(opened)
    else:
        opened.extras.extend(file.entries)
    return opened


def _check_manifest(opened: OpenAdapter) -> None:
    described = {t.name: (t.dtype, t.shape) for t in opened.tensors.values()}
    found = {name: (e.dtype, e.shape) for name, e in opened.file.entries.items()}
    if described != found:
        name = min(set(described.items()) ^ set(found.items()))[0]
        raise FatalError(
            f"the weights of {opened.spec} are not the ones its manifest describes: {name} differs",
            hint="git soup fsck names each object that is wrong, git soup checkout brings it back",
        )
    for tensor in opened.tensors.values():
        if not math.isfinite(tensor.norm):
            raise FatalError(
                f"{opened.spec} holds values that are not finite (NaN or inf), first in {tensor.name}",
                hint="it was damaged in training: take an earlier checkpoint of the run",
            )


def _sort_lora(opened: OpenAdapter) -> None:
    parts: dict[str, dict[str, str]] = {}
    for name in opened.file.entries:
        found = _LORA.fullmatch(name)
        if found is None:
            opened.extras.append(name)
            continue
        part = found["part"].removeprefix("embedding_")
        part += ".bias" if found["suffix"] == ".bias" else ""
        if part in parts.setdefault(found["prefix"], {}):
            raise _bad(opened, f"{found['prefix']} has two tensors lora_{part}")
        parts[found["prefix"]][part] = name
    targets = _targets(opened)
    for of_module in parts.values():
        module = _module(opened, of_module, targets)
        opened.modules[module.name] = module


def _targets(opened: OpenAdapter) -> Mapping[str, Target]:
    config = opened.adapter.config
    try:
        return targets_of(config, opened.tensors.values()) if config.is_lora else {}
    except NoTargetError as error:
        raise _bad(opened, f"its config says {error.reason}") from None


def _module(opened: OpenAdapter, parts: dict[str, str], targets: Mapping[str, Target]) -> Module:
    some = next(iter(parts.values()))
    name = module_of(some)
    for part in ("A", "B"):
        if part not in parts:
            raise _bad(opened, f"{name} has {some.rpartition('.lora_')[2]} but no lora_{part}")
    known = {"A", "B", "E"} if opened.adapter.config.peft_type == "ADALORA" else _LORA_PARTS
    unknown = set(parts) - known
    if unknown:
        raise _bad(opened, f"{name} has an extra factor lora_{min(unknown)}")
    right, left = (opened.file.entries[parts[part]] for part in ("A", "B"))
    if len(right.shape) < 2 or len(left.shape) < 2 or math.prod(left.shape[2:]) != 1:
        raise _bad(
            opened, f"the factors of {name} are {_shape(left)} and {_shape(right)}: no matrices"
        )
    if right.shape[0] != left.shape[1]:
        turned = right.shape[1] == left.shape[0] and len(right.shape) == 2
        raise _bad(
            opened,
            f"the factors of {name} do not fit: lora_B is {_shape(left)}, lora_A is {_shape(right)}"
            + ("; they look transposed" if turned else ""),
        )
    if right.shape[0] == 0:
        raise _bad(opened, f"{name} has rank 0: it holds no update")
    target = targets.get(name)
    if target is None:
        scale, key, experts = _adalora_scale(opened, right.shape[0]), name, 1
    else:
        root = math.sqrt(target.rank) if opened.adapter.config.rslora else target.rank
        scale, key, experts = target.alpha / root, target.key, target.matrices
    return Module(
        name, parts["A"], parts["B"], scale, key, experts,
        parts.get("B.bias"), parts.get("magnitude_vector"), parts.get("E"),
    )  # fmt: skip


def _adalora_scale(opened: OpenAdapter, rank: int) -> float:
    """As peft.tuners.adalora.SVDLinear has it: over the rank that training began with, also
    where modules lost some of it since."""
    options = opened.adapter.config.options
    alpha, first = float(options.get("lora_alpha", 8)), float(options.get("init_r", 12))
    return (alpha if alpha > 0 else rank) / (first + 1e-5)


def _shape(entry: Entry) -> str:
    return "x".join(map(str, entry.shape)) or "scalar"


def _bad(opened: OpenAdapter, what: str) -> FatalError:
    return FatalError(
        f"{opened.spec}: {what}",
        hint="save the adapter again with PEFT's model.save_pretrained(DIR)",
    )
