from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from soup_git.data import formats
from soup_git.data.rows import row_digest
from soup_git.errors import FatalError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "messages": ({"messages": TURNS}, {"messages": TURNS}),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"messages": TURNS},
    ),
    "alpaca": ({"instruction": "hi", "input": "", "output": "hello"}, {"messages": TURNS}),
    "prompt_completion": (
        {"prompt": "hi", "completion": "hello"},
        {"prompt": "hi", "completion": "hello"},
    ),
    "plaintext": ({"text": "hi"}, {"text": "hi"}),
    "dpo": (
        {"prompt": "hi", "chosen": "hello", "rejected": "no"},
        {"prompt": "hi", "chosen": "hello", "rejected": "no"},
    ),
    "kto": (
        {"prompt": "hi", "completion": "hello", "label": True},
        {"prompt": "hi", "completion": "hello", "label": True},
    ),
    "prm": (
        {"prompt": "2+2", "completions": ["2 and 2", "5"], "labels": [True, False]},
        {"prompt": "2+2", "completions": ["2 and 2", "5"], "labels": [True, False]},
    ),
    "prompt": ({"prompt": "2+2", "answer": "4"}, {"prompt": "2+2", "answer": "4"}),
    "classification": ({"text": "hi", "label": "ham"}, {"text": "hi", "label": "ham"}),
    "text_pair": (
        {"text": "hi", "text_pair": "hello", "label": 0.5},
        {"text": "hi", "text_pair": "hello", "label": 0.5},
    ),
    "query_document": (
        {"query": "hi", "document": "hello", "label": 1},
        {"text": "hi", "text_pair": "hello", "label": 1},
    ),
    "ranking": (
        {"query": "hi", "positive": "hello", "negatives": ["no"]},
        {"query": "hi", "positive": "hello", "negatives": ["no"]},
    ),
    "embedding": (
        {"anchor": "hi", "positive": "hello", "negative": None},
        {"anchor": "hi", "positive": "hello"},
    ),
}


def jsonl(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(FatalError) as caught:
        formats.load_dataset(path, name="rows", **options)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_each_format_is_detected_and_converted(tmp_path: Path, name: str) -> None:
    written, converted = ROWS[name]
    shapes = tuple({f.shape for f in formats.FORMATS.values()})
    path = jsonl(tmp_path, written)
    dataset = formats.load_dataset(path, shapes=shapes)
    assert (dataset.format.name, dataset.detected) == (name, True)
    assert dataset.rows[0].values == converted
    assert formats.load_dataset(path, shapes=shapes, format_name=name).rows == dataset.rows


@pytest.mark.parametrize("alias", formats.ALIASES)
def test_every_alias_names_a_format(alias: str) -> None:
    assert formats.ALIASES[alias] in formats.FORMATS


def test_alpaca_joins_instruction_and_input_and_keeps_the_system_prompt(tmp_path: Path) -> None:
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief"}
    (read,) = formats.load_dataset(jsonl(tmp_path, row)).rows
    assert [t["content"] for t in read.values["messages"]] == ["Be brief", "Add\n1 2", "3"]
    (read,) = formats.load_dataset(jsonl(tmp_path, row | {"system": "", "input": ""})).rows
    assert [t["content"] for t in read.values["messages"]] == ["Add", "3"]


def test_a_text_file_is_one_row_per_line_and_a_folder_is_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("third\n")
    (tmp_path / "a.txt").write_bytes("\ufefffirst\r\n\n  \nsecond \u2028 half\n".encode())
    dataset = formats.load_dataset(tmp_path, name="texts")
    assert [r.values["text"] for r in dataset.rows] == ["first", "second \u2028 half", "third"]
    assert [(r.file, r.line) for r in dataset.rows][1:] == [("texts/a.txt", 4), ("texts/b.txt", 1)]


def test_a_json_file_is_a_list_and_errors_name_the_line_of_the_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n {"text": "a"},\n\n {"text": "b"}, {"text": 3}\n]\n')
    assert "rows:4: text should be text, it is a number" in refusal(path)
    path.write_text('[\n {"text": "a"},\n\n {"text": "b"}]\n')
    assert [r.line for r in formats.load_dataset(path).rows] == [2, 4]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"text": "a"}', "rows:1: a .json file holds a list"),
        ('[{"text": "a"}', "rows:1: not JSON: the list of rows breaks off"),
        ('[{"text": "a"}] x', "rows:1: not JSON: text after the list"),
        ('[{"text": "a"},\n{"text": }]', "rows:2: not JSON"),
        ('[{"text": NaN}]', "rows:1: NaN is not a JSON number"),
        ('[{"text": 1e999}]', "too large for a number"),
        (f'[{{"text": {"9" * 5000}}}]', "a number of thousands of digits"),
        ("[" * 100_000, "rows:1:"),
        ("[]", "rows has no rows"),
        ("", "rows has no rows"),
    ],
)
def test_a_broken_json_file_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert what in refusal(path)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "not JSON"),
        ("[1]", "a row should be an object, this is [1]"),
        ('{"text": "a", "text": "b"}', 'the key "text" is there twice'),
        ('{"text": "\\ud800"}', "text holds half a character"),
        ({"text": " "}, "text is empty"),
        ({"text": None}, "text should be text, it is null"),
        ({"other": 1}, "plaintext rows have text, this one has other"),
    ],
)
def test_a_row_that_is_no_row_is_named_with_its_line(tmp_path: Path, row: Any, what: str) -> None:
    message = refusal(jsonl(tmp_path, {"text": "a"}, row))
    assert "1 row does not fit, of 2" in message
    assert f"rows:2: {what}" in message


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([], "messages is empty"),
        ("hi", "messages should be a list of turns"),
        (["hi"], "messages[0] should be an object"),
        ([{"role": "robot", "content": "x"}], 'messages[0] has role "robot"'),
        ([{"role": ["user"], "content": "x"}], "messages[0] has role"),
        ([TURNS[0]], "messages has no assistant turn"),
        ([*TURNS, TURNS[0]], "messages ends with a user turn"),
        ([TURNS[0], TURNS[0], TURNS[1]], "messages[1] is a second user turn in a row"),
        ([*TURNS, {"role": "system", "content": "x"}], "belongs at the start"),
        ([TURNS[0], {"role": "assistant", "content": ""}], "messages[1].content is empty"),
        ([TURNS[0], {"role": "assistant", "content": 5}], "content should be text"),
        ([TURNS[0], {"role": "assistant", "content": [{"type": "text"}]}], "it is a list"),
        ([{**TURNS[0], "weight": 0}, TURNS[1]], "has the key 'weight'"),
        ([{**TURNS[0], "tool_calls": []}, TURNS[1]], "tool_calls should be a list"),
    ],
)
def test_a_conversation_that_is_none_says_which_turn(tmp_path: Path, turns: Any, what: str) -> None:
    message = refusal(jsonl(tmp_path, {"messages": turns}), format_name="messages")
    assert f"rows:1: {what}" in message or what in message


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "alien", "value": "x"}]},
        {"conversations": [{"from": "gpt", "value": "x", "loss": 1}]},
        {"conversations": [{"from": {"a": 1}, "value": "x"}]},
        {"conversations": {}},
        {"prompt": "a", "completion": TURNS},
        {"prompt": TURNS, "completion": [TURNS[0]]},
        {"prompt": "a", "completion": ""},
        {"messages": TURNS, "tools": "all"},
    ],
)
def test_other_misfits_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    assert "rows:1: " in refusal(jsonl(tmp_path, row))


