"""The workspace itself: make it, track adapters in it, say how it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import AdapterOption, Format, FormatOption, JsonOption, OutputOption
from soup_git.core.templates import TEMPLATES

_WIDEST = max(map(len, TEMPLATES))
# Click keeps the lines of a paragraph that has a backspace above it.
_INIT = (
    "Make this repository a workspace; what is there already stays.\n\n\b\nTemplates:\n"
) + "\n".join(f"  {name + ':':{_WIDEST + 1}} {row.summary}" for name, row in TEMPLATES.items())


@app.command(help=_INIT)
def init(
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing; exit 1 when something is.")
    ] = False,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="TEMPLATE",
            help="Also write soup.yaml, dvc.yaml and a suite, for one of the templates above.",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="The template's base model.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="FILE", help="The template's dataset.")
    ] = None,
    add_stages: Annotated[
        bool,
        typer.Option(
            "--add-stages",
            help="Add the template's stages to a dvc.yaml that is there, after yours.",
        ),
    ] = False,
    commit_summary: Annotated[
        bool,
        typer.Option(
            "--commit-summary",
            help="Also let commit messages say what changed in adapters (soup.summary).",
        ),
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    from soup_git.commands import init as command

    chosen = None
    if template is not None:
        chosen = command.start(template, base, dataset)
    elif base is not None or dataset is not None or add_stages:
        raise typer.BadParameter("--base, --dataset and --add-stages go with a --template")
    report, code = command.init(
        Path.cwd(),
        check_only=check,
        template=chosen,
        add_stages=add_stages,
        commit_summary=commit_summary,
    )
    show_report(report, form, as_json)
    return code


@app.command()
def add(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Adapter folders.")],
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Track adapters: weights to the cache, manifest and pointer staged."""
    from soup_git.commands import add as command

    report = command.add(open_workspace(), folders)
    show_report(report, form, as_json)
    return 0


@app.command()
def show(
    spec: Annotated[
        str,
        typer.Argument(metavar="[SPEC]", help="A folder, a revision, REV:PATH, or run/ID[@STEP]."),
    ] = "HEAD",
    adapter: AdapterOption = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Show one adapter: config, base, rank, modules, size, digest, origin."""
    from soup_git.commands import show as command

    report = command.show(open_workspace(), spec, adapter)
    show_report(report, form, as_json, output)
    return 0


@app.command()
def status(
    short: Annotated[
        bool, typer.Option("-s", "--short", help="A letter and a path for each that is not clean.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Say what is clean, modified, missing or drifted: adapters, data, lock."""
    from soup_git.commands import status as command

    report = command.status(open_workspace())
    if short and not as_json and form is Format.table:
        sys.stdout.write(report.short())
        return 0
    show_report(report, form, as_json)
    return 0


@app.command()
def fsck(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """Check that every manifest, lock and object that a ref reaches agrees; exit 1 if not."""
    from soup_git.commands import fsck as command

    report, code = command.fsck(open_workspace())
    show_report(report, form, as_json)
    return code
