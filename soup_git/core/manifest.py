"""`adapter.manifest`: an adapter as text, so that git's own diff, blame and merge see tensors.

docs/reference/formats.md is the reference. Stable lines come first (method, base, rank, one line
per module) because git finds a renamed and retrained adapter by the share of its text
that stayed; what every training changes (weights, digests, norms) comes after. The
`tensors` line is the digest of the tensor lines: a text merge that took its lines from
two adapters (`git merge -X ours`, a hand-made resolution) does not pass it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from soup_git.core.adapter import INIT, SETS, AdapterConfig, canonical, module_of
from soup_git.core.baseload import AS_IT_IS, BASE_LOAD, BaseLoad, parse_base_load
from soup_git.core.digests import sha256_hex
from soup_git.core.targets import NoTargetError, Target, targets_of
from soup_git.core.waysout import take_one_side
from soup_git.errors import FatalError

MANIFEST = "adapter.manifest"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FIRST_LINE = "soup-manifest 1"
MAX_MANIFEST_BYTES = 64 << 20
CONFLICT_NOTE = "# conflict: "
"""Starts the lines in which the merge driver says, at the top, why it could not merge."""

FILE = "file"
FACTS = (BASE_LOAD, FILE)
"""Header keys of what `adapter_config.json` does not hold, in their order: how the base was loaded
for the training (JSON), and the files beside the weights (`NAME sha256:HEX`, a line for each)."""

# Spelled as `Tensor.line` spells them, so that equal tensors have equal lines: no leading
# zeros, no sign, at most 6 digits in a norm.
_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_TENSOR = re.compile(
    rf"(?P<name>\S+) (?P<dtype>[A-Z0-9_]+) (?P<shape>scalar|{_NUMBER}(?:x{_NUMBER}){{0,15}})"
    r" sha256:(?P<sha256>[0-9a-f]{64}) norm=(?P<norm>nan|inf|[0-9][0-9.e+-]{0,12})"
)
_WEIGHTS_LINE = re.compile(rf"md5:(?P<md5>[0-9a-f]{{32}}) (?P<size>{_NUMBER})")
_KEY = re.compile(r"[a-z][A-Za-z0-9_]*")

# git compares texts by chunks: a line, or 64 bytes of a longer one (diffcore-delta.c).
_CHUNK = 64
# The end of a tensor line after `sha256:`: digest, ` norm=`, at most 11 digits, line feed.
_FRESH_TAIL = 64 + 6 + 11 + 1
# Bytes of a module's text that stay per byte that a training replaces. git follows a
# rename from one half on; 1.25 is 0.56, which leaves room for the `weights` lines.
_KEPT_PER_FRESH = 1.25


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
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The header lines that no config gives, in order."""
        return tuple(pair for pair in self.header if pair[0] in FACTS)

    @property
    def base_model(self) -> str | None:
        base = self.get("base")
        return None if base in {None, "-"} else base

    @property
    def base_load(self) -> BaseLoad:
        """How the base was loaded for the training, as far as is known: else as it is.

        Raises FatalError for a line that this git-soup cannot load a base by.
        """
        said = self.get(BASE_LOAD)
        return AS_IT_IS if said is None else parse_base_load(said, MANIFEST)

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tensor.module for tensor in self.tensors))

    @property
    def is_merged(self) -> bool:
        return bool(self.recipe)

    def text(self) -> str:
        tensors = [tensor.line() for tensor in self.tensors]
        lines = [FIRST_LINE, *(f"{key} {value}" for key, value in self.header)]
        lines.append(f"tensors {len(tensors)} sha256:{_digest_of(tensors)}")
        lines.append(f"weights md5:{self.weights_md5} {self.weights_size}")
        lines.extend(f"recipe {line}" for line in self.recipe)
        lines.append("")
        lines.extend(tensors)
        return "\n".join(lines) + "\n"

    def tensors_sha256(self) -> str:
        """Equal for equal tensors, whatever wrote the file: `sed '1,/^$/d' FILE | sha256sum`."""
        return _digest_of([tensor.line() for tensor in self.tensors])

    def digest(self) -> str:
        """What two manifests of one adapter share: weights and meaning, not the recipe."""
        return sha256_hex(
            Manifest(self.header, self.weights_md5, self.weights_size, (), self.tensors)
            .text()
            .encode()
        )


