"""What text and turns of a conversation may be; every row's format stands on these checks."""

from __future__ import annotations

from typing import Any

from soup_git.data.rows import BadRowError, Row, in_short

ROLES = ("system", "developer", "user", "assistant", "tool")
# What a chat template may read of a turn. Any other key (`weight`, `train`) asks for
# something that would be ignored.
TURN_KEYS = {
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning_content",
    "thinking",
}


def checked_text(value: Any, what: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        kind = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
        raise BadRowError(f"{what} should be text, it is {kind.get(type(value), 'a number')}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRowError(f"{what} holds half a character (a lone surrogate)") from None
    if not may_be_empty and not value.strip():
        raise BadRowError(f"{what} is empty")
    return value


def checked_turns(value: Any, what: str) -> list[Row]:
    """Turns `{"role", "content"}`, checked and in an order that a conversation can have."""
    if not isinstance(value, list):
        raise BadRowError(f"{what} should be a list of turns")
    if not value:
        raise BadRowError(f"{what} is empty")
    before = None
    for i, turn in enumerate(value):
        _turn(turn, f"{what}[{i}]")
        role = turn["role"]
        if role in {"system", "developer"} and i:
            raise BadRowError(f"{what}[{i}] has role {role}, which belongs at the start")
        if role in {"user", "assistant"} and role == before:
            raise BadRowError(f"{what}[{i}] is a second {role} turn in a row")
        before = role
    return value


def _turn(turn: Any, where: str) -> None:
    if not isinstance(turn, dict):
        raise BadRowError(f"{where} should be an object with role and content")
    role = turn.get("role")
    if role not in ROLES:
        raise BadRowError(f"{where} has role {in_short(role)}, not one of {', '.join(ROLES)}")
    unknown = sorted(set(turn) - TURN_KEYS)
    if unknown:
        raise BadRowError(f"{where} has the key {unknown[0]!r}, which nothing would read")
    calls = turn.get("tool_calls")
    if calls is not None and (role != "assistant" or not isinstance(calls, list)):
        raise BadRowError(f"{where}.tool_calls should be a list, in an assistant's turn")
    if not (calls and turn.get("content") is None):
        checked_text(turn.get("content"), f"{where}.content", may_be_empty=bool(calls))
    for key in ("name", "tool_call_id", "reasoning_content", "thinking"):
        if turn.get(key) is not None:
            checked_text(turn[key], f"{where}.{key}", may_be_empty=True)


def conversation(turns: list[Row], what: str) -> list[Row]:
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadRowError(f"{what} has no assistant turn, so there is nothing to learn")
    if turns[-1]["role"] != "assistant":
        raise BadRowError(f"{what} ends with a {turns[-1]['role']} turn, not the assistant's")
    return turns


def with_tools(row: Row, converted: Row) -> Row:
    tools = row.get("tools")
    if tools is None:
        return converted
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRowError("tools should be a list of objects")
    return converted | {"tools": tools}
