"""The local web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, show_report
from soup_git.cli.options import Format, FormatOption, JsonOption

_UI_HELP = """\b
Prints the address with its key on stdout, and opens it in your browser. The pages are
read-only, served to this machine alone, and show the reports of branches, status, log, diff,
training runs, evaluations and pull requests; every page is JSON, too. Ctrl-C ends it."""


@app.command(epilog=_UI_HELP)
def ui(
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes one that is free."),
    ] = 0,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print the address.")] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Look at branches, lineage, runs and diffs in a browser, on a local web page."""
    from soup_git.ui.serve import serve

    serve(Path.cwd(), port, opens=not no_open, show=lambda r: show_report(r, form, as_json))
    return 0
