"""The rows of a file or a folder as they are written: JSON lines, a JSON list, or text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from soup_git.data.rows import BadRowError, Row, in_short
from soup_git.errors import FatalError
from soup_git.storage.pointers import refuse_pointer

SUFFIXES = (".jsonl", ".json", ".txt")
_MARK = b"\xef\xbb\xbf"  # some editors put it before the first line


def values(path: Path, shown: str) -> Iterator[tuple[str, int, Any]]:
    """File, line and value of each row; a BadRowError as value where one cannot be read."""
    if not path.exists():
        raise FatalError(
            f"{shown} does not exist",
            hint=f"git soup checkout, or dvc pull {shown}, if DVC tracks it",
        )
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in SUFFIXES and f.is_file())
        if not files:
            kinds = ", ".join(SUFFIXES)
            raise FatalError(f"{shown} is a folder without {kinds} files", hint=f"ls {shown}")
        for file in files:
            yield from _file_values(file, f"{shown}/{file.relative_to(path).as_posix()}")
    else:
        yield from _file_values(path, shown)


def _file_values(path: Path, shown: str) -> Iterator[tuple[str, int, Any]]:
    require_suffix(path.suffix, shown)
    refuse_pointer(path, shown, may_be_page=path.suffix == ".txt")
    with path.open("rb") as file:
        for line, raw, value in written_rows(file, path.suffix):
            yield shown, line, value_of(raw, path.suffix) if value is None else value


def require_suffix(suffix: str, shown: str) -> None:
    """Raises `FatalError` for a file that is none of rows."""
    if suffix not in SUFFIXES:
        raise FatalError(
            f"{shown}: files of rows end in {', '.join(SUFFIXES)}",
            hint="export the dataset as JSON lines",
        )


def written_rows(file: BinaryIO, suffix: str) -> Iterator[tuple[int, bytes, Any]]:
    """Line and bytes of each row, and its value where finding the bytes took reading it.

    Lines (`.jsonl`, `.txt`) stream and have None as value; a `.json` list is read whole.
    """
    if suffix == ".json":
        yield from _json_array(file.read())
        return
    # By bytes: str.splitlines would also break at U+2028, which JSON allows in a string.
    for line, data in enumerate(file, 1):
        raw = data.rstrip(b"\r\n")
        if line == 1:
            raw = raw.removeprefix(_MARK)
        # Most rows begin with a letter that is no blank in any alphabet: spare them the call.
        if raw and (0x20 < raw[0] < 0x7F or raw.decode("utf-8", "replace").strip()):
            yield line, raw, None


def value_of(raw: bytes, suffix: str) -> Any:
    """The value that a row's bytes are; a BadRowError where they are none."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return BadRowError("not UTF-8")
    return {"text": text} if suffix == ".txt" else _json(text)


def _json(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return BadRowError(f"not JSON: {error.msg} (column {error.colno})")
    except (RecursionError, ValueError) as error:
        return _unreadable(error)


def _json_array(data: bytes) -> Iterator[tuple[int, bytes, Any]]:
    """The items of a JSON list with the line each starts on; after an error, no more."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield data[: error.start].count(b"\n") + 1, data, BadRowError("not UTF-8")
        return
    at = _skip(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        yield 1, data, BadRowError("a .json file holds a list of rows: [ {…}, {…} ]")
        return
    at, line, counted = _skip(text, at + 1), 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            what = f"not JSON: {error.msg} (column {error.colno})"
            yield error.lineno, text[at:].encode(), BadRowError(what)
            return
        except (RecursionError, ValueError) as error:
            yield line, text[at:].encode(), _unreadable(error)
            return
        yield line, text[at:end].encode(), value
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            line = text.count("\n", 0, at) + 1
            yield line, text[at:].encode(), BadRowError("not JSON: the list of rows breaks off")
            return
    if _skip(text, at + 1) < len(text):
        line = text.count("\n", 0, at) + 1
        yield line, text[at:].encode(), BadRowError("not JSON: text after the list")


def _unreadable(error: RecursionError | ValueError) -> BadRowError:
    if isinstance(error, BadRowError):
        return error
    if isinstance(error, RecursionError):
        return BadRowError("not JSON that a row can be: nested too deeply")
    return BadRowError("not JSON that a row can be: a number of thousands of digits")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _no_constant(name: str) -> Any:
    raise BadRowError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise BadRowError(f"{in_short(digits)} is too large for a number")
    return number


def _no_duplicates(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRowError(f"the key {in_short(twice)} is there twice")
    return row


_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
)
