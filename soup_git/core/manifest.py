"""`adapter.manifest`: an adapter as text, so that git's own diff, blame and merge see tensors.

docs/formats.md is the reference. Stable lines come first (method, base, rank, one line
per module) because git finds a renamed and retrained adapter by the share of its text
that stayed; what every training changes (weights, digests, norms) comes after.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from soup_git.core.adapter import AdapterConfig, module_of
from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json
from soup_git.errors import FatalError

MANIFEST = "adapter.manifest"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FIRST_LINE = "soup-manifest 1"
MAX_MANIFEST_BYTES = 64 << 20

_TENSOR = re.compile(
    r"(?P<name>\S+) (?P<dtype>[A-Z0-9_]+) (?P<shape>scalar|\d+(?:x\d+)*)"
    r" sha256:(?P<sha256>[0-9a-f]{64}) norm=(?P<norm>nan|inf|[0-9.e+-]+)"
)
_WEIGHTS_LINE = re.compile(r"md5:(?P<md5>[0-9a-f]{32}) (?P<size>\d+)")


@dataclass(frozen=True)
class Tensor:
    """One tensor line. `norm` is the Frobenius norm, 6 significant digits."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    norm: float

    @property
    def module(self) -> str:
        return module_of(self.name)

    def line(self) -> str:
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{self.name} {self.dtype} {shape} sha256:{self.sha256} norm={self.norm:.6g}"


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest: `header` holds the (key, value) lines above `weights`, in order."""

    header: tuple[tuple[str, str], ...]
    weights_md5: str
    weights_size: int
    recipe: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    def get(self, key: str) -> str | None:
        return next((value for name, value in self.header if name == key), None)

    @property
    def base_model(self) -> str | None:
        base = self.get("base")
        return None if base in {None, "-"} else base

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tensor.module for tensor in self.tensors))

    @property
    def is_merged(self) -> bool:
        return bool(self.recipe)

    def text(self) -> str:
        lines = [FIRST_LINE, *(f"{key} {value}" for key, value in self.header)]
        lines.append(f"weights md5:{self.weights_md5} {self.weights_size}")
        lines.extend(f"recipe {line}" for line in self.recipe)
        lines.append("")
        lines.extend(tensor.line() for tensor in self.tensors)
        return "\n".join(lines) + "\n"

    def digest(self) -> str:
        """What two manifests of one adapter share: weights and meaning, not the recipe."""
        return sha256_hex(
            Manifest(self.header, self.weights_md5, self.weights_size, (), self.tensors)
            .text()
            .encode()
        )


def make_manifest(
    config: AdapterConfig,
    tensors: Iterable[Tensor],
    *,
    weights_md5: str,
    weights_size: int,
    recipe: Sequence[str] = (),
    where: str = CONFIG,
) -> Manifest:
    """The manifest of an adapter whose weights hold `tensors`.

    Raises `FatalError` where PEFT could not load the adapter (`check_ranks`).
    """
    ordered = tuple(sorted(tensors, key=lambda tensor: tensor.name))
    check_ranks(config, ordered, where)
    return Manifest(
        header=tuple(_header(config, ordered)),
        weights_md5=weights_md5,
        weights_size=weights_size,
        recipe=tuple(recipe),
        tensors=ordered,
    )


def _header(config: AdapterConfig, tensors: Sequence[Tensor]) -> Iterable[tuple[str, str]]:
    yield "peft", config.peft_type.lower()
    yield "base", _one_word(config.base_model or "-")
    if config.rank is not None:
        yield "rank", str(config.rank)
    if config.is_lora:
        yield "alpha", f"{config.alpha:.6g}"
        yield "rslora", str(config.rslora).lower()
        yield "dora", str(config.dora).lower()
        if config.rank_pattern:
            yield "rank_pattern", canonical_json(config.rank_pattern)
        if config.alpha_pattern:
            yield "alpha_pattern", canonical_json(config.alpha_pattern)
    for module in dict.fromkeys(tensor.module for tensor in tensors):
        if config.is_lora:
            alpha = config.alpha_of(module)
            yield "module", f"{module} rank={config.rank_of(module)} alpha={alpha:.6g}"
        else:
            yield "module", module


def _one_word(text: str) -> str:
    """A header value on one line: a base's path may hold anything a file system allows."""
    return text if text.isprintable() else canonical_json(text)


