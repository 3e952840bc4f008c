"""Reads YAML into plain values, remembers the line of every key, and blames a key by it.

Stricter than PyYAML's safe loader where a config wants it: a duplicate key is an error,
anchors and aliases are refused (an alias bomb of a kilobyte expands to gigabytes), and
`2e-5` is a number, as in YAML 1.2; PyYAML reads it as the string "2e-5".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from soup_git.errors import FatalError

LARGEST = 1 << 20  # bytes; a config is a page, not a database
DEEPEST = 32

Where = tuple[str | int, ...]
Problem = tuple[Where, int, str]  # where, line, what is wrong


class _Loader(yaml.SafeLoader):
    pass


# The resolvers are shared between loader classes: copy before adding.
_Loader.yaml_implicit_resolvers = {
    first: [r for r in resolvers if r[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def read(text: str) -> tuple[Any, dict[Where, int], list[Problem]]:
    """The document's value, the line of each key and item, and what is wrong with it.

    After a problem the value holds what could still be read, so that the checks that
    follow can report their findings together with it.
    """
    if len(text) > LARGEST or len(text.encode("utf-8", "replace")) > LARGEST:
        return None, {}, [((), 1, "a config may have at most 1 MiB")]
    problems: list[Problem] = []
    lines: dict[Where, int] = {}
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1 if event.start_mark else 1
            if depth > DEEPEST:
                return None, {}, [((), line, f"nested deeper than {DEEPEST} levels")]
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                return None, {}, [((), line, "anchors and aliases (&, *) are not accepted here")]
        loader = _Loader(text)
        node = loader.get_single_node()
        value = None if node is None else _value(loader, node, (), lines, problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(error.problem or error.context).split())
        return None, {}, [((), mark.line + 1 if mark else 1, f"not valid YAML: {what}")]
    except yaml.YAMLError as error:  # a control character has no mark
        return None, {}, [((), 1, f"not valid YAML: {' '.join(str(error).split())}")]
    return value, lines, problems


def _value(
    loader: _Loader, node: yaml.Node, path: Where, lines: dict[Where, int], problems: list[Problem]
) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [
            _value(loader, item, (*path, i), lines, problems) for i, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append((path, line, "a key must be a word"))
                continue
            key = key_node.value
            if key in mapping:
                first = lines[*path, key]
                problems.append(((*path, key), line, f"given twice, first on line {first}"))
                continue
            lines[*path, key] = line
            mapping[key] = _value(loader, value_node, (*path, key), lines, problems)
        return mapping
    if isinstance(node, yaml.ScalarNode):
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            what = getattr(error, "problem", None) or str(error)
            problems.append((path, node.start_mark.line + 1, f"cannot be read: {what}"))
            return None
    problems.append((path, node.start_mark.line + 1, f"the tag {node.tag} is not accepted here"))
    return None


def line_of(lines: dict[Where, int], where: Where) -> int:
    """The line of the key, or of the closest block around it that is there."""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return lines.get((), 1)


def place(source: str, line: int) -> str:
    """`FILE:LINE`; an override on the command line has line 0."""
    return f"{source}:{line}" if line else "-S"


def nearest(value: Any, candidates: Iterable[str]) -> str:
    """`"; did you mean …?"`, or nothing when no candidate is close."""
    close = difflib.get_close_matches(str(value), list(candidates), 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""


def all_at_once(source: str, problems: Sequence[Problem]) -> FatalError:
    """One error that names every problem as `FILE:LINE: key.path: what is wrong`."""
    texts = []
    for where, line, what in sorted(problems, key=lambda p: p[1]):
        key = ".".join(map(str, where))
        texts.append(
            f"{place(source, line)}: {key}: {what}" if key else f"{place(source, line)}: {what}"
        )
    unique = list(dict.fromkeys(texts))
    many = f"{source}: {len(unique)} errors\n" if len(unique) > 1 else ""
    return FatalError(many + "\n".join(unique), hint=f"edit {source}, then type the command again")
