"""Dataset formats: what a row looks like in each, and how it becomes what trainers read.

Rows are checked one by one, before torch is imported, and an error names file and line.
A converted row has one of three shapes: `messages` (a list of turns), `prompt_completion`
(two strings, or two lists of turns) or `text`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup_git.core.text import canonical_json
from soup_git.errors import FatalError

Row = dict[str, Any]
SHOWN = 10  # problems printed; all are counted

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
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


class BadRowError(ValueError):
    """A row does not fit its format: the sentence that says why."""


@dataclass(frozen=True)
class Format:
    """One format: the columns that reveal it, and the function that checks and converts."""

    name: str
    shape: str
    requires: frozenset[str]
    optional: frozenset[str]
    convert: Callable[[Row], Row]
    example: str


@dataclass(frozen=True)
class DataRow:
    """One row of a dataset: converted, with its place and the digest of what was written."""

    file: str
    line: int
    digest: str
    values: Row


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


# ---- conversions ----------------------------------------------------------------------------


def _text(value: Any, what: str, *, may_be_empty: bool = False) -> str:
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


def _turns(value: Any, what: str) -> list[Row]:
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
        raise BadRowError(f"{where} has role {_shown(role)}, not one of {', '.join(ROLES)}")
    unknown = sorted(set(turn) - TURN_KEYS)
    if unknown:
        raise BadRowError(f"{where} has the key {unknown[0]!r}, which nothing would read")
    calls = turn.get("tool_calls")
    if calls is not None and (role != "assistant" or not isinstance(calls, list)):
        raise BadRowError(f"{where}.tool_calls should be a list, in an assistant's turn")
    if not (calls and turn.get("content") is None):
        _text(turn.get("content"), f"{where}.content", may_be_empty=bool(calls))
    for key in ("name", "tool_call_id", "reasoning_content", "thinking"):
        if turn.get(key) is not None:
            _text(turn[key], f"{where}.{key}", may_be_empty=True)


def _conversation(turns: list[Row], what: str) -> list[Row]:
    if not any(turn["role"] == "assistant" for turn in turns):
        raise BadRowError(f"{what} has no assistant turn, so there is nothing to learn")
    if turns[-1]["role"] != "assistant":
        raise BadRowError(f"{what} ends with a {turns[-1]['role']} turn, not the assistant's")
    return turns


def _with_tools(row: Row, converted: Row) -> Row:
    tools = row.get("tools")
    if tools is None:
        return converted
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRowError("tools should be a list of objects")
    return converted | {"tools": tools}


def _messages(row: Row) -> Row:
    turns = _conversation(_turns(row["messages"], "messages"), "messages")
    return _with_tools(row, {"messages": turns})


def _sharegpt(row: Row) -> Row:
    conversations = row["conversations"]
    if not isinstance(conversations, list):
        raise BadRowError("conversations should be a list of turns")
    turns = []
    for i, turn in enumerate(conversations):
        where = f"conversations[{i}]"
        if not isinstance(turn, dict) or set(turn) != {"from", "value"}:
            raise BadRowError(f"{where} should be an object with from and value, and no more")
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise BadRowError(f"{where} is from {_shown(speaker)}, not one of {known}")
        content = _text(turn["value"], f"{where}.value")
        turns.append({"role": SHAREGPT_ROLES[speaker], "content": content})
    turns = _conversation(_turns(turns, "conversations"), "conversations")
    return _with_tools(row, {"messages": turns})


def _alpaca(row: Row) -> Row:
    instruction = _text(row["instruction"], "instruction")
    given = row.get("input")
    extra = "" if given is None else _text(given, "input", may_be_empty=True)
    answer = _text(row["output"], "output")
    turns = [
        {"role": "user", "content": f"{instruction}\n{extra}" if extra.strip() else instruction},
        {"role": "assistant", "content": answer},
    ]
    if row.get("system") is not None:
        turns.insert(0, {"role": "system", "content": _text(row["system"], "system")})
    return {"messages": turns}


def _prompt_completion(row: Row) -> Row:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) != isinstance(completion, list):
        raise BadRowError("prompt and completion should both be text, or both lists of turns")
    if isinstance(prompt, list):
        turns = _conversation(_turns(prompt + completion, "prompt + completion"), "completion")
        if not prompt or not completion or completion[0]["role"] != "assistant":
            raise BadRowError("completion should start with the assistant's turn")
        return _with_tools(row, {"prompt": turns[: len(prompt)], "completion": completion})
    return {"prompt": _text(prompt, "prompt"), "completion": _text(completion, "completion")}


def _plaintext(row: Row) -> Row:
    return {"text": _text(row["text"], "text")}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else text[:39] + "…"


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "messages",
            "messages",
            frozenset({"messages"}),
            frozenset({"tools"}),
            _messages,
            '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}',
        ),
        Format(
            "sharegpt",
            "messages",
            frozenset({"conversations"}),
            frozenset({"tools"}),
            _sharegpt,
            '{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}',
        ),
        Format(
            "alpaca",
            "messages",
            frozenset({"instruction", "output"}),
            frozenset({"input", "system"}),
            _alpaca,
            '{"instruction": "…", "input": "…", "output": "…"}',
        ),
        Format(
            "prompt_completion",
            "prompt_completion",
            frozenset({"prompt", "completion"}),
            frozenset({"tools"}),
            _prompt_completion,
            '{"prompt": "…", "completion": "…"}',
        ),
        Format(
            "plaintext",
            "text",
            frozenset({"text"}),
            frozenset(),
            _plaintext,
            '{"text": "…"}, or the lines of a .txt file',
        ),
    )
}
ALIASES = {"chatml": "messages", "openai": "messages", "text": "plaintext"}


# ---- reading --------------------------------------------------------------------------------


@dataclass
class _Problems:
    found: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, file: str, line: int, what: str) -> None:
        self.count += 1
        if len(self.found) < SHOWN:
            self.found.append(f"{file}:{line}: {what}")

    def error(self, shown: str, total: int) -> FatalError:
        more = f"\n… and {self.count - SHOWN} more" if self.count > SHOWN else ""
        rows = "1 row does" if self.count == 1 else f"{self.count} rows do"
        return FatalError(
            f"{shown}: {rows} not fit, of {total}\n" + "\n".join(self.found) + more,
            hint="correct or remove these rows; nothing was trained",
        )


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
    problems = _Problems()
    raw, total = _objects(path, shown, max_rows, problems)
    if not total:
        raise FatalError(f"{shown} has no rows", hint=f"head {shown}")
    if not raw:
        raise problems.error(shown, total)
    first_file, first_line, first = raw[0]
    if format_name == "auto":
        found = _detect(first, f"{first_file}:{first_line}")
    else:
        found = FORMATS[ALIASES.get(format_name, format_name)]
    if found.shape not in shapes:
        raise FatalError(
            f"{shown} holds {found.name} rows, which this task does not read",
            hint=f"the formats it reads: {', '.join(formats_of(shapes))}",
        )
    rows = []
    for file, line, value in raw:
        try:
            rows.append(DataRow(file, line, row_digest(value), _converted(found, value)))
        except BadRowError as error:
            problems.add(file, line, str(error))
    if problems.count:
        raise problems.error(shown, total)
    columns = {column for _, _, value in raw for column in value}
    unread = tuple(sorted(columns - found.requires - found.optional))
    return Dataset(found, format_name == "auto", tuple(rows), unread)


def _objects(
    path: Path, shown: str, limit: int | None, problems: _Problems
) -> tuple[list[tuple[str, int, Row]], int]:
    """The rows that are objects, and how many there are in all."""
    rows: list[tuple[str, int, Row]] = []
    total = 0
    for file, line, value in _values(path, shown):
        if total == limit:
            break
        total += 1
        if isinstance(value, BadRowError):
            problems.add(file, line, str(value))
        elif isinstance(value, dict):
            rows.append((file, line, value))
        else:
            problems.add(file, line, f"a row should be an object, this is {_shown(value)}")
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


def _detect(row: Row, where: str) -> Format:
    fits = [f for f in FORMATS.values() if f.requires <= set(row)]
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


def row_digest(row: Row) -> str:
    """SHA-256, as hex, of the row's canonical JSON: the same whatever the order of its keys."""
    return hashlib.sha256(canonical_json(row).encode("utf-8", "surrogatepass")).hexdigest()


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


