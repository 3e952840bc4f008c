"""What the training config of two revisions says differently: keys and values, not lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soup_git.core.text import counted
from soup_git.core.valuediff import ValueChange as ConfigChange
from soup_git.core.valuediff import value_changes
from soup_git.storage.lockdrift import config_path
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

__all__ = ["ConfigChange", "config_changes"]


@dataclass(frozen=True)
class _Config:
    path: str
    data: bytes | None
    value: Any
    problem: str = ""


def config_changes(workspace: Workspace, a: str, b: str) -> list[ConfigChange]:
    """Every leaf of the config that two revisions give different values.

    The config is the file that `soup.lock` names, else `soup.yaml`. Comments, order and
    spelling do not count. Where one side is no YAML, the one change says that the text
    differs. Values are safe to show. Raises `FatalError` for what names no commit.
    """
    old, new = (_config(workspace.at(revision)) for revision in (a, b))
    if old.data == new.data:
        return []
    if old.problem or new.problem:
        return [ConfigChange(new.path, _told(old), _told(new))]
    return value_changes(old.value, new.value)


def _config(snapshot: Snapshot) -> _Config:
    from soup_git.core.yamllines import read

    path = config_path(snapshot)
    data = snapshot.read(path)
    if data is None:
        return _Config(path, None, {})
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _Config(path, data, None, "not UTF-8")
    value, _, problems = read(text)
    if problems:
        _, line, what = problems[0]
        return _Config(path, data, None, f"line {line}: {what}")
    if value is not None and not isinstance(value, dict):
        return _Config(path, data, None, "no mapping of options")
    return _Config(path, data, value or {})


def _told(config: _Config) -> str | None:
    if config.data is None:
        return None
    lines = counted(config.data.count(b"\n"), "line")
    return f"{lines}, {config.problem}" if config.problem else f"{lines} of YAML"
