"""What a row of a dataset is known by when the rest of it changes: its id, or its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_IDS = ("id", "_id", "uid", "uuid")
_TURNS = {"messages": ("role", "content"), "conversations": ("from", "value")}
_USERS = {"user", "human"}
_PROMPTS = ("prompt", "instruction", "question", "query", "input")


def id_of(row: Mapping[str, Any]) -> str | None:
    """The row's own id as text; None where it has none that tells rows apart."""
    for name in _IDS:
        value = row.get(name)
        if (isinstance(value, str) and value) or type(value) is int:
            return f"{name} {value}"
    return None


def prompt_of(row: Mapping[str, Any]) -> list[Any] | None:
    """What the model is asked: the user's turns, or the columns that hold the question.

    The system's turn is not part of it: a new system prompt changes rows, and makes no new ones.
    """
    for name, (speaker, said) in _TURNS.items():
        turns = row.get(name)
        if isinstance(turns, list):
            return _users_turns(turns, speaker, said)
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        return _users_turns(prompt, "role", "content") or prompt or None
    asked = [row[name] for name in _PROMPTS if row.get(name)]
    return asked or None


def _users_turns(turns: list[Any], speaker: str, said: str) -> list[Any] | None:
    found = [
        turn.get(said)
        for turn in turns
        if isinstance(turn, Mapping) and str(turn.get(speaker)) in _USERS
    ]
    return found or None
