"""What an ablation takes out at once: modules, or the layers they are in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from soup_git.core.digests import sha256_hex
from soup_git.errors import FatalError

MODULE, LAYER = "module", "layer"
_LAYER_NAME = re.compile(r"((?:.*?\.)?\d+)\..+")


@dataclass(frozen=True)
class Part:
    """What is taken out at once."""

    name: str
    modules: tuple[str, ...]


def parts_of(modules: Sequence[str], per: str, patterns: Sequence[str]) -> list[Part]:
    """What to take out: modules, or the layers they are in, where all patterns match.

    A pattern is matched against the module's name and its layer's, from their start or
    after any dot. Raises FatalError where none matches.
    """
    chosen = list(modules)
    if not chosen:
        raise FatalError(
            "the two adapters differ in no module that can be put back",
            hint="git soup diff A B shows in what they do",
        )
    for pattern in patterns:
        found = [m for m in chosen if _matches(m, pattern) or _matches(layer_of(m), pattern)]
        if not found:
            raise FatalError(
                f"no layer or module matches {pattern!r}; the first of {len(chosen)} is"
                f" {chosen[0]}",
                hint="quote the pattern: --layer 'layers.3' or --layer 'layers.*.mlp.*'",
            )
        chosen = found
    if per == MODULE:
        return [Part(name, (name,)) for name in chosen]
    layers: dict[str, list[str]] = {}
    for name in chosen:
        layers.setdefault(layer_of(name), []).append(name)
    return [Part(layer, tuple(names)) for layer, names in layers.items()]


def layer_of(module: str) -> str:
    """`model.layers.3` of a module in it; what is in no numbered layer is its own."""
    found = _LAYER_NAME.fullmatch(module)
    return found[1] if found else module


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def drawn(parts: Sequence[Part]) -> list[int]:
    """The parts in an order that says nothing about them, the same every time."""
    keys = [sha256_hex(part.name.encode()) for part in parts]
    return sorted(range(len(keys)), key=lambda i: keys[i])
