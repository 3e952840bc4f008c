"""A config file of another tool as a `Reading`, whatever it is written in; and whose it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from soup_git.core import yamllines
from soup_git.errors import FatalError
from soup_git.migration.axolotl import AXOLOTL
from soup_git.migration.draft import Reading
from soup_git.migration.llamafactory import LLAMAFACTORY
from soup_git.migration.llamafactoryblocks import LLAMAFACTORY_BLOCKS, MARKS, is_in_blocks
from soup_git.migration.original import ORIGINAL
from soup_git.migration.pythonscript import LARGEST_NOTEBOOK
from soup_git.migration.rules import Tool
from soup_git.migration.scriptcalls import script
from soup_git.migration.unsloth import SCRIPTED, UNSLOTH

TOOLS: dict[str, Tool] = {tool.name: tool for tool in (ORIGINAL, AXOLOTL, LLAMAFACTORY, UNSLOTH)}
"""What `git soup migrate --from` reads."""

_SCRIPTS = {".py": False, ".ipynb": True}
Beside = Callable[[str], Any]


def largest(name: str) -> int:
    """How many bytes a file of this name may have."""
    return LARGEST_NOTEBOOK if name.endswith(".ipynb") else yamllines.LARGEST


def read(name: str, text: str, tool: str, beside: Beside) -> tuple[Tool, Reading]:
    """The config in `text`, and the tables that it is read with.

    Raises FatalError, with the line, for a text that cannot be read, and for a config that
    is plainly another tool's.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _SCRIPTS:
        if tool != UNSLOTH.name:
            raise FatalError(
                f"{name} is Python, and {TOOLS[tool].title} is configured in YAML",
                hint=f"git soup migrate --from {UNSLOTH.name} {name}",
            )
        return SCRIPTED, script(name, text, notebook=_SCRIPTS[suffix])
    if suffix == ".json":
        # YAML is all of JSON but for tabs; within a line of JSON they can only be blanks.
        text = re.sub(r"(?m)^\t+", lambda tabs: "  " * len(tabs[0]), text)
    value, lines, problems = yamllines.read(text)
    if not problems and not isinstance(value, dict):
        problems = [((), 1, f"is no config of {TOOLS[tool].title}: a mapping of options is")]
    if problems:
        raise yamllines.all_at_once(name, problems)
    _check_origin(name, value, tool)
    if tool == LLAMAFACTORY.name and is_in_blocks(value):
        return LLAMAFACTORY_BLOCKS, Reading(name, value, lines, beside=beside)
    return TOOLS[tool], Reading(name, value, lines, beside=beside)


def _check_origin(name: str, value: dict[str, Any], tool: str) -> None:
    """Refuse a config that has no key of its tool, and several of another."""
    found = {other.name: len(other.marks & set(value)) for other in TOOLS.values()}
    found[LLAMAFACTORY.name] = max(found[LLAMAFACTORY.name], len(MARKS & set(value)))
    best = max(found, key=lambda other: found[other])
    if found[tool] == 0 and not found[best]:
        known = ", ".join(sorted(TOOLS[tool].marks))
        raise FatalError(
            f"{name} has none of the keys of {TOOLS[tool].title}: {known}",
            hint=f"head {name}",
        )
    if found[best] > 2 * found[tool]:
        raise FatalError(
            f"{name} looks like a config of {TOOLS[best].title}, not of {TOOLS[tool].title}",
            hint=f"git soup migrate --from {best} {name}",
        )
