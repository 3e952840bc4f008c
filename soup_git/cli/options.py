"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    table = "table"
    json = "json"


class BaseAs(StrEnum):
    """How a base is loaded for an adapter: core/baseload.py has the words."""

    trained = "trained"
    full = "full"
    four = "4bit"
    eight = "8bit"


class Page(StrEnum):
    """The formats of a report that people read in a browser or a pull request."""

    table = "table"
    json = "json"
    markdown = "markdown"
    html = "html"


FormatOption = Annotated[
    Format, typer.Option("--format", help="How to write the report.", show_default=True)
]
PageOption = Annotated[
    Page, typer.Option("--format", help="How to write the report.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "-o", "--output", metavar="FILE", help="Write the report to FILE, whole or not at all."
    ),
]
BaseAsOption = Annotated[
    BaseAs | None,
    typer.Option(
        "--base-as",
        help="Load the base as each adapter was trained on it, or for all in full, or in few bits."
        "  [default: trained]",
        show_default=False,
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="PATH", help="Which adapter, where a revision has several."),
]


def base_as_of(option: BaseAs | None) -> str:
    """What was asked for, or the default."""
    return (option or BaseAs.trained).value
