"""A report as GitHub's Markdown: the same rows as the table, nothing in them active."""

from __future__ import annotations

import re
from collections.abc import Sequence

from soup_git.core.excerpt import excerpt
from soup_git.core.text import printable
from soup_git.render.report import Report, Table

_JOINER = "&#8288;"
"""An invisible word joiner."""
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
    if character in "()-+:":
        return character
    # A forge looks for `@name` and `#123` where entities have become characters again.
    return f"&#{ord(character)};{_JOINER if character in '@#' else ''}"


# -- text that nobody vouches for ---------------------------------------------------------------

_PIPES = re.compile(r"(\\*)\|")
_TICKS = re.compile(r"`+")


def code(text: str, most: int = 120) -> str:
    """One line of untrusted text as a code span; never a mention, a reference, a link or a picture.

    A forge looks for `@name` and `#123` in the finished page, where an entity has become
    the character again; it does not look into code. At most `most` characters are shown.
    """
    shown = excerpt(text, most)
    if not shown.strip():
        return "(empty)" if not shown else "(spaces)"
    fence = "`" * (1 + max((len(run) for run in _TICKS.findall(shown)), default=0))
    gap = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{gap}{shown}{gap}{fence}"


def code_in_table(text: str, most: int = 120) -> str:
    """As `code`, for a cell: a pipe ends a cell in code too, unless it is escaped."""
    return _PIPES.sub(lambda found: f"{found[1] * 2}\\|", code(text, most))


def fenced(text: str, kind: str = "text") -> str:
    """Untrusted text of any number of lines as a code block that it cannot end."""
    shown = printable(text, keep_newlines=True).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in _TICKS.findall(shown)), default=0))
    return f"{fence}{kind}\n{shown}\n{fence}\n"


def table_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table of cells that are Markdown already; `>` ends the header of a right column."""
    return "".join(
        f"{line}\n"
        for line in (
            f"| {' | '.join(name.removesuffix('>') for name in header)} |",
            "|" + "|".join("--:" if name.endswith(">") else "---" for name in header) + "|",
            *(f"| {' | '.join(row)} |" for row in rows),
        )
    )
