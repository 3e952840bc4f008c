"""`git soup show SPEC`: one adapter: its config, base, size, digest, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.adapter import AdapterConfig
from soup_git.core.targets import targets_of
from soup_git.render.report import Table, size
from soup_git.storage.resolver import Adapter
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class ModuleRow:
    module: str
    shapes: list[str]
    dtype: str
    rank: int | None
    norms: list[float]


@dataclass(frozen=True)
class ShowReport:
    schema: ClassVar[str] = "soup.show/1"
    spec: str
    origin: str
    path: str
    commit: str | None
    peft_type: str
    base_model: str | None
    rank: int | None
    alpha: float | None
    rslora: bool
    dora: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    parameters: int
    tensors: int
    weights_md5: str
    weights_size: int
    available: bool
    recipe: list[str]
    modules: list[ModuleRow]

    def tables(self) -> Sequence[Table | str]:
        here = "" if self.available else ", not here: git soup checkout, or git soup pull --all"
        rows = [
            ("adapter", self.path),
            ("from", self.origin),
            ("method", self._method()),
            ("base", self.base_model or "-"),
            (
                "modules",
                f"{len(self.modules)} ({self.tensors} tensors, {self.parameters:,} parameters)",
            ),
            ("weights", f"md5:{self.weights_md5}, {size(self.weights_size)}{here}"),
            *(("recipe", line) for line in self.recipe),
        ]
        modules = [
            (m.module, m.dtype, "  ".join(m.shapes), "  ".join(f"{n:.6g}" for n in m.norms))
            for m in self.modules
        ]
        return [Table(("", ""), rows), "", Table(("module", "dtype", "shape", "norm"), modules)]

    def _method(self) -> str:
        words = [self.peft_type.lower()]
        if self.rank is not None:
            words.append(f"rank {self.rank}")
        if self.alpha is not None:
            words.append(f"alpha {self.alpha:g}")
        words += [name for name, on in (("rslora", self.rslora), ("dora", self.dora)) if on]
        for name, pattern in (("rank", self.rank_pattern), ("alpha", self.alpha_pattern)):
            words += [f"{name}({key})={value:g}" for key, value in pattern.items()]
        return ", ".join(words)


def show(workspace: Workspace, spec: str, adapter_path: str | None) -> ShowReport:
    return describe(workspace.adapter(spec, adapter_path))


def describe(adapter: Adapter) -> ShowReport:
    config, manifest = adapter.config, adapter.manifest
    return ShowReport(
        spec=adapter.spec,
        origin=adapter.origin,
        path=adapter.path,
        commit=adapter.commit,
        peft_type=config.peft_type,
        base_model=config.base_model,
        rank=config.rank,
        alpha=config.alpha,
        rslora=config.rslora,
        dora=config.dora,
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        parameters=sum(_count(tensor.shape) for tensor in manifest.tensors),
        tensors=len(manifest.tensors),
        weights_md5=manifest.weights_md5,
        weights_size=manifest.weights_size,
        available=adapter.weights is not None,
        recipe=list(manifest.recipe),
        modules=_modules(adapter, config),
    )


def _modules(adapter: Adapter, config: AdapterConfig) -> list[ModuleRow]:
    grouped: dict[str, list[int]] = {}
    tensors = adapter.manifest.tensors
    targets = targets_of(config, tensors) if config.is_lora else {}
    for number, tensor in enumerate(tensors):
        grouped.setdefault(tensor.module, []).append(number)
    return [
        ModuleRow(
            module=module,
            shapes=["x".join(map(str, tensors[n].shape)) or "scalar" for n in numbers],
            dtype="/".join(sorted({tensors[n].dtype for n in numbers})),
            rank=targets[module].rank if module in targets else None,
            norms=[tensors[n].norm for n in numbers],
        )
        for module, numbers in grouped.items()
    ]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
