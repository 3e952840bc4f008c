"""YAML from outside, read with bounds: depth and aliases, which the parser leaves open.

libyaml composes nested nodes by C recursion, so 300 kB of `- - - …` ends the process
with a segmentation fault that no `except` sees; merge keys over aliases double a mapping
per line. DVC's files and training configs need neither.
"""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 64
MAX_ALIASES = 16
_PLAIN_COLUMNS = 500
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(data: bytes) -> Any:
    """The value in `data`; raises `ValueError` with one line that says what is wrong."""
    try:
        if not _is_plain(data):
            _check_bounds(data)
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - a safe loader, in C where there is one
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


def _is_plain(data: bytes) -> bool:
    """Whether `data` cannot be deep: every level takes a bracket or a column of its line."""
    if b"*" in data or data.count(b"[") + data.count(b"{") > _PLAIN_COLUMNS:
        return False
    return max(map(len, data.splitlines()), default=0) <= _PLAIN_COLUMNS


def _check_bounds(data: bytes) -> None:
    depth = aliases = 0
    for event in yaml.parse(data, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if aliases > MAX_ALIASES:
            raise ValueError(f"it repeats itself by more than {MAX_ALIASES} aliases")
