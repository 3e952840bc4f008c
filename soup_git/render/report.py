"""What a command returns, and the one place that prints it.

A report is a frozen dataclass: its fields are the JSON, its `tables()` what a person
reads. stdout gets the report and nothing else, the same bytes whatever the terminal.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from soup_git.core.text import printable, with_odd_bytes
from soup_git.storage.files import write_atomically


@dataclass(frozen=True)
class Table:
    """Rows under a header. A column whose header ends in `>` is set flush right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    before: str = ""
    after: str = ""


class Data(Protocol):
    """A frozen dataclass whose fields are its JSON."""

    schema: ClassVar[str]


class Report(Data, Protocol):
    def tables(self) -> Sequence[Table | str]: ...


def as_json(report: Data) -> str:
    """One JSON object: the report's fields, sorted, with its schema; no number that is not finite."""
    fields = {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}  # type: ignore[arg-type]
    body = {"schema": report.schema, **_plain(fields)}
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return with_odd_bytes(text) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_table(report: Report) -> str:
    return "".join(
        printable(part) + "\n" if isinstance(part, str) else table_text(part)
        for part in report.tables()
    )


def table_text(table: Table) -> str:
    """Columns as wide as their widest cell, two spaces apart; no trailing spaces."""
    header = [name.removesuffix(">") for name in table.header]
    rows = [[printable(cell) for cell in row] for row in table.rows]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    right = [name.endswith(">") for name in table.header]
    lines = [printable(table.before)] if table.before else []
    for row in [header, *rows] if any(header) else rows:
        cells = (
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        )
        lines.append("  ".join(cells).rstrip())
    if table.after:
        lines.append(printable(table.after))
    return "".join(line + "\n" for line in lines)


def _as_markdown(report: Report) -> str:
    from soup_git.render.markdown import as_markdown

    return as_markdown(report)


def _as_html(report: Report) -> str:
    from soup_git.render.html import as_html

    return as_html(report)


FORMATS = {"table": as_table, "json": as_json, "markdown": _as_markdown, "html": _as_html}


def show(report: Report, form: str = "table", output: Path | None = None) -> None:
    """Print the report, or write it to a file that replaces the old one whole."""
    write_text(FORMATS[form](report), output)


def write_text(text: str, output: Path | None = None) -> None:
    if output is None:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    else:
        write_atomically(output, text.encode("utf-8", "backslashreplace"))


def say(text: str) -> None:
    """Talk: one line on stderr, safe to show."""
    print(printable(text, keep_newlines=True), file=sys.stderr)


def age(seconds: float) -> str:
    """A duration as a person says it: `3 minutes`, `5 days`."""
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("week", 604_800),
                         ("day", 86_400), ("hour", 3600), ("minute", 60)):  # fmt: skip
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "now"


def size(count: float) -> str:
    """A number of bytes as a person says it, in powers of 1000 as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
