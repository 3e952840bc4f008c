"""`docs/reference/soup-yaml.md` and `suite.md`: every key of a file, from its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from soup_git.manual.reference import GENERATED

Schema = Mapping[str, Any]

CONFIG_INTRO = """\
What to train. `git soup init --template chat` writes one, `git soup config check` validates it
without training: every error at once, each with its line. The same as a
[JSON Schema](soup.schema.json), which `git soup config schema` prints: an editor that speaks the
YAML language server completes and checks by it after a first line
`# yaml-language-server: $schema=PATH/soup.schema.json`. [Training](../howto/train.md) uses it."""

SUITE_INTRO = """\
What an adapter is asked, and what its answers must be worth. `git soup eval`, `gate`, `merge --eval`
and `bisect --metric` read it. The same as a [JSON Schema](suite.schema.json), which
`git soup suite schema` prints. [Scorers](scorers.md) says what a row and a score are,
[evaluation](../howto/evaluate.md) how to use them."""


def config_reference(schema: Schema) -> str:
    """The page of soup.yaml from its JSON Schema."""
    return _page("soup.yaml", CONFIG_INTRO, schema)


def suite_reference(schema: Schema) -> str:
    """The page of a suite from its JSON Schema."""
    return _page("Suites", SUITE_INTRO, schema)


def _page(title: str, intro: str, schema: Schema) -> str:
    parts = [f"# {title}", GENERATED.format(source="the schema"), intro]
    places = _places(schema)
    for name, place in {"": "", **places}.items():
        block = schema["$defs"][name] if name else schema
        if name:
            parts += [f"## {place}", block.get("description", "")]
        rows = [
            _row(key, value, key in block.get("required", ()), places)
            for key, value in block["properties"].items()
        ]
        parts.append("\n".join(["| key | value | default | what |", "|---|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _places(schema: Schema) -> dict[str, str]:
    """The name of each definition, and where it is first met: `LoraBlock`, `training.lora`."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Schema]] = [("", schema)]
    while waiting:
        place, block = waiting.pop(0)
        for key, value in block["properties"].items():
            for name, step in _inner(value):
                if name not in found:
                    found[name] = _below(place, key, step)
                    waiting.append((found[name], schema["$defs"][name]))
    return found


def _below(place: str, key: str, step: str) -> str:
    return f"{place}.{key}{step}".lstrip(".")


def _inner(value: Schema) -> Iterator[tuple[str, str]]:
    """(name of the definition, how its values are reached) of a key that holds mappings."""
    for part in value.get("anyOf", [value]):
        for step, found in (("", part), ("[]", part.get("items")), (".NAME", _values(part))):
            if found and "$ref" in found:
                yield found["$ref"].rpartition("/")[2], step


def _values(part: Schema) -> Schema | None:
    found = part.get("additionalProperties")
    return found if isinstance(found, dict) else None


def _row(key: str, value: Schema, is_required: bool, places: Mapping[str, str]) -> str:
    inner = [places[name] for name, _ in _inner(value)]
    kind = f"[`{inner[0]}`](#{_anchor(inner[0])})" if inner else _kind(value)
    default = "" if inner else _default(value.get("default"))
    what = " ".join(value.get("description", "").split()).replace("|", "\\|")
    return f"| `{key}` | {kind} | {'**required**' if is_required else default} | {what} |"


def _anchor(heading: str) -> str:
    return "".join(c for c in heading.lower() if c.isalnum() or c in "-_")


def _default(value: object) -> str:
    return "–" if value in (None, {}, []) else f"`{json.dumps(value).strip(chr(34))}`"


def _kind(value: Schema) -> str:
    kinds = [_kind(part) for part in value.get("anyOf", ()) if part != {"type": "null"}]
    if kinds:
        return "; or ".join(dict.fromkeys(kinds))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    words = {"boolean": "`true`, `false`", "string": "text", "array": "list", "object": "mapping"}
    kind = words.get(value["type"], str(value["type"]))
    if "items" in value:
        kind += f" of {_kind(value['items'])}"
    if (inner := _values(value)) is not None:
        kind += f" to {_kind(inner)}"
    return f"{kind}{_bounds(value)}"


def _bounds(value: Schema) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f", {low:,} to {high:,}"
    words = {
        "minimum": "at least", "exclusiveMinimum": "above",
        "maximum": "at most", "exclusiveMaximum": "below",
    }  # fmt: skip
    return "".join(f", {word} {value[key]:,}" for key, word in words.items() if key in value)
