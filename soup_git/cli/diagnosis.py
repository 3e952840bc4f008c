"""Diagnosis: this machine and clone, a config before it trains, a run after it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import AdapterOption, Format, FormatOption, JsonOption


@app.command()
def doctor(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Check this machine, installation and clone, with a fix for each row; exit 1 on a problem."""
    from soup_git.commands import doctor as command

    report, code = command.doctor(Path.cwd())
    show_report(report, form, as_json)
    return code


@app.command()
def profile(
    config: Annotated[
        Path | None,
        typer.Option(
            "-c", "--config", metavar="FILE", help="Instead of the workspace's soup.yaml."
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", min=1, max=1000, help="Steps to measure.")
    ] = 10,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Measure a few real steps of soup.yaml: time, memory, disk; exit 1 when it does not fit.

    The steps run as a training does, in a process of their own and into a scratch folder:
    nothing in the workspace changes. git soup plan then knows what a training will take.
    """
    from soup_git.commands import profile as command

    report, code = command.profile(open_workspace(), config, steps)
    if report is not None:
        show_report(report, form, as_json)
    return code


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
