"""A report as GitHub's Markdown: the same rows as the table, nothing in them active."""

from __future__ import annotations

import re

from soup_git.core.text import printable
from soup_git.render.report import Report, Table

# What Markdown or the HTML inside it would act on, mentions and bare links included.
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>()#+\-!|~&@:$])")


def as_markdown(report: Report) -> str:
    return "\n".join(
        f"{escaped(part)}\n" if isinstance(part, str) else _table(part) for part in report.tables()
    )


def _table(table: Table) -> str:
    """A pipe table; a column whose header ends in `>` is set flush right."""
    lines = [escaped(table.before), ""] if table.before else []
    lines += [
        _row([name.removesuffix(">") for name in table.header]),
        "|" + "|".join("--:" if name.endswith(">") else "---" for name in table.header) + "|",
        *(_row(row) for row in table.rows),
    ]
    if table.after:
        lines += ["", escaped(table.after)]
    return "".join(f"{line}\n" for line in lines)


def _row(cells: object) -> str:
    return "| " + " | ".join(escaped(str(cell)) for cell in cells) + " |"  # type: ignore[attr-defined]


def escaped(text: str) -> str:
    """`text` as Markdown shows it letter for letter: one line, nothing active."""
    return _ACTIVE.sub(_entity, printable(text))


def _entity(found: re.Match[str]) -> str:
    # An entity is text to every Markdown reader; a backslash is not, inside a table cell.
    character = found[1]
    return character if character in "()-+:" else f"&#{ord(character)};"