def base_load_fact(how: BaseLoad) -> tuple[tuple[str, str], ...]:
    """The header line that says how the base was loaded; none for the base as it is."""
    said = how.text()
    return ((BASE_LOAD, said),) if said else ()


def _digest_of(tensor_lines: Iterable[str]) -> str:
    return sha256_hex("".join(f"{line}\n" for line in tensor_lines).encode())


def make_manifest(
    config: AdapterConfig,
    tensors: Iterable[Tensor],
    *,
    weights_md5: str,
    weights_size: int,
    recipe: Sequence[str] = (),
    facts: Iterable[tuple[str, str]] = (),
    where: str = CONFIG,
) -> Manifest:
    """The manifest of an adapter whose weights hold `tensors`.

    `facts` are the header lines that the config cannot give (`FACTS`), in any order. Raises `FatalError` where PEFT could not load the adapter (`check_ranks`).
    """
    ordered = tuple(sorted(tensors, key=lambda tensor: tensor.name))
    check_ranks(config, ordered, where)
    return Manifest(
        header=tuple(_header(config, ordered, facts)),
        weights_md5=weights_md5,
        weights_size=weights_size,
        recipe=tuple(recipe),
        tensors=ordered,
    )


def agrees(manifest: Manifest, config: AdapterConfig, where: str = CONFIG) -> bool:
    """Whether a manifest's header is what the config beside it gives.

    A header as an earlier version wrote it is that too, as far as it goes (`_as_before`).
    Raises `FatalError` where the config contradicts the tensors' shapes (`check_ranks`).
    """
    expected = make_manifest(
        config,
        manifest.tensors,
        weights_md5=manifest.weights_md5,
        weights_size=manifest.weights_size,
        recipe=manifest.recipe,
        facts=manifest.facts,
        where=where,
    )
    if expected == manifest:
        return True
    found = tuple(settled(pair) for pair in manifest.header)
    before = tuple(_as_before(config, manifest.tensors, manifest.facts))
    return any(found == _as_written(header, manifest) for header in (expected.header, before))


def _as_written(
    header: tuple[tuple[str, str], ...], manifest: Manifest
) -> tuple[tuple[str, str], ...]:
    """A header without the lines that an earlier version did not write yet."""
    return tuple(pair for pair in header if pair[0] != INIT or manifest.get(INIT) is not None)


def config_bytes(header: Iterable[tuple[str, str]]) -> bytes:
    """A header's keys as the `adapter_config.json` that would give them: what a merge driver has.

    Read it with `parse_adapter_config`, which checks it as it checks any config.
    """
    raw: dict[str, Any] = {}
    for key, value in header:
        if key == "peft":
            raw["peft_type"] = value.upper()
        elif key == "base":
            raw["base_model_name_or_path"] = None if value == "-" else _words(value)
        elif key != "module" and key not in FACTS:
            is_ours = key != "alpha" or raw.get("peft_type") == "LORA"
            raw[_CONFIG_KEYS.get(key, key) if is_ours else key] = _value(value)
    return json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()


_CONFIG_KEYS = {"rank": "r", "alpha": "lora_alpha", "rslora": "use_rslora", "dora": "use_dora"}


def _words(value: str) -> str:
    """The inverse of `_one_word`."""
    read = _value(value) if value.startswith('"') else value
    return read if isinstance(read, str) and _one_word(read) == value else value


