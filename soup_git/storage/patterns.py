"""PEFT's `rank_pattern`: regular expressions that give some modules a value of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from soup_git.core.adapter import MAX_PATTERN_LENGTH, MAX_PATTERNS
from soup_git.errors import FatalError

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def patterns(values: Mapping[str, int], modules: Iterable[str]) -> dict[str, int]:
    """Keys that match exactly the modules in `values`, of all `modules`.

    PEFT takes the first key that matches `(.*\\.)?(KEY)$`, so a key that is the end of another
    module's name comes after the longer one. Layers of equal value share a key.
    """
    grouped: dict[tuple[str, str, int], list[str]] = {}
    for name, value in values.items():
        number = _NUMBER.search(name)
        before, layer, after = (
            (name[: number.start()], number[0], name[number.end() :]) if number else (name, "", "")
        )
        grouped.setdefault((before, after, value), []).append(layer)
    keys: dict[str, int] = {}
    for (before, after, value), layers in grouped.items():
        for part in _parts(layers, MAX_PATTERN_LENGTH - len(re.escape(before + after)) - 8):
            keys[_key(before, part, after)] = value
    ordered = dict(sorted(keys.items(), key=lambda item: -len(item[0])))
    _refuse_wrong(ordered, values, modules)
    return ordered


def _key(before: str, layers: list[str], after: str) -> str:
    middle = layers[0] if len(layers) == 1 else f"({'|'.join(layers)})"
    return re.escape(before) + middle + re.escape(after)


def _parts(layers: list[str], length: int) -> Iterable[list[str]]:
    part: list[str] = []
    for layer in layers:
        if part and sum(len(x) + 1 for x in part) + len(layer) > length:
            yield part
            part = []
        part.append(layer)
    yield part


def _refuse_wrong(
    keys: Mapping[str, int], values: Mapping[str, int], modules: Iterable[str]
) -> None:
    compiled = [(re.compile(rf"(.*\.)?({key})$"), value) for key, value in keys.items()]
    for name in modules:
        found = next((value for key, value in compiled if key.match(name)), None)
        if found != values.get(name) or len(keys) > MAX_PATTERNS:
            raise FatalError(
                f"the ranks of the merged modules are too irregular for PEFT's rank_pattern ({name})",
                hint="--rank K gives every module the same rank",
            )