def test_ten_problems_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    message = refusal(jsonl(tmp_path, {"text": "a"}, *[{"text": ""}] * 25))
    assert "25 rows do not fit, of 26" in message
    assert message.count("rows:") == 11
    assert "and 15 more" in message


def test_a_row_that_fits_two_formats_or_none_asks(tmp_path: Path) -> None:
    assert "read as prompt_completion or plaintext" in refusal(
        jsonl(tmp_path, {"prompt": "a", "completion": "b", "text": "c"})
    )
    assert "no format has the columns of this row: a, b" in refusal(
        jsonl(tmp_path, {"a": 1, "b": 2})
    )


def test_a_dataset_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "missing.jsonl")
    assert "without" in refusal(tmp_path)
    (tmp_path / "rows.parquet").touch()
    assert "end in .jsonl" in refusal(tmp_path / "rows.parquet")


def test_a_task_reads_only_its_shapes(tmp_path: Path) -> None:
    message = refusal(jsonl(tmp_path, {"text": "a"}), shapes=("messages",))
    assert "plaintext rows, which this task does not read" in message


def test_columns_that_nothing_reads_are_reported_and_rows_can_be_limited(tmp_path: Path) -> None:
    dataset = formats.load_dataset(
        jsonl(tmp_path, {"text": "a", "id": 1}, {"text": "b"}, "{"), max_rows=2
    )
    assert dataset.unread == ("id",)
    assert len(dataset.rows) == 2


def test_the_split_depends_on_each_row_alone(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}"} for n in range(400)]
    train, held_out = formats.split(formats.load_dataset(jsonl(tmp_path, *rows)).rows, 0.25)
    assert 70 < len(held_out) < 130
    assert len(train) + len(held_out) == 400
    reordered = [dict(reversed(r.items())) for r in reversed(rows)] + [rows[0], {"text": "new"}]
    again = formats.split(formats.load_dataset(jsonl(tmp_path, *reordered)).rows, 0.25)
    old = {r.digest for r in train}, {r.digest for r in held_out}
    new = {r.digest for r in again[0]}, {r.digest for r in again[1]}
    assert old[0] <= new[0]
    assert old[1] <= new[1]
    assert not new[0] & new[1]


def test_a_row_digest_is_of_its_canonical_json() -> None:
    import hashlib

    digest = hashlib.sha256(b'{"a":1,"b":"\xc3\xa9"}').hexdigest()
    assert row_digest({"b": "é", "a": 1}) == digest


def test_reading_rows_loads_nothing_heavy(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"text": "a"})
    code = (
        "import sys; from pathlib import Path; from soup_git.data.formats import load_dataset;"
        f"load_dataset(Path({str(path)!r}));"
        "print([m for m in ('torch', 'numpy', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