def check_ranks(config: AdapterConfig, tensors: Iterable[Tensor], where: str) -> None:
    """Raise when a factor's shape has another rank than the config gives its module."""
    if not config.is_lora or config.target_parameters:
        return
    for tensor in tensors:
        axis = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}.get(
            tensor.name.removesuffix(".weight").rpartition(".")[2]
        )
        if axis is None or len(tensor.shape) <= axis:
            continue
        rank = config.rank_of(tensor.module)
        if tensor.shape[axis] != rank:
            raise FatalError(
                f"{where} says rank {rank} for {tensor.module}, but its weights have rank"
                f" {tensor.shape[axis]} ({tensor.name} is {'x'.join(map(str, tensor.shape))})",
                hint=f"correct r or rank_pattern in {where}, or save the adapter again with PEFT",
            )


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read a manifest; raise `FatalError` with the line that is wrong. `where` names the file."""
    header, lines, first = _split(data, where)
    _refuse_conflict_markers(lines, where, first)
    tensors = tuple(
        _parse_tensor(line, where, number) for number, line in enumerate(lines, start=first)
    )
    for before, after in pairwise(tensors):
        if before.name >= after.name:
            raise FatalError(
                f"{where}: the tensor lines are not sorted and unique at {after.name}",
                hint=_hint(where),
            )
    return replace(header, tensors=tensors)


def parse_manifest_header(data: bytes, where: str) -> Manifest:
    """A manifest without its tensors: what names and counts need, in a tenth of the time."""
    return _split(data, where)[0]


def _split(data: bytes, where: str) -> tuple[Manifest, list[str], int]:
    """The header, the tensor lines as text, and the number of the first of them."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise FatalError(
            f"{where} is {len(data):,} bytes; at most 64 MiB is read", hint=_hint(where)
        )
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FatalError(f"{where} is not UTF-8: {error}", hint=_hint(where)) from None
    blank = lines.index("") if "" in lines[:-1] else len(lines)
    _refuse_conflict_markers(lines[:blank], where, 1)
    if lines[0] != FIRST_LINE:
        raise FatalError(
            f"{where}:1: expected {FIRST_LINE!r}; this is no manifest that this git-soup reads",
            hint=_hint(where),
        )
    if lines[-1] != "" or blank == len(lines):
        raise FatalError(f"{where} is cut off", hint=_hint(where))
    header, weights, recipe = _parse_header(lines[1:blank], where)
    manifest = Manifest(tuple(header), weights["md5"], int(weights["size"]), tuple(recipe), ())
    return manifest, lines[blank + 1 : -1], blank + 2


def _parse_header(
    lines: Sequence[str], where: str
) -> tuple[list[tuple[str, str]], re.Match[str], list[str]]:
    header: list[tuple[str, str]] = []
    weights: re.Match[str] | None = None
    recipe: list[str] = []
    for number, line in enumerate(lines, start=2):
        key, _, value = line.partition(" ")
        if not key or not value or not line.isprintable():
            raise FatalError(f"{where}:{number}: not a `key value` line", hint=_hint(where))
        if key == "weights":
            weights = _WEIGHTS_LINE.fullmatch(value) if weights is None else None
            if weights is None:
                raise FatalError(
                    f"{where}:{number}: expected one `weights md5:HEX SIZE`", hint=_hint(where)
                )
        elif key == "recipe":
            recipe.append(value)
        else:
            header.append((key, value))
    if weights is None:
        raise FatalError(f"{where} has no `weights` line", hint=_hint(where))
    return header, weights, recipe


def _parse_tensor(line: str, where: str, number: int) -> Tensor:
    found = _TENSOR.fullmatch(line)
    try:
        if found is None or not line.isprintable():
            raise ValueError
        shape = found["shape"]
        return Tensor(
            name=found["name"],
            dtype=found["dtype"],
            shape=() if shape == "scalar" else tuple(map(int, shape.split("x"))),
            sha256=found["sha256"],
            norm=float(found["norm"]),
        )
    except ValueError:
        raise FatalError(
            f"{where}:{number}: expected `NAME DTYPE SHAPE sha256:HEX norm=FLOAT`",
            hint=_hint(where),
        ) from None


def _refuse_conflict_markers(lines: Sequence[str], where: str, first: int) -> None:
    for number, line in enumerate(lines, start=first):
        if line.startswith(("<<<<<<< ", ">>>>>>> ", "||||||| ")) or line == "=======":
            raise FatalError(
                f"{where}:{number}: git's conflict markers are still in it",
                hint=f"git checkout --ours -- {where}, or --theirs, then git soup add its folder",
            )


def _hint(where: str) -> str:
    folder = where.rpartition("/")[0].rpartition(":")[2] or "."
    return f"git checkout -- {where}, or git soup add {folder} to write it anew"
