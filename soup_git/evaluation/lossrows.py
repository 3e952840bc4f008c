"""Rows to measure a loss on: those of a suite (`prompt`, `expected`), or of a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from soup_git.data import formats
from soup_git.data.rows import BadRowError, DataRow, Problems, Row
from soup_git.errors import FatalError
from soup_git.evaluation.rows import EvalRow, read_rows
from soup_git.evaluation.scorers import check_loss, dataset_row


def load_rows(path: Path, shown: str) -> Sequence[DataRow | EvalRow]:
    """Every row, checked, before a model is loaded.

    Raises FatalError with the count of rows that do not fit and the first ten of them.
    """
    if not _has_expected(path):
        return formats.load_dataset(path, name=shown).rows
    problems = Problems("evaluated")
    rows, _ = read_rows(path, shown, None, problems)
    for row in rows:
        try:
            check_loss(row)
        except BadRowError as error:
            problems.add(row.file, row.line, str(error))
    problems.raise_if_any(shown)
    return rows


def as_data(row: DataRow | EvalRow, *, chat: bool) -> DataRow:
    """The row as training reads it; with `chat` a prompt of text is what a user says."""
    if isinstance(row, DataRow):
        return row
    prompt, expected = row.prompt, row.expected
    if prompt is None or expected is None:
        values = dataset_row(row)
    elif isinstance(prompt, str) and not chat:
        values = {"prompt": prompt, "completion": expected}
    else:
        turns: list[Row] = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        )
        values = {"messages": [*turns, {"role": "assistant", "content": expected}]}
    return DataRow(row.file, row.line, "", values)


def _has_expected(path: Path) -> bool:
    """Whether the first row is a suite's; a file that cannot be read is the other reader's error."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        row = json.loads(first.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "expected" in row


def refuse_nothing_to_predict(counts: Sequence[int], shown: str) -> None:
    """Raises FatalError when no row has a token in the loss."""
    if not any(counts):
        raise FatalError(
            f"{shown}: no token of its {len(counts)} rows is in the loss",
            hint="git soup data show --tokens shows what is; the rows need answers",
        )
