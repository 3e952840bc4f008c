"""Diagnosis: this machine and clone, a config before it trains, a run after it has."""

from __future__ import annotations

from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import AdapterOption, Format, FormatOption, JsonOption


@app.command()
def why(
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="run/ID[@STEP], or an adapter: a folder, a revision, REV:PATH.",
            show_default=False,
        ),
    ] = None,
    adapter: AdapterOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Say what is wrong with a training run, and what to change; exit 1 on a problem.

    Without RUN: a training of soup.yaml that stopped, else the newest run, else the curves of
    the work tree. Findings are problems (exit 1) or warnings, the heaviest first.
    """
    from soup_git.commands import why as command

    report, code = command.why(open_workspace(), spec, adapter)
    show_report(report, form, as_json)
    return code
