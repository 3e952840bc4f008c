"""Datasets compared row by row: every format, and every way a file can be broken."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from soup_git.core.rowdiff import DatasetDiff
from soup_git.data.rowdiff import compare
from soup_git.storage.datasets import NOWHERE, DataFile, DataSource

ASK = '{"prompt": "%s", "completion": "%s"}'


def source(path: Path) -> DataSource:
    files = sorted(p for p in path.iterdir()) if path.is_dir() else [path]
    return DataSource(
        path.name,
        "work tree",
        tuple(DataFile(file.name, partial(file.open, "rb"), "") for file in files),
    )


@pytest.fixture
def diff(tmp_path: Path):
    """`diff(old, new, suffix=…)`: two texts or bytes, each written to a file of its own."""

    def run(old: str | bytes, new: str | bytes, *suffixes: str, samples: int = 3) -> DatasetDiff:
        before, after = suffixes or (".jsonl", ".jsonl")
        with ExitStack():
            paths = [tmp_path / f"old{before}", tmp_path / f"new{after}"]
            for path, text in zip(paths, (old, new), strict=True):
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
            return compare("train", source(paths[0]), source(paths[1]), samples)

    return run


def counts(found: DatasetDiff) -> tuple[int, int, int, int]:
    """Added, removed, changed, unchanged; that they add up is checked on the way."""
    assert found.a.rows == found.unchanged + found.changed + found.removed
    assert found.b.rows == found.unchanged + found.changed + found.added
    return found.added, found.removed, found.changed, found.unchanged


def test_every_kind_of_change_is_told_apart(diff):
    rows = [ASK % (name, name * 2) for name in "abcdef"]
    new = [rows[1], rows[0], rows[2], ASK % ("d", "other"), rows[4], rows[4], ASK % ("n", "n")]
    found = diff("\n".join(rows), "\n".join(new) + "\n")
    assert counts(found) == (2, 1, 1, 4)
    assert (found.moved, found.duplicated, found.b.repeated, found.a.repeated) == (1, 1, 1, 0)
    assert [row.place for row in found.added_rows] == ["new.jsonl:6", "new.jsonl:7"]
    assert [row.text for row in found.removed_rows] == [rows[5]]
    (changed,) = found.changed_rows
    assert (changed.place_a, changed.place_b) == ("old.jsonl:4", "new.jsonl:4")
    assert (changed.by, changed.key) == ("prompt", "d")
    assert [(c.key, c.old, c.new) for c in changed.fields] == [("completion", "dd", "other")]


@pytest.mark.parametrize(
    ("old", "new", "by", "field"),
    [
        ('{"id": 7, "text": "x"}', '{"id": 7, "text": "y"}', "id", "text"),
        (
            '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "1"}]}',
            '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "2"}]}',
            "prompt",
            "messages[1].content",
        ),
        (
            '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "1"}]}',
            '{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "2"}]}',
            "prompt",
            "conversations[1].value",
        ),
        (
            '{"instruction": "do", "input": "it", "output": "1"}',
            '{"instruction": "do", "input": "it", "output": "2"}',
            "prompt",
            "output",
        ),
        (
            '{"prompt": [{"role": "user", "content": "q"}], "chosen": "1"}',
            '{"prompt": [{"role": "user", "content": "q"}], "chosen": "2"}',
            "prompt",
            "chosen",
        ),
    ],
)
def test_a_row_is_known_by_its_id_or_by_what_is_asked(diff, old, new, by, field):
    found = diff(old, new)
    assert counts(found) == (0, 0, 1, 0)
    assert found.changed_rows[0].by == by
    assert [change.key for change in found.changed_rows[0].fields] == [field]


def test_spelling_is_no_change(diff):
    rows = [{"prompt": name, "completion": "é"} for name in "abc"]
    lines = "".join(json.dumps(row) + "\r\n" for row in rows)
    turned = [dict(reversed(row.items())) for row in rows]
    for new, suffix in (
        (
            "\ufeff" + "\n\n \u00a0\n".join(json.dumps(r, ensure_ascii=False) for r in turned),
            ".jsonl",
        ),
        (json.dumps(rows, indent=2), ".json"),
    ):
        found = diff(lines, new, ".jsonl", suffix)
        assert counts(found) == (0, 0, 0, 3)
        assert found.rewritten == 3
        assert not found.differs
    assert counts(diff("a\nb\n", '{"text": "b"}\n{"text": "a"}\n', ".txt", ".jsonl")) == (
        0,
        0,
        0,
        2,
    )
    assert counts(diff('{"text": "a"}\n', '{"text": "a"}\n', ".txt", ".jsonl")) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b'{"a": 1, "a": 2}', "there twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "a row should be an object"),
        (b"null", "a row should be an object, this is null"),
        (b"<<<<<<< HEAD", "not JSON"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value.replace(" ", "-"),
)
def test_a_broken_line_is_counted_and_named(diff, line, why):
    good = (ASK % ("a", "b")).encode()
    found = diff(good, good + b"\n" + line + b"\n")
    assert counts(found) == (1, 0, 0, 1)
    assert (found.a.unreadable, found.b.unreadable) == (0, 1)
    (row,) = found.b.unreadable_rows
    assert row.place == "new.jsonl:2"
    assert why in row.problem
    assert found.added_rows == found.b.unreadable_rows
    assert counts(diff(line, line)) == (0, 0, 0, 1)


def test_a_json_list_that_breaks_off_is_read_as_far_as_it_goes(diff):
    row = ASK % ("a", "b")
    found = diff(f"[{row}, {row}]", f"[{row},\n {row},\n {{", ".json", ".json")
    assert counts(found) == (1, 0, 0, 2)
    assert found.b.unreadable_rows[0].place.startswith("new.json:3")
    assert counts(diff(f"[{row}]", b"\xff", ".json", ".json")) == (1, 1, 0, 0)
    assert counts(diff(f"[{row}]", "", ".json", ".json")) == (0, 1, 0, 0)


def test_what_is_shown_is_short_and_cannot_act(diff):
    evil = '{"prompt": "\\u001b[31m\u202e<b>|`", "completion": "%s"}' % ("x" * 3_000_000)
    found = diff("", evil + "\n" + '{"text": "\x9b\r"}'.replace("\r", "\\r"))
    assert counts(found) == (2, 0, 0, 0)
    for row in found.added_rows:
        assert row.text.isprintable()
        assert len(row.text) < 400
    changed = diff(evil, evil.replace("xx", "y", 1)).changed_rows[0]
    assert all(len(change.new or "") < 400 for change in changed.fields)
    assert changed.key.isprintable()


def test_folders_and_files_are_compared_by_their_rows(tmp_path):
    one, two = tmp_path / "rows.jsonl", tmp_path / "folder"
    one.write_text("".join(ASK % (name, "x") + "\n" for name in "abc"))
    two.mkdir()
    (two / "1.jsonl").write_text(ASK % ("a", "x"))
    (two / "2.json").write_text(f"[{ASK % ('c', 'x')}]")
    found = compare("dataset", source(one), source(two), 0)
    assert counts(found) == (0, 1, 0, 2)
    assert found.removed_rows == []
    empty = compare("train", NOWHERE, source(one), 1)
    assert counts(empty) == (3, 0, 0, 0)
    assert empty.a.path is None
