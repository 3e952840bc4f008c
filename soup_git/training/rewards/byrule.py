"""Rewards that a rule gives: the right answer, the wanted form, code that passes its tests."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from soup_git.core.answers import final_answer, without_fence
from soup_git.data.rows import BadRowError
from soup_git.data.schemas import validator_of
from soup_git.training.rewards import sandbox
from soup_git.training.rewards.asked import Asked

ANSWERS = ("answer", "solution", "expected")
_THOUGHT = re.compile(r"\s*<think>(?:(?!</?think>).)*</think>(?!.*</?think>).*\S.*", re.DOTALL)
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One reward by rule: what a row needs for it, and what a completion is worth."""

    name: str
    summary: str
    check_row: Callable[[Mapping[str, Any]], None]
    worth: Callable[[Asked], float]
    several: bool = False
    """Does it take long enough for several at once?"""

    def __call__(self, asked: Sequence[Asked]) -> list[float]:
        if not self.several:
            return [self.worth(a) for a in asked]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return list(pool.map(self.worth, asked))


def wanted(row: Mapping[str, Any]) -> str:
    """The right answer of a row. Raises BadRowError."""
    for key in ANSWERS:
        value = row.get(key)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    raise BadRowError(f"this reward needs the right answer in a column {' or '.join(ANSWERS)}")


def _needs_answer(row: Mapping[str, Any]) -> None:
    wanted(row)


def _right(asked: Asked) -> float:
    return float(final_answer(asked.text) == final_answer(wanted(asked.row)))


def _needs_number(row: Mapping[str, Any]) -> None:
    if _float(final_answer(wanted(row))) is None:
        raise BadRowError(f"verifiable math needs a number as the answer: {wanted(row)[:40]!r}")


def _same_number(asked: Asked) -> float:
    """By value; nothing of the completion is evaluated."""
    found = _float(final_answer(asked.text))
    return float(found is not None and found == _float(final_answer(wanted(asked.row))))


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _has_form(asked: Asked) -> float:
    return float(_THOUGHT.fullmatch(asked.text) is not None)


def _tests(row: Mapping[str, Any]) -> str:
    tests = row.get("tests", row.get("test_list"))
    if isinstance(tests, list) and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    return tests if isinstance(tests, str) else ""


def _needs_tests(row: Mapping[str, Any]) -> None:
    if not _tests(row).strip():
        try:
            wanted(row)
        except BadRowError:
            raise BadRowError(
                "verifiable code needs tests (Python, or a list of lines of it), or what the "
                "program prints as answer"
            ) from None


def _runs(asked: Asked) -> float:
    blocks = _BLOCK.findall(asked.text)
    tests = _tests(asked.row)
    ran = sandbox.run(blocks[-1] if blocks else asked.text, tests)
    _say_once(ran.missing)
    if not ran.finished:
        return 0.0
    return float(bool(tests) or ran.printed.strip() == wanted(asked.row).strip())


def _needs_schema(row: Mapping[str, Any]) -> None:
    _schema(row)


def _schema(row: Mapping[str, Any]) -> Any:
    schema = row.get("schema")
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise BadRowError("schema should be a JSON Schema, this is not JSON") from None
    if not isinstance(schema, dict):
        raise BadRowError("verifiable json_schema needs a JSON Schema in a column schema")
    return validator_of(schema)


def _fits(asked: Asked) -> float:
    from referencing.exceptions import Unresolvable

    try:
        return float(_schema(asked.row).is_valid(json.loads(without_fence(asked.text))))
    except (ValueError, RecursionError, Unresolvable):
        return 0.0


def _nothing(_row: Mapping[str, Any]) -> None:
    pass


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("accuracy", "1 where the final answer is the row's", _needs_answer, _right),
        Rule("format", "1 for `<think>…</think>` and then an answer", _nothing, _has_form),
        Rule("math", "1 where the final answer is the same number", _needs_number, _same_number),
        Rule("code", "1 where the code passes the row's tests", _needs_tests, _runs, several=True),
        Rule("json_schema", "1 where the answer fits the row's schema", _needs_schema, _fits),
    )
}
DOMAINS = ("math", "code", "json_schema")

_said: set[tuple[str, ...]] = set()


def _say_once(missing: tuple[str, ...]) -> None:
    if missing and missing not in _said:
        _said.add(missing)
        sys.stderr.write(
            f"warning: the kernel here cannot take {' and '.join(missing)} away from code that "
            "a model wrote; train in a container\n"
        )
