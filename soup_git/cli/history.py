"""Where adapters come from: blame, log, tag; and what is kept of them: gc."""

from __future__ import annotations

from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import AdapterOption, JsonOption, OutputOption, Page, PageOption


@app.command()
def blame(
    spec: Annotated[
        str,
        typer.Argument(metavar="ADAPTER", help="A folder, a revision, REV:PATH, or run/ID[@STEP]."),
    ],
    adapter: AdapterOption = None,
    module: Annotated[
        str | None,
        typer.Option("--module", metavar="GLOB", help="Only modules like 'layers.*.mlp.*'."),
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Say for each module which commit last changed it, and how much it changed then."""
    from soup_git.commands import blame as command

    report = command.blame(open_workspace(), spec, adapter, module)
    show_report(report, form, as_json, output)
    return 0
