"""What two values that were read from YAML or JSON say differently, leaf by leaf."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from soup_git.core.excerpt import excerpt, excerpts

T = TypeVar("T")

_PLAIN_KEY = re.compile(r"[^\s.\[\]\"']+")
_PLAIN_TEXT = re.compile(r"[A-Za-z_./~][^\n\r\t\"'#:{}\[\],]*")
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "~", ".nan", ".inf"}
_DEEPEST = 32
WIDTH = 160
"""Characters of a value that are shown."""


@dataclass(frozen=True)
class ValueChange:
    """One key whose value differs, safe to show. None: the key is not there."""

    key: str
    """`training.lora.r`; an item of a list of mappings as `stages[0].name`."""
    old: str | None
    new: str | None

    def line(self) -> str:
        return f"{self.key}: {_or_absent(self.old)} -> {_or_absent(self.new)}"


def value_changes(
    old: Any, new: Any, *, spell: Callable[[Any], str] | None = None
) -> list[ValueChange]:
    """The leaves that differ, in the order of `old`, then those that only `new` has.

    A long value is cut around what differs. `spell` writes a value, by default `spelled`.
    """
    before, after = (dict(leaves(value, spell or spelled)) for value in (old, new))
    return [
        _change(key, before.get(key), after.get(key))
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def _change(key: str, old: str | None, new: str | None) -> ValueChange:
    shown_old, shown_new = excerpts(old or "", new or "", WIDTH)
    return ValueChange(
        excerpt(key, WIDTH),
        None if old is None else shown_old,
        None if new is None else shown_new,
    )


def leaves(
    value: Any, spell: Callable[[Any], T], key: str = "", depth: int = 0
) -> Iterator[tuple[str, T]]:
    """(dotted key, what `spell` makes of the value) of every leaf; a list without mappings is one leaf.

    Empty mappings are leaves too, so that a key that is there is never silently the same
    as one that is not.
    """
    if isinstance(value, Mapping) and value and depth < _DEEPEST:
        for name, inner in value.items():
            part = _key(str(name))
            yield from leaves(inner, spell, f"{key}.{part}" if key else part, depth + 1)
    elif _is_list_of_mappings(value) and depth < _DEEPEST:
        for number, item in enumerate(value):
            yield from leaves(item, spell, f"{key}[{number}]", depth + 1)
    elif not (isinstance(value, Mapping) and not key):
        yield key, spell(value)


def spelled(value: Any) -> str:
    """A value as a config writes it: text bare where nothing else could be meant."""
    if isinstance(value, str):
        is_plain = _PLAIN_TEXT.fullmatch(value) and value.lower() not in _WORDS
        return (
            value if is_plain and value == value.strip() else json.dumps(value, ensure_ascii=False)
        )
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _key(name: str) -> str:
    return name if _PLAIN_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _or_absent(value: str | None) -> str:
    return "(not set)" if value is None else value
