"""Suites that are wrong: every error at once, with file and line, before a model loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.evaluation.suite import json_schema, load_suite
from tests.evaluation.conftest import QUESTIONS, WriteSuite

GOOD = "tasks:\n  - name: a\n    prompts: prompts.jsonl\n"


def said(path: Path, root: Path) -> str:
    with pytest.raises(FatalError) as found:
        load_suite(path, root)
    assert found.value.hint
    return str(found.value)


def test_unknown_keys_are_errors_with_line_and_the_nearest_key(
    tmp_path: Path, write_suite: WriteSuite
) -> None:
    text = (
        "decodin: {max_new_tokens: 3}\n"
        "decoding: {max_tokens: 3}\n"
        "tasks:\n"
        "  - name: a\n"
        "    prompt: prompts.jsonl\n"
        "    gate: {exact: {maxdrop: 1}}\n"
    )
    found = said(write_suite(text, QUESTIONS), tmp_path)
    assert "suite.yaml:1: decodin: unknown key; did you mean decoding?" in found
    assert "suite.yaml:2: decoding.max_tokens: unknown key; did you mean max_new_tokens?" in found
    assert "suite.yaml:5: tasks.0.prompt: unknown key; did you mean prompts?" in found
    assert "suite.yaml:6: tasks.0.gate.exact.maxdrop: unknown key; did you mean max_drop?" in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "    scoring: exat\n", ["suite.yaml:4", "no scorer exat; did you mean exact?"]),
        (GOOD + "    scoring: exact\n    normalize: none\n", [":5", "exact does not read this"]),
        (GOOD + "    scoring: choice\n    normalize: nope\n", [":5", "tokens, characters or none"]),
        (GOOD + "    scoring: judge\n", ["judge is missing"]),
        (GOOD + "    scoring: python\n", ["no scorer python"]),
        (GOOD + "    scoring: lm_eval:arc\n", [":3", "brings its own questions"]),
        (GOOD + "    gate: {exakt: {min: 1}}\n", [":4", "no score exakt; did you mean exact?"]),
        (GOOD + "    gate: {exact: {max_drop: 2 percent}}\n", ["percentage such as 2%"]),
        (GOOD + "  - name: a\n    prompts: prompts.jsonl\n", [":4", "an earlier task"]),
        ("tasks: []\n", [":1", "at least 1 item"]),
        ("- a\n", [":1", "mapping"]),
        ("tasks:\n  - name: 'a b'\n    prompts: x\n", [":2", "letters, digits"]),
        ("tasks:\n  - name: a\n", [":2", "prompts is missing"]),
        ("tasks:\n  - name: a\n    prompts: not.jsonl\n", [":3", "not.jsonl does not exist"]),
        ("tasks:\n  - name: a\n    prompts: ../../../etc/passwd\n", ["outside the workspace"]),
        ("tasks: &a [*a]\n", ["anchors and aliases"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, write_suite: WriteSuite, text: str, words: list[str]
) -> None:
    found = said(write_suite(text, QUESTIONS), tmp_path)
    for word in words:
        assert word in found


@pytest.mark.parametrize(
    ("scoring", "row", "word"),
    [
        ("exact", {"expected": "x"}, "exact needs prompt, this row has expected"),
        ("exact", {"prompt": "x"}, "needs expected as text"),
        ("exact", {"prompt": " ", "expected": "x"}, "needs prompt as text"),
        ("contains", {"prompt": "x", "expected": {"a": 1}}, "needs expected as text"),
        ("choice", {"prompt": "x", "options": ["a", "b"], "expected": "c"}, "one of its options"),
        ("choice", {"prompt": "x", "expected": "c"}, "needs options"),
        ("regex", {"prompt": "x", "expected": "(("}, "needs a regular expression"),
        ("regex", {"prompt": "x", "expected": "a" * 2000}, "at most 1000"),
        ("json_schema", {"prompt": "x", "expected": {"type": "strin"}}, "needs a JSON Schema"),
        ("json_schema", {"prompt": "x", "expected": {"pattern": "(a+)+$"}}, "matched safely"),
        ("tool_call", {"prompt": "x", "expected": "hello"}, "needs expected as {"),
        ("loss", {"prompt": "x"}, "needs prompt and expected, or a row of a training dataset"),
        ("loss", {"messages": [{"role": "user", "content": "x"}]}, "no assistant turn"),
    ],
)
def test_rows_without_what_their_scorer_needs_name_file_and_line(
    tmp_path: Path, write_suite: WriteSuite, scoring: str, row: dict[str, Any], word: str
) -> None:
    pytest.importorskip("jsonschema", reason="the eval extra is not installed")
    path = write_suite(GOOD + f"    scoring: {scoring}\n", [{"ok": 1}, row])
    found = said(path, tmp_path)
    assert "prompts.jsonl:2: " in found
    assert word in found


def test_rows_that_are_no_rows(tmp_path: Path, write_suite: WriteSuite) -> None:
    path = write_suite(GOOD)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "expected": "b"}\nnot json\n[1]\n')
    found = said(path, tmp_path)
    assert "prompts.jsonl:2: not JSON" in found
    assert "prompts.jsonl:3: a row should be an object" in found
    (tmp_path / "prompts.jsonl").write_text("\n")
    assert "has no rows" in said(path, tmp_path)


def test_the_original_tools_rows_are_read_as_they_are(
    tmp_path: Path, write_suite: WriteSuite
) -> None:
    rows = [
        {"prompt": "a", "expected": "b", "category": "x", "scoring": "contains"},
        {"prompt": "a", "expected": 4, "category": "y", "scoring": "answer"},
        {"prompt": "a", "expected": "b c", "scoring": "semantic"},
        {"prompt": "a", "expected": '{"name": "f"}', "scoring": "tool_call_name_match"},
        {"prompt": "a", "expected": "b"},
    ]
    suite = load_suite(write_suite(GOOD, rows), tmp_path)
    assert [task.scoring for task in suite.tasks] == [
        "contains", "answer", "overlap", "tool_name", "exact"
    ]  # fmt: skip


def test_a_row_cannot_choose_what_runs_code_or_calls_out(
    tmp_path: Path, write_suite: WriteSuite
) -> None:
    rows = [{"prompt": "a", "expected": "b", "scoring": "python:os:system"}]
    assert "for the suite to choose" in said(write_suite(GOOD, rows), tmp_path)


def test_the_digest_follows_text_and_rows(tmp_path: Path, write_suite: WriteSuite) -> None:
    first = load_suite(write_suite(GOOD, QUESTIONS), tmp_path)
    again = load_suite(write_suite(GOOD, QUESTIONS), tmp_path)
    other_rows = load_suite(write_suite(GOOD, QUESTIONS[:-1]), tmp_path)
    other_text = load_suite(write_suite("batch_size: 2\n" + GOOD, QUESTIONS), tmp_path)
    assert first.sha256 == again.sha256
    assert len({first.sha256, other_rows.sha256, other_text.sha256}) == 3
    assert first.tasks[0].digest == other_text.tasks[0].digest  # nothing that decides its scores
    assert first.tasks[0].digest != other_rows.tasks[0].digest


def test_the_published_schema_is_the_one_that_checks() -> None:
    docs = Path(__file__).parents[2] / "docs" / "reference" / "suite.schema.json"
    assert json.loads(docs.read_text()) == json_schema()


def test_reading_a_suite_loads_no_torch(tmp_path: Path, write_suite: WriteSuite) -> None:
    import subprocess

    path = write_suite(GOOD, QUESTIONS)
    code = (
        "import sys; from pathlib import Path; from soup_git.evaluation.suite import load_suite;"
        f"load_suite(Path({str(path)!r}), Path({str(tmp_path)!r}));"
        "sys.exit(bool({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
