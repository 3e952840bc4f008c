"""Dataset formats: what a row looks like in each, and how it becomes what trainers read.

Rows are checked one by one, before torch is imported, and an error names file and line.
What a converted row looks like is its shape: `messages` (a list of turns), `prompt_completion`
(two strings, or two lists of turns), `text`, and those of preferences.py and labels.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from soup_git.data import conversations, labels, preferences, reading
from soup_git.data.rows import BadRowError, DataRow, Problems, Row, in_short, row_digest
from soup_git.errors import FatalError


@dataclass(frozen=True)
class Format:
    """One format: the columns that reveal it, and the function that checks and converts."""

    name: str
    shape: str
    requires: frozenset[str]
    optional: frozenset[str]
    convert: Callable[[Row], Row]
    example: str
    open: bool = False
    """Is every other column read, too (by a reward function)?"""


@dataclass(frozen=True)
class Dataset:
    """The rows of a file or folder, all of one format."""

    format: Format
    detected: bool
    rows: tuple[DataRow, ...]
    unread: tuple[str, ...]  # columns that no part of training reads

    @property
    def shape(self) -> str:
        return self.format.shape

    @property
    def conversational(self) -> bool:
        """Is any row made of turns, which a chat template renders?"""
        return any(
            isinstance(value, list) and isinstance(value[0], dict)
            for row in self.rows
            for value in row.values.values()
            if value
        )


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "messages",
            "messages",
            frozenset({"messages"}),
            frozenset({"tools"}),
            conversations.messages,
            '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}',
        ),
        Format(
            "sharegpt",
            "messages",
            frozenset({"conversations"}),
            frozenset({"tools"}),
            conversations.sharegpt,
            '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}',
        ),
        Format(
            "alpaca",
            "messages",
            frozenset({"instruction", "output"}),
            frozenset({"input", "system"}),
            conversations.alpaca,
            '{"instruction": "…", "input": "…", "output": "…"}',
        ),
        Format(
            "prompt_completion",
            "prompt_completion",
            frozenset({"prompt", "completion"}),
            frozenset({"tools"}),
            conversations.prompt_completion,
            '{"prompt": "…", "completion": "…"}',
        ),
        Format(
            "plaintext",
            "text",
            frozenset({"text"}),
            frozenset(),
            conversations.plaintext,
            '{"text": "…"}, or the lines of a .txt file',
        ),
        Format(
            "dpo",
            "pairs",
            frozenset({"chosen", "rejected"}),
            frozenset({"prompt", "tools"}),
            preferences.pair,
            '{"prompt": "…", "chosen": "…", "rejected": "…"}',
        ),
        Format(
            "kto",
            "judged",
            frozenset({"prompt", "completion", "label"}),
            frozenset({"tools"}),
            preferences.judged,
            '{"prompt": "…", "completion": "…", "label": true}',
        ),
        Format(
            "prm",
            "steps",
            frozenset({"prompt", "completions", "labels"}),
            frozenset(),
            preferences.steps,
            '{"prompt": "…", "completions": ["…", "…"], "labels": [true, false]}',
        ),
        Format(
            "prompt",
            "prompt",
            frozenset({"prompt"}),
            frozenset({"tools"}),
            preferences.question,
            '{"prompt": "…", "answer": "…"}',
            open=True,
        ),
        Format(
            "classification",
            "labelled",
            frozenset({"text", "label"}),
            frozenset(),
            labels.labelled,
            '{"text": "…", "label": "spam"}',
        ),
        Format(
            "text_pair",
            "text_pair",
            frozenset({"text", "text_pair", "label"}),
            frozenset(),
            labels.text_pair,
            '{"text": "…", "text_pair": "…", "label": 1}',
        ),
        Format(
            "query_document",
            "text_pair",
            frozenset({"query", "document", "label"}),
            frozenset(),
            labels.query_document,
            '{"query": "…", "document": "…", "label": 1}',
        ),
        Format(
            "ranking",
            "ranked",
            frozenset({"query", "positive", "negatives"}),
            frozenset(),
            labels.ranked,
            '{"query": "…", "positive": "…", "negatives": ["…"]}',
        ),
        Format(
            "embedding",
            "related",
            frozenset({"anchor", "positive"}),
            frozenset({"negative"}),
            labels.related,
            '{"anchor": "…", "positive": "…", "negative": "…"}',
        ),
    )
}
ALIASES = {
    "chatml": "messages",
    "openai": "messages",
    "text": "plaintext",
    "preference": "dpo",
    "tool-calling": "messages",
}


def load_dataset(
    path: Path,
    *,
    name: str | None = None,
    format_name: str = "auto",
    shapes: tuple[str, ...] = ("messages", "prompt_completion", "text"),
    max_rows: int | None = None,
) -> Dataset:
    """Read, check and convert every row of a file, or of a folder's files in sorted order.

    `name` is what messages call the path (as the user wrote it). `shapes` are those the
    task takes. Raises FatalError with the count of bad rows and the first ten of them; also
    for a dataset that is missing, empty, or of a format that cannot be told.
    """
    shown = name or str(path)
    problems = Problems()
    raw, total = _objects(path, shown, max_rows, problems)
    if not total:
        raise FatalError(f"{shown} has no rows", hint=f"head {shown}")
    if not raw:
        problems.raise_if_any(shown, total)
    first_file, first_line, first = raw[0]
    if format_name == "auto":
        found = _detect(first, f"{first_file}:{first_line}")
    else:
        found = FORMATS[ALIASES.get(format_name, format_name)]
    if found.shape not in shapes:
        raise FatalError(
            f"{shown} holds {found.name} rows, which this task does not read",
            hint=f"the formats it reads: {', '.join(formats_of(shapes))}; data.format in "
            "soup.yaml says how to read rows that have the columns of one of them",
        )
    rows = []
    for file, line, value in raw:
        try:
            rows.append(DataRow(file, line, row_digest(value), _converted(found, value)))
        except BadRowError as error:
            problems.add(file, line, str(error))
    problems.raise_if_any(shown, total)
    columns = {column for _, _, value in raw for column in value}
    unread = () if found.open else tuple(sorted(columns - found.requires - found.optional))
    return Dataset(found, format_name == "auto", tuple(rows), unread)


def _objects(
    path: Path, shown: str, limit: int | None, problems: Problems
) -> tuple[list[tuple[str, int, Row]], int]:
    """The rows that are objects, and how many there are in all."""
    rows: list[tuple[str, int, Row]] = []
    total = 0
    for file, line, value in reading.values(path, shown):
        if total == limit:
            break
        total += 1
        if isinstance(value, BadRowError):
            problems.add(file, line, str(value))
        elif isinstance(value, dict):
            rows.append((file, line, value))
        else:
            problems.add(file, line, f"a row should be an object, this is {in_short(value)}")
    return rows, total


def _converted(wanted: Format, row: Row) -> Row:
    missing = sorted(wanted.requires - set(row))
    if missing:
        has = ", ".join(sorted(row)) or "nothing"
        raise BadRowError(f"{wanted.name} rows have {missing[0]}, this one has {has}")
    return wanted.convert(row)


def formats_of(shapes: tuple[str, ...]) -> list[str]:
    """Names of the formats that convert to one of these shapes."""
    return [f.name for f in FORMATS.values() if f.shape in shapes]


def fitting(row: Row) -> list[Format]:
    """The formats whose columns `row` has, without those that another reads more than all of."""
    fits = [f for f in FORMATS.values() if f.requires <= set(row)]
    read = {f.name: (f.requires | f.optional) & set(row) for f in fits}
    return [f for f in fits if not any(read[f.name] < columns for columns in read.values())]


def _detect(row: Row, where: str) -> Format:
    fits = fitting(row)
    if len(fits) == 1:
        return fits[0]
    columns = ", ".join(sorted(map(str, row))) or "no columns"
    if not fits:
        raise FatalError(
            f"{where}: no format has the columns of this row: {columns}",
            hint="formats: " + "; ".join(f"{f.name} {f.example}" for f in FORMATS.values()),
        )
    raise FatalError(
        f"{where}: this row ({columns}) can be read as {' or '.join(f.name for f in fits)}",
        hint=f"say which in soup.yaml: data.format: {fits[0].name}",
    )


def split(rows: tuple[DataRow, ...], share: float) -> tuple[list[DataRow], list[DataRow]]:
    """Training and validation rows. Only a row's own digest decides on which side it is.

    So adding, removing or moving rows leaves all others where they were, and equal rows
    never end on both sides.
    """
    train: list[DataRow] = []
    held_out: list[DataRow] = []
    for row in rows:
        (held_out if int(row.digest[:16], 16) < share * 2**64 else train).append(row)
    return train, held_out
