"""A `soup.yaml` written by a verb: keys in the schema's order, each with its comment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel

from soup_git.core.text import printable
from soup_git.training.schema import SoupConfig


@dataclass(frozen=True)
class Line:
    """One key. A line that is not `live` is written as a comment."""

    key: str
    """Dotted: `training.lora.r`."""
    value: Any
    comment: str = ""
    live: bool = True


def all_keys(model: type[BaseModel] = SoupConfig, at: str = "") -> list[str]:
    """Every key of soup.yaml, dotted, in the order of the schema."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        key = f"{at}{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += all_keys(inner, f"{key}.")
        else:
            found.append(key)
    return found


def flat(config: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """A nested config as dotted keys; what no key of the schema holds stays one value."""
    blocks = {key.rpartition(".")[0] for key in all_keys()}
    found: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{at}{name}"
        if isinstance(value, Mapping) and (
            key in blocks or any(b.startswith(f"{key}.") for b in blocks)
        ):
            found |= flat(value, f"{key}.")
        else:
            found[key] = value
    return found


def written(lines: Sequence[Line], head: Sequence[str]) -> str:
    """The text of a soup.yaml, with `head` as its first comments."""
    order = {key: i for i, key in enumerate(all_keys())}
    lines = sorted(lines, key=lambda line: order.get(line.key, len(order)))
    parts = [f"# {printable(text)}" for text in head]
    parts += [_text("", line.key, line) for line in lines if _is_top(line.key)]
    for block in ("data", "training"):
        inside = _block(lines, block)
        parts += ["", f"{block}:", *inside] if inside else []
    parts += [f"\n{_text('', line.key, line)}" for line in lines if line.key == "output"]
    return "\n".join(parts) + "\n"


def _is_top(key: str) -> bool:
    return "." not in key and key != "output"


def _block(lines: Sequence[Line], block: str) -> list[str]:
    depth = "  " * (block.count(".") + 1)
    parts: list[str] = []
    opened: set[str] = set()
    for line in lines:
        if not line.key.startswith(f"{block}."):
            continue
        name, _, below = line.key[len(block) + 1 :].partition(".")
        if not below:
            parts.append(_text(depth, name, line))
        elif name not in opened:
            opened.add(name)
            inner = f"{block}.{name}"
            is_live = any(other.live and other.key.startswith(f"{inner}.") for other in lines)
            parts += [f"{depth}{'' if is_live else '# '}{name}:", *_block(lines, inner)]
    return parts


def _text(depth: str, name: str, line: Line) -> str:
    text = f"{depth}{'' if line.live else '# '}{_scalar(name)}: {_scalar(line.value)}"
    return f"{text}   # {printable(line.comment)}" if line.comment else text


def _scalar(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...").replace("\n", " ")
