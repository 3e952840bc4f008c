"""Each scorer on answers that are right, wrong and odd."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from soup_git.core.answers import final_answer
from soup_git.errors import FatalError
from soup_git.evaluation.rows import EvalRow
from soup_git.evaluation.scorers import (
    SCORERS,
    Context,
    UnscoredError,
    score_choice,
    scorer_of,
)
from soup_git.evaluation.suite import DecodingBlock, Task, TaskBlock

pytest.importorskip("sacrebleu", reason="the eval extra is not installed")


def task(scoring: str, root: Path = Path(), **block: Any) -> Task:
    made = TaskBlock(name="t", prompts="p", scoring=scoring, **block)
    return Task("t", scoring, made, DecodingBlock().decoding(), (), root, root, {})


def score(scoring: str, answer: str, expected: Any, root: Path = Path(), **block: Any) -> float:
    scorer = scorer_of(scoring)
    assert scorer.open is not None
    row = EvalRow("p", 1, {"prompt": "q", "expected": expected})
    found = scorer.open(task(scoring, root, **block), Context(allow_python=True))(row, answer)
    return next(iter(found.values()))[0]


@pytest.mark.parametrize(
    ("scoring", "answer", "expected", "value"),
    [
        ("exact", " Paris\n", "paris", 1),
        ("exact", "Paris.", "paris", 0),
        ("exact", "b", ["a", "b"], 1),
        ("contains", "It is 42, I think", "42", 1),
        ("contains", "It is 420", "42", 0),
        ("contains", "the catalogue", "cat", 0),
        ("contains", "catalogue, cat", "cat", 1),
        ("regex", "call 555-1234 now", r"\d{3}-\d{4}", 1),
        ("regex", "nothing", r"\d", 0),
        ("answer", "So 3 + 4 = 7. The answer is 7.", "7", 1),
        ("answer", "#### 1,234.0", "1234", 1),
        ("answer", r"hence \boxed{12}", "the answer is 12", 1),
        ("answer", "first 3 then 5", "3", 0),
        ("overlap", "a b c", "b c d", 0.5),
        ("tool_call", '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
         {"name": "f", "arguments": {"x": 1}}, 1),
        ("tool_call", '{"function": {"name": "f", "arguments": "{\\"x\\": 1}"}}',
         [{"name": "f", "arguments": {"x": 1}}], 1),
        ("tool_call", '[TOOL_CALLS][{"name": "f", "arguments": {"x": 2}}]',
         {"name": "f", "arguments": {"x": 1}}, 0),
        ("tool_call", "I would call f", {"name": "f"}, 0),
        ("tool_name", '{"name": "f", "arguments": {"x": 2}}', {"name": "f"}, 1),
        ("tool_arguments", '{"name": "f", "arguments": {"x": 1, "y": 3}}',
         {"name": "f", "arguments": {"x": 1, "y": 2}}, 0.75),
        ("json_schema", '```json\n{"a": 1}\n```', {"required": ["a"]}, 1),
        ("json_schema", '{"b": 1}', {"required": ["a"]}, 0),
        ("json_schema", "not json", {"required": ["a"]}, 0),
        ("rouge", "the cat sat", "the cat sat", 1),
    ],
)  # fmt: skip
def test_scores(scoring: str, answer: str, expected: Any, value: float) -> None:
    assert score(scoring, answer, expected) == pytest.approx(value)


def test_case_counts_where_it_is_asked_to() -> None:
    assert score("exact", "paris", "Paris", case_sensitive=True) == 0
    assert score("contains", "in Paris", "Paris", case_sensitive=True) == 1


def test_a_regex_that_blows_up_is_stopped_and_counted() -> None:
    began = time.monotonic()
    with pytest.raises(UnscoredError, match="took longer"):
        score("regex", "a" * 5000 + "!", r"(?:(?:a|aa)+)+$(?<!x)b")
    assert time.monotonic() - began < 10


def test_a_schema_elsewhere_is_not_fetched() -> None:
    with pytest.raises(UnscoredError, match="not fetched"):
        score("json_schema", "{}", {"$ref": "http://127.0.0.1:9/x.json"})


def test_final_answers() -> None:
    assert final_answer("The result is: blue") == "blue"
    assert final_answer("costs $1,250.50 in all") == "1250.5"


def test_options_are_normalised_by_length() -> None:
    row = EvalRow("p", 1, {"prompt": "q", "options": ["no", "yes indeed"], "expected": 1})
    found = [(-4.0, 1), (-6.0, 3)]
    assert score_choice(row, task("choice"), found)["choice"][0] == 1
    assert score_choice(row, task("choice", normalize="none"), found)["choice"][0] == 0
    assert score_choice(row, task("choice", normalize="characters"), found)["choice"][0] == 1


def test_a_function_of_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "politeness_checks.py").write_text(
        "def polite(answer, row):\n    return 'please' in answer\n\n"
        "def broken(answer, row):\n    return {}[answer]\n\n"
        "def mute(answer, row):\n    return 'yes'\n\n"
        "def huge(answer, row):\n    return 10**400\n\n"
        "def quits(answer, row):\n    raise SystemExit(0)\n\n"
        "def array(answer, row):\n    import numpy\n    return numpy.bool_(answer == 'x')\n"
    )
    name = "python:politeness_checks"
    assert score(f"{name}:polite", "please do", None, tmp_path) == 1
    with pytest.raises(UnscoredError, match="broken raised KeyError"):
        score(f"{name}:broken", "x", None, tmp_path)
    with pytest.raises(UnscoredError, match="mute returned no number"):
        score(f"{name}:mute", "x", None, tmp_path)
    with pytest.raises(UnscoredError, match="huge returned no number"):
        score(f"{name}:huge", "x", None, tmp_path)
    with pytest.raises(UnscoredError, match="quits raised SystemExit"):
        score(f"{name}:quits", "x", None, tmp_path)
    assert score(f"{name}:array", "x", None, tmp_path) == 1
    with pytest.raises(FatalError, match="no function rude"):
        score(f"{name}:rude", "x", None, tmp_path)
    with pytest.raises(FatalError, match="the workspace has no module os"):
        score("python:os:getpid", "x", None, tmp_path)
    scorer = scorer_of(f"{name}:polite")
    assert scorer.open is not None
    with pytest.raises(FatalError, match="--allow-python"):
        error = None
        try:
            scorer.open(task(f"{name}:polite", tmp_path), Context())
        except FatalError as found:
            error = found
            raise FatalError(f"{found} {found.hint}") from error


def test_the_docs_list_every_scorer() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "scorers.md").read_text()
    for scorer in SCORERS.values():
        assert f"| `{scorer.spelled}` |" in page
    assert json.dumps(sorted(SCORERS))  # a literal table, in the order of the docs
