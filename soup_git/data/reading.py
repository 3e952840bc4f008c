"""The rows of a file or a folder as they are written: JSON lines, a JSON list, or text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soup_git.data.rows import BadRowError, Row, in_short
from soup_git.errors import FatalError

_SUFFIXES = (".jsonl", ".json", ".txt")


def values(path: Path, shown: str) -> Iterator[tuple[str, int, Any]]:
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
        raise BadRowError(f"the key {in_short(twice)} is there twice")
    return row
