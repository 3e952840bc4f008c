"""A notebook's code cells as Python: what is IPython's and not Python's is taken out.

Source: https://ipython.readthedocs.io/en/stable/interactive/reference.html. Lines keep their
numbers. Only the beginning of a statement can be IPython's, so that a `%` or `!` inside of
brackets or of a text of several lines stays what it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

_PYTHON_CELLS = frozenset({"capture", "time", "timeit", "prun", "debug", "memit", "mprun", "wandb"})
"""Cell magics whose cell is Python all the same; of any other one it is something else."""

_ASSIGNED = re.compile(r"(\s*(?:[A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)\s*=\s*)[!%]")
_TIMED = re.compile(r"(\s*)%time\s+(\S.*)", re.DOTALL)
_AUTOMAGIC = re.compile(
    r"\s*(?:pip|conda|mamba|cd|ls|cat|cp|mv|rm|mkdir|env)\s+[-\w./~$](?!n\s|s\s|f\s|r\s)"
)
"""Commands that IPython runs without a % before them."""
_QUOTES = ('"""', "'''", '"', "'")
COMPUTED = "__ipython__()"
"""Stands where a name is assigned what a magic or the shell answers: a value that nobody knows."""


class NotANotebookError(ValueError):
    """The text is no notebook: one line that says why."""


def cells(text: str) -> Iterator[tuple[int, str]]:
    """The code cells of a notebook, from 1, as Python. Raises NotANotebookError."""
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotANotebookError(f"not a notebook: {' '.join(str(error).split())}") from None
    found = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(found, list):
        raise NotANotebookError("not a notebook: it has no cells")
    number = 0
    for cell in found:
        if not isinstance(cell, dict) or cell.get("cell_type") != "code":
            continue
        number += 1
        source = cell.get("source", "")
        lines = source if isinstance(source, list) else [source]
        yield number, python_of("".join(map(str, lines)))


def python_of(source: str) -> str:
    """A cell without magics, shell lines and questions; empty where a magic makes it no Python."""
    lines = source.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    if lines[first].startswith("%%"):
        name = lines[first][2:].split(maxsplit=1)
        if not name or name[0] not in _PYTHON_CELLS:
            return ""
        lines[first] = ""
    scan, kept, at = _Scan(), [], 0
    while at < len(lines):
        if not scan.between_statements:
            scan.read(lines[at])
            kept.append(lines[at])
            at += 1
            continue
        count = 1
        while _goes_on(lines[at : at + count]) and at + count < len(lines):
            count += 1
        python = _python_of_line("\n".join(lines[at : at + count]))
        if python is None:
            scan.read(lines[at])
            kept.append(lines[at])
            at += 1
        else:
            scan.read(python)
            kept += [python, *[""] * (count - 1)]
            at += count
    return "\n".join(kept)


def _goes_on(lines: list[str]) -> bool:
    """Does a line of IPython's go on in the next one?"""
    return lines[-1].rstrip().endswith("\\")


def _python_of_line(line: str) -> str | None:
    """What stands for a line of IPython's, None for one of Python's."""
    indent = line[: len(line) - len(line.lstrip())]
    if timed := _TIMED.fullmatch(line):
        return f"{timed[1]}{timed[2]}".replace("\\\n", " ")
    if line.lstrip().startswith(("%", "!", "?")) or _AUTOMAGIC.match(line):
        return f"{indent}pass"
    if assigned := _ASSIGNED.match(line):
        return f"{assigned[1]}{COMPUTED}"
    scan = _Scan()
    scan.read(line.split("\n", maxsplit=1)[0])
    return f"{indent}pass" if scan.code.rstrip().endswith("?") else None


class _Scan:
    """Reads Python line by line, as far as to know where a statement may begin."""

    def __init__(self) -> None:
        self._quote = ""
        self._depth = 0
        self._joined = False
        self.code = ""
        """The last line without its texts and comments."""

    @property
    def between_statements(self) -> bool:
        return not self._quote and self._depth <= 0 and not self._joined

    def read(self, line: str) -> None:
        kept, at = [], 0
        while at < len(line):
            if self._quote:
                at = self._in_text(line, at)
                continue
            letter = line[at]
            if letter == "#":
                break
            quote = next((q for q in _QUOTES if line.startswith(q, at)), "")
            if quote:
                self._quote = quote
                at += len(quote)
                continue
            self._depth += (letter in "([{") - (letter in ")]}")
            kept.append(letter)
            at += 1
        self.code = "".join(kept)
        self._joined = self.code.endswith("\\") or (len(self._quote) == 1 and line.endswith("\\"))
        if len(self._quote) == 1 and not self._joined:
            self._quote = ""  # such a text ends with its line

    def _in_text(self, line: str, at: int) -> int:
        if line[at] == "\\":
            return at + 2
        if line.startswith(self._quote, at):
            end = at + len(self._quote)
            self._quote = ""
            return end
        return at + 1
