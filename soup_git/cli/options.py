"""Options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    table = "table"
    json = "json"


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
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", metavar="PATH", help="Which adapter, where a revision has several."),
]
