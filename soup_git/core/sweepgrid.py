"""A grid of experiments: `--param KEY=V1,V2` read, multiplied out, and named by content."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soup_git.core import yamllines
from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json
from soup_git.errors import ExitCode, FatalError

MOST = 256
"""Experiments of one sweep: a typing error in a list should not fill a week."""
PREFIX = "sweep-"
_KEY = re.compile(r"[A-Za-z_][\w\-]*(\.[\w\-]+)*")
_DICT_KEY = re.compile(r"[\w./\-]+")


@dataclass(frozen=True)
class Axis:
    """One key of the config and the values it takes."""

    key: str
    values: tuple[Any, ...]


def parse_axis(text: str) -> Axis:
    """`training.lr=1e-5,2e-5`: values as in YAML, so a list is `[a,b]` and text may be quoted."""
    key, sign, values = text.partition("=")
    if not sign or not _KEY.fullmatch(key):
        raise _usage(f"--param {text}: should be KEY=VALUE,VALUE, such as training.lr=1e-5,2e-5")
    found, _, problems = yamllines.read(f"[{values}]")
    if problems or not isinstance(found, list):
        what = problems[0][2] if problems else "these are no values"
        raise _usage(f"--param {text}: {what}")
    if not found:
        raise _usage(f"--param {text}: at least one value is needed")
    return Axis(key, tuple(found))


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Every combination, the last axis moving fastest. Raises where there are more than `MOST`."""
    keys = [axis.key for axis in axes]
    for key in keys:
        nested = [other for other in keys if other.startswith(f"{key}.")]
        if keys.count(key) > 1 or nested:
            raise _usage(f"--param {key} is given twice, or with one inside it")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise FatalError(
            f"{' x '.join(str(len(axis.values)) for axis in axes)} values are {count:,} experiments;"
            f" a sweep has at most {MOST}",
            hint="sweep fewer values first; what is done is not run again",
        )
    return [
        dict(zip(keys, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def yaml_override(key: str, value: Any) -> str:
    """`key=value` for the config's loader: JSON is YAML."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def hydra_override(key: str, value: Any) -> str:
    """`++key=value` in the grammar of `dvc exp run --set-param`: set it, whether or not it is there."""
    return f"++{key}={_hydra(value, key)}"


def _hydra(value: Any, key: str) -> str:
    match value:
        case None | bool() | int() | float():
            return json.dumps(value)
        case list():
            return f"[{','.join(_hydra(item, key) for item in value)}]"
        case dict() if all(_DICT_KEY.fullmatch(name) for name in value):
            return f"{{{','.join(f'{name}:{_hydra(item, key)}' for name, item in value.items())}}}"
        case str() if not re.search(r"\$\{|[\\\n\r]", value):
            quoted = value.replace("'", "\\'")
            return f"'{quoted}'"
    raise FatalError(
        f"--param {key}: DVC cannot set the value {json.dumps(value, ensure_ascii=False)}",
        hint="write it into soup.yaml on a branch of its own: git soup branch NAME",
    )


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """The parsed config with the values of a point set; what is not a block is replaced by one."""
    body = json.loads(json.dumps(config, default=str))
    for key, value in values.items():
        block = body
        *parents, last = key.split(".")
        for part in parents:
            if not isinstance(block.get(part), dict):
                block[part] = {}
            block = block[part]
        block[last] = value
    return body


def experiment_name(baseline: str, config: Any) -> str:
    """The same commit and the same config, however spelled, are the same experiment."""
    return PREFIX + sha256_hex(f"{baseline}\n{canonical_json(config)}".encode())[:10]


def spelled_point(values: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
    )


def _usage(what: str) -> FatalError:
    return FatalError(
        what, hint="git soup sweep --param training.lr=1e-5,2e-5", code=ExitCode.USAGE
    )
