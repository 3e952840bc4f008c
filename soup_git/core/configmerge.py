"""`adapter_config.json` merged by what it means: key by key, sets as sets.

PEFT keeps `target_modules` as a Python set, and writes it in another order in each process; a
merge of lines conflicts there although nobody changed anything. The result has PEFT's own form:
keys sorted, an indent of 2, and sets sorted, so that equal configs are equal texts. What sides
changed differently stays a conflict. Rank, alpha, patterns and base follow the rule that
`threeway` has for the manifest's header, so that the two files come to the same answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soup_git.core.adapter import SETS, canonical
from soup_git.core.threeway import pick

Config = Mapping[str, Any]
_VERSION = "peft_version"
_RECORDS = {"inference_mode": True}
"""Of how the config was saved, not of what the weights mean."""


@dataclass(frozen=True)
class MergedConfig:
    origin: bytes
    """The texts of all versions, in which whatever is agreed is alike."""
    sides: Sequence[bytes]
    conflicts: Sequence[str]
    """Keys that sides changed differently; without one, the sides are equal."""


def merge_configs(origin: Config | None, sides: Sequence[Config], end: str = "") -> MergedConfig:
    """Merge what PEFT wrote; an origin of None is a config that every side added.

    `end` ends the texts: PEFT writes no last line feed, and people do.
    """
    before = origin or {}
    merged: dict[str, Any] = {}
    conflicts = []
    for key in sorted({*before, *(key for side in sides for key in side)}):
        agreed, value = _merged_value(key, before, sides)
        if not agreed:
            conflicts.append(key)
        elif value is not _ABSENT:
            merged[key] = value
    texts = [_text(merged, side, conflicts, end) for side in (before, *sides)]
    return MergedConfig(texts[0], texts[1:], conflicts)


_ABSENT = object()


def _merged_value(key: str, before: Config, sides: Sequence[Config]) -> tuple[bool, Any]:
    """(agreed, value) of one key; `_ABSENT` where the merged config has none."""
    values = [side.get(key, _ABSENT) for side in sides]
    was = before.get(key, _ABSENT)
    if key == _VERSION:
        known = [value for value in values if isinstance(value, str)]
        return True, max(known, key=_release, default=was)
    agreed, form = pick(_form(key, was), [_form(key, value) for value in values])
    if not agreed and key in SETS:
        return _merged_set(key, was, values)
    if not agreed:
        return key in _RECORDS, _RECORDS.get(key)
    # Of equal ones one that is written, and the same whichever side is ours: null, 8 for 8.0.
    equal = [v for v in [*values, was] if _form(key, v) == form and v is not _ABSENT]
    return True, canonical(key, min(equal, key=json.dumps)) if equal else _ABSENT


def _merged_set(key: str, was: Any, values: Sequence[Any]) -> tuple[bool, Any]:
    """What each side added and removed; False where one is no list, as a pattern in words is."""
    lists = [[] if value in (None, _ABSENT) else value for value in [was, *values]]
    try:
        before, *after = [set(value) for value in lists if isinstance(value, list)]
    except TypeError:  # of something that no set can hold
        return False, None
    if len(after) < len(values):
        return False, None
    removed = set.union(*[before - side for side in after])
    return True, canonical(key, list(set.union(before, *after) - removed))


def _form(key: str, value: Any) -> str:
    """Equal for values of one meaning; dictionaries keep their order, as patterns match in it."""
    if value is _ABSENT or value == {} or value == []:
        value = None
    elif key in SETS:
        value = canonical(key, value)
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _release(version: str) -> tuple[list[int], str]:
    """The place of `0.21.2` or `0.22.0.dev0` among the versions."""
    numbers = [int(part) for part in re.findall(r"\d{1,9}", version)[:4]]
    return numbers, version


def _text(merged: Config, side: Config, conflicts: Sequence[str], end: str) -> bytes:
    own = {key: side[key] for key in conflicts if key in side}
    ordered = dict(sorted({**merged, **own}.items()))
    return (json.dumps(ordered, indent=2) + end).encode()
