"""Which row of the table of tasks a config means, and what that row fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soup_git.training.tasks import TASKS, Task


def chosen(task: str, preference_loss: str | None) -> Task:
    """The row of `task`; of task preference, that of its loss where this is a task on pairs.

    Loss sft is not task sft: it imitates the chosen answer of a pair.
    """
    row = TASKS[task]
    if task != "preference" or preference_loss not in TASKS:
        return row
    method = TASKS[preference_loss]
    if method.shapes != row.shapes:
        return row
    return replace(method, options={**method.options, "preference_loss": ""})


def with_defaults(raw: Any) -> Any:
    """A config as it is written, with the task's own defaults where it says nothing."""
    if not isinstance(raw, dict) or not isinstance(raw.get("training", {}), dict):
        return raw
    training = raw.get("training", {})
    name, loss = raw.get("task"), training.get("preference_loss")
    if not isinstance(name, str) or name not in TASKS:
        return raw
    method = chosen(name, loss if isinstance(loss, str) else None)
    return {**raw, "training": _filled(training, method.defaults)} if method.defaults else raw


def _filled(block: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(block)
    for key, value in defaults.items():
        first, _, rest = key.partition(".")
        if not rest:
            filled.setdefault(first, value)
        elif isinstance(filled.get(first, {}), dict):
            filled[first] = _filled(filled.get(first, {}), {rest: value})
    return filled
