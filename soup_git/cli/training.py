"""Training: the pipeline, its config and data, and the proof of its result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, group, open_workspace, show_report
from soup_git.cli.options import AdapterOption, Format, FormatOption, JsonOption, OutputOption

data_app = group("data", "The training data, as training sees it.")
config_app = group("config", "The training config, soup.yaml.")


@app.command()
def train(
    again: Annotated[
        bool, typer.Option("--again", help="Train even when exactly this was trained before.")
    ] = False,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take the adapter that was trained from exactly this.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Give up an interrupted run instead of resuming it.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Run the pipeline of dvc.yaml (dvc repro), or offer the result that is there already."""
    from soup_git.commands import train as command

    if again and reuse:
        raise typer.BadParameter("--again and --reuse exclude each other")
    ask = sys.stdin.isatty() and sys.stderr.isatty()
    report, code = command.train(
        open_workspace(), again=again, reuse=reuse, restart=restart, ask=ask
    )
    if report is not None:
        show_report(report, form, as_json)
    return code


@app.command()
def plan(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Say what dvc repro would do, and why; exit 3 when something would run."""
    from soup_git.commands import plan as command

    report, code = command.plan(open_workspace())
    show_report(report, form, as_json)
    return code


@app.command()
def verify(
    revision: Annotated[str, typer.Argument(metavar="[REV]", show_default=False)] = "HEAD",
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="X",
            min=0,
            help="Accept relative differences of the update up to X, as GPUs need.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    no_note: Annotated[
        bool, typer.Option("--no-note", help="Write no note of the verdict on the commit.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Rebuild the adapter of REV from its lock, or its recipe, and compare digests."""
    from soup_git.commands import verify as command

    report, code = command.verify(
        open_workspace(), revision, tolerance, adapter, write_note=not no_note
    )
    show_report(report, form, as_json)
    return code


@data_app.command("show")
def datashow_report(
    row: Annotated[int, typer.Argument(metavar="[ROW]", min=1, show_default=False)] = 1,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="As tokens, with what is and is not in the loss.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Show a row of the training data (1 is the first), as training sees it."""
    from soup_git.commands import data as command

    workspace = open_workspace()
    report = command.tokens(workspace, row) if tokens else command.row(workspace, row)
    show_report(report, form, as_json)
    return 0


@config_app.command("check")
def config_check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Another config than soup.yaml.", show_default=False),
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Check soup.yaml without training: every error at once, with its line."""
    from soup_git.commands import config as command

    show_report(command.check(open_workspace(), file), form, as_json)
    return 0


@config_app.command("schema")
def config_schema(output: OutputOption = None) -> int:
    """Print the JSON Schema of soup.yaml, for editors."""
    from soup_git.commands import config as command
    from soup_git.render.report import write_text

    write_text(command.schema_text(), output)
    return 0


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where; a new folder.", show_default=True)
    ] = Path("demo"),
    base_only: Annotated[
        bool, typer.Option("--base-only", help="Only make the small base model, in DIR.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FOLDER", help="Use a base model that --base-only made."),
    ] = None,
) -> int:
    """Play the whole story in a throw-away repository: train, branch, drift, come back."""
    from soup_git.commands import demo as command

    if base_only:
        command.make_base(folder)
        return 0
    return command.play(folder, base)