_SUFFIXES = (".jsonl", ".json", ".txt")


def _values(path: Path, shown: str) -> Iterator[tuple[str, int, Any]]:
    """File, line and value of each row; a BadRowError as value where one cannot be read."""
    if not path.exists():
        raise FatalError(
            f"{shown} does not exist",
            hint=f"git soup checkout, or dvc pull {shown}, if DVC tracks it",
        )
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES and f.is_file())
        if not files:
            kinds = ", ".join(_SUFFIXES)
            raise FatalError(f"{shown} is a folder without {kinds} files", hint=f"ls {shown}")
        for file in files:
            yield from _file_values(file, f"{shown}/{file.relative_to(path).as_posix()}")
    else:
        yield from _file_values(path, shown)


def _file_values(path: Path, shown: str) -> Iterator[tuple[str, int, Any]]:
    if path.suffix not in _SUFFIXES:
        raise FatalError(
            f"{shown}: files of rows end in {', '.join(_SUFFIXES)}",
            hint="export the dataset as JSON lines",
        )
    if path.suffix == ".json":
        yield from _json_array(path, shown)
        return
    with path.open("rb") as file:
        # By bytes: str.splitlines would also break at U+2028, which JSON allows in a string.
        for line, data in enumerate(file, 1):
            try:
                text = data.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield shown, line, BadRowError("not UTF-8")
                continue
            if not text.strip():
                continue
            yield shown, line, {"text": text} if path.suffix == ".txt" else _json(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        return BadRowError(f"not JSON: {error.msg} (column {error.colno})")
    except BadRowError as error:
        return error
    except RecursionError:
        return BadRowError("not JSON that a row can be: nested too deeply")


def _json_array(path: Path, shown: str) -> Iterator[tuple[str, int, Any]]:
    """The items of a JSON list with the line each starts on; after an error, no more."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield shown, error.object[: error.start].count(b"\n") + 1, BadRowError("not UTF-8")
        return
    decoder = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    at = _skip(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        yield shown, 1, BadRowError("a .json file holds a list of rows: [ {…}, {…} ]")
        return
    at, line, counted = _skip(text, at + 1), 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield shown, error.lineno, BadRowError(f"not JSON: {error.msg} (column {error.colno})")
            return
        except (BadRowError, RecursionError) as error:
            yield shown, line, BadRowError(str(error))
            return
        yield shown, line, value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            line = text.count("\n", 0, at) + 1
            yield shown, line, BadRowError("not JSON: the list of rows breaks off")
            return
    if _skip(text, at + 1) < len(text):
        yield shown, text.count("\n", 0, at) + 1, BadRowError("not JSON: text after the list")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _no_constant(name: str) -> Any:
    raise BadRowError(f"{name} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRowError(f"the key {_shown(twice)} is there twice")
    return row