def _value(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _header(
    config: AdapterConfig, tensors: Sequence[Tensor], facts: Iterable[tuple[str, str]]
) -> Iterable[tuple[str, str]]:
    yield "peft", config.peft_type.lower()
    yield "base", _one_word(config.base_model or "-")
    if config.rank is not None:
        yield "rank", str(config.rank)
    if config.is_lora:
        yield "alpha", _number(config.alpha)
        yield "rslora", str(config.rslora).lower()
        yield "dora", str(config.dora).lower()
        if config.rank_pattern:
            yield "rank_pattern", _json(config.rank_pattern)
        if config.alpha_pattern:
            yield "alpha_pattern", _json(config.alpha_pattern)
    for key, value in config.options.items():
        yield key, _json(value)
    yield from sorted(facts, key=lambda fact: (FACTS.index(fact[0]), fact[1]))
    targets = targets_of(config, tensors) if config.is_lora else {}
    for module, of_module in _by_module(tensors).items():
        values = _values(config, targets.get(module))
        yield "module", _module_line(module, of_module, values)


def _as_before(
    config: AdapterConfig, tensors: Sequence[Tensor], facts: Iterable[tuple[str, str]]
) -> Iterable[tuple[str, str]]:
    """The header as it once was: patterns matched against modules alone, and no options of
    other methods than LoRA."""
    yield from _header(config if config.is_lora else replace(config, options={}), (), facts)
    for module, of_module in _by_module(tensors).items():
        values = _values(config, None)
        if any(".lora_" in tensor.name for tensor in of_module):
            values = f"rank={config.rank_of(module)} alpha={_number(config.alpha_of(module))}"
        yield "module", _module_line(module, of_module, values)


def settled(pair: tuple[str, str]) -> tuple[str, str]:
    """A header line without an order that means nothing."""
    key, value = pair
    return (key, _json(canonical(key, _value(value)))) if key in SETS else pair


def _by_module(tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    modules: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        modules.setdefault(tensor.module, []).append(tensor)
    return modules


def _values(config: AdapterConfig, target: Target | None) -> str:
    """What the line of a module says beside its name."""
    if target is None:
        return "full" if config.is_lora else config.peft_type.lower()
    words = f"rank={target.rank} alpha={_number(target.alpha)}"
    if target.parameter is None:
        return words
    return f"{words} parameter={target.parameter} matrices={target.matrices}"


def _module_line(module: str, tensors: Sequence[Tensor], values: str) -> str:
    """`NAME rank=R alpha=A`, the numbers in a column so far right that git knows the file again.

    Every training replaces the digests, and with them more than half of what the tensor
    lines of a module hold; the column makes up for it. It depends on this module's names
    and shapes only, so no other module's line moves when one is added.
    """
    kept = fresh = 0
    for tensor in tensors:
        prefix = len(tensor.line().partition("sha256:")[0].encode()) + len("sha256:")
        kept += prefix // _CHUNK * _CHUNK
        fresh += prefix % _CHUNK + _FRESH_TAIL
    column = math.ceil((_KEPT_PER_FRESH * fresh - kept) / _CHUNK) * _CHUNK
    return module.ljust(column - len("module ") - 1) + " " + values


def _one_word(text: str) -> str:
    """A header value on one line: a base's path may hold anything a file system allows."""
    return text if text.isprintable() else _json(text)


def _json(value: Any) -> str:
    """JSON on one printable line, in the order of the config: the first pattern that matches wins."""
    return json.dumps(value, separators=(",", ":"))


def _number(value: float | None) -> str:
    """Exact: a scaling is computed from it."""
    return str(int(value)) if value is not None and float(value).is_integer() else repr(value)


def check_ranks(config: AdapterConfig, tensors: Iterable[Tensor], where: str) -> None:
    """Raise when a factor's shape has another rank than the config gives what it adapts."""
    if not config.is_lora:
        return
    try:
        targets_of(config, tensors)
    except NoTargetError as error:
        raise FatalError(
            f"{where} says {error.reason}",
            hint=f"correct r or rank_pattern in {where}, or save the adapter again with PEFT",
        ) from None


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
    header, weights, recipe, claim = _parse_header(lines[1:blank], where)
    body = lines[blank + 1 : -1]
    found = f"{len(body)} sha256:{_digest_of(body)}"
    if claim is not None and claim != found:
        _refuse_conflict_markers(body, where, blank + 2)
        raise FatalError(
            f"{where}: its tensor lines are not the ones its `tensors` line was written for;"
            " a merge by text, or an editor, mixed two adapters",
            hint=take_one_side(where),
        )
    manifest = Manifest(tuple(header), weights["md5"], int(weights["size"]), tuple(recipe), ())
    return manifest, body, blank + 2


def _parse_header(
    lines: Sequence[str], where: str
) -> tuple[list[tuple[str, str]], re.Match[str], list[str], str | None]:
    """The header's lines, the `weights` line, the recipe, and what the `tensors` line claims."""
    pairs = [_parse_pair(line, where, number) for number, line in enumerate(lines, start=2)]
    keys = [key for key, _ in pairs]
    once = Counter(key for key in keys if key not in {"module", "recipe", FILE})
    for key, count in once.items():
        if count > 1:
            raise FatalError(f"{where}: a second `{key}` line", hint=_hint(where))
    if "weights" not in keys:
        raise FatalError(f"{where} has no `weights` line", hint=_hint(where))
    at = keys.index("weights")
    weights = _WEIGHTS_LINE.fullmatch(pairs[at][1])
    if weights is None:
        raise FatalError(f"{where}:{at + 2}: expected `weights md5:HEX SIZE`", hint=_hint(where))
    header = pairs[:at]
    claim = header.pop()[1] if keys[at - 1 : at] == ["tensors"] else None
    if "recipe" in keys[:at] or "tensors" in keys[: max(at - 1, 0)]:
        raise FatalError(f"{where}:{at + 2}: `weights` comes too late", hint=_hint(where))
    if set(keys[at + 1 :]) - {"recipe"}:
        raise FatalError(f"{where}:{at + 2}: `weights` comes too early", hint=_hint(where))
    return header, weights, [value for _, value in pairs[at + 1 :]], claim


def _parse_pair(line: str, where: str, number: int) -> tuple[str, str]:
    key, _, value = line.partition(" ")
    if not _KEY.fullmatch(key) or not value or not line.isprintable():
        raise FatalError(f"{where}:{number}: not a `key value` line", hint=_hint(where))
    return key, value


def _parse_tensor(line: str, where: str, number: int) -> Tensor:
    found = _TENSOR.fullmatch(line)
    tensor = _tensor(found) if found else None
    if tensor is None or tensor.line() != line or not line.isprintable():
        raise FatalError(
            f"{where}:{number}: expected `NAME DTYPE SHAPE sha256:HEX norm=FLOAT`",
            hint=_hint(where),
        )
    return tensor


def _tensor(found: re.Match[str]) -> Tensor | None:
    try:
        norm = float(found["norm"])
    except ValueError:
        return None
    shape = () if found["shape"] == "scalar" else tuple(map(int, found["shape"].split("x")))
    return Tensor(found["name"], found["dtype"], shape, found["sha256"], norm)


def _refuse_conflict_markers(lines: Sequence[str], where: str, first: int) -> None:
    for number, line in enumerate(lines, start=first):
        if line.startswith(CONFLICT_NOTE):
            raise FatalError(
                f"{where}:{number}: a merge left a conflict in it",
                hint=take_one_side(where),
            )
        if line.endswith("\r"):
            raise FatalError(
                f"{where}:{number}: it has CRLF line ends, and a manifest has LF",
                hint=f"git soup init sets the attribute; then rm {where} and git checkout -- {where}",
            )
        marker = line.startswith(("<<<<<<< ", ">>>>>>> ", "||||||| ")) or line == "======="
        if marker and not _TENSOR.fullmatch(line):
            raise FatalError(
                f"{where}:{number}: git's conflict markers are still in it",
                hint=take_one_side(where),
            )


def _hint(where: str) -> str:
    folder = where.rpartition("/")[0].rpartition(":")[2] or "."
    return f"git checkout -- {where}, or git soup add {folder} to write it anew"
