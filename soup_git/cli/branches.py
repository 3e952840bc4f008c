"""Branches that pin, and the way back to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import Format, FormatOption, JsonOption
from soup_git.errors import FatalError


@app.command()
def branch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]",
            help="The branch; with -m, OLD NEW; without, list all.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="The training config to pin. [default: soup.yaml]",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "--base-model",
            metavar="MODEL",
            help="The base model. [default: the config's]",
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            metavar="FILE",
            help="The dataset to pin. [default: the config's data.train]",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="REV", help="The revision to build on.")
    ] = "HEAD",
    switch: Annotated[
        bool, typer.Option("--switch", help="Check the branch out afterwards.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "-f", "--force", help="Move a branch that exists; its reflog keeps the old tip."
        ),
    ] = False,
    delete: Annotated[
        bool, typer.Option("-d", "--delete", help="Delete NAME, as git does.")
    ] = False,
    move: Annotated[
        bool, typer.Option("-m", "--move", help="Rename OLD to NEW, as git does.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Make a branch that pins config, dataset, base and environment; without NAME, list them."""
    from soup_git.commands import branch as command
    from soup_git.commands import checkout as checkout_command

    pins = {"-c": config, "--base": base, "--dataset": dataset, "--switch": switch}
    unfit = [flag for flag, value in pins.items() if value]
    if delete and move:
        raise typer.BadParameter("-d and -m do not go together")
    if not names and not (delete or move or unfit):
        return branches(form, as_json)
    names = names or []
    _expect_names(names, 2 if move else 1)
    if (delete or move) and unfit:
        raise typer.BadParameter(f"{unfit[0]} means nothing with {'-d' if delete else '-m'}")
    workspace = open_workspace()
    if delete:
        command.delete(workspace, names[0], force=force)
        return 0
    if move:
        command.rename(workspace, names[0], names[1], force=force)
        return 0
    report = command.create(
        workspace,
        names[0],
        config=config,
        base_model=base,
        dataset=dataset,
        start=start,
        force=force,
    )
    show_report(report, form, as_json)
    if switch:
        checkout_command.checkout(open_workspace(), names[0], force=False)
    return 0


def _expect_names(names: list[str], count: int) -> None:
    if len(names) != count:
        raise typer.BadParameter(
            f"expected {count} name{'s' if count > 1 else ''}, got {len(names)}"
        )


@app.command()
def branches(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """List the branches that pin something, and whether each still holds."""
    from soup_git.commands import branches as command

    show_report(command.branches(open_workspace()), form, as_json)
    return 0


@app.command()
def checkout(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Only write the locked config to FILE."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "-f", "--force", help="Take a branch that drifted as it is; give up local changes."
        ),
    ] = False,
) -> int:
    """Switch to a branch and bring back its config, data and adapters, or say what drifted.

    Without NAME, repair the work tree to what HEAD names.
    """
    from soup_git.commands import checkout as command

    workspace = open_workspace()
    if name is None:
        if output is not None:
            raise FatalError("-o needs a branch to take the config from", hint="git soup branches")
        command.repair(workspace, force=force)
    elif output is not None:
        command.write_config(workspace, name, output, force=force)
    else:
        command.checkout(workspace, name, force=force)
    return 0
