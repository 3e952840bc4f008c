"""One value of a YAML file changed where it stands; every other byte stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from soup_git.core import yamllines
from soup_git.core.yamllines import Where


def with_value(text: str, where: Where, value: int, comment: str) -> str:
    """`text` with the plain `value` at `where`, and `comment` at the end of its line.

    Where more is on the line, the comment names the key. It is left out where a line's end is
    no place for one, inside a quoted text.
    Raises ValueError where nothing is at `where`.
    """
    # PyYAML counts from behind a byte order mark, which it would take for a character else.
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    body = text.removeprefix(mark)
    node: Any = yaml.compose(body, Loader=yaml.SafeLoader)
    for part in where:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((inner for key, inner in pairs if key.value == part), None)
    if node is None:
        raise ValueError(f"nothing is at {'.'.join(map(str, where))}")
    start, end = node.start_mark.index, node.end_mark.index
    line = body[end:].partition("\n")[0].removesuffix("\r")
    wanted = _changed(yamllines.read(body)[0], where, value)
    if line.strip():
        comment = f"{where[-1]}: {comment}"
    for after in (f"{line}  # {comment}", line):
        edited = f"{body[:start]}{value}{after}{body[end + len(line) :]}"
        if yamllines.read(edited)[::2] == (wanted, []):
            return mark + edited
    raise ValueError(f"{'.'.join(map(str, where))} cannot be edited where it stands")


def _changed(document: Any, where: Where, value: int) -> Any:
    changed = copy.deepcopy(document)
    block = changed
    for part in where[:-1]:
        block = block[part]
    block[where[-1]] = value
    return changed
