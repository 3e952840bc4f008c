"""Tool calls in what a model says, in the spellings that models have for them."""

from __future__ import annotations

import json
import re
from typing import Any

from soup_git.core.answers import without_fence

Call = tuple[str, dict[str, Any]]
"""A tool's name and its arguments."""

_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_MISTRAL = "[TOOL_CALLS]"


def calls_in(answer: str) -> list[Call]:
    """The calls in an answer: tagged, after Mistral's mark, or the whole answer as JSON."""
    tagged = _TAGGED.findall(answer)
    texts = tagged or [without_fence(answer.removeprefix(_MISTRAL).strip())]
    found: list[Call] = []
    for text in texts:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return []
        calls = expected_calls(value)
        if calls is None:
            return []
        found += calls
    return found


def expected_calls(value: Any) -> list[Call] | None:
    """The calls that a value spells, as OpenAI, Qwen or Llama do; None where it spells none."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    calls = [_call(item) for item in (value if isinstance(value, list) else [value])]
    known = [call for call in calls if call is not None]
    return known if known and len(known) == len(calls) else None


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return name, arguments


def graded(found: list[Call], wanted: list[Call]) -> dict[str, float]:
    """Scores of the calls made against those expected, in order."""
    names = [name for name, _ in found] == [name for name, _ in wanted]
    shares = []
    for (made, given), (name, arguments) in zip(found, wanted, strict=False):
        right = sum(key in given and given[key] == arguments[key] for key in arguments)
        share = right / len(arguments) if arguments else 1.0
        shares.append(0.5 + 0.5 * share if made == name else 0.0)
    return {
        "tool_call": float(found == wanted),
        "tool_name": float(names),
        "tool_arguments": sum(shares) / max(len(found), len(wanted), 1),
    }
