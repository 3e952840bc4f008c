"""Where a training config comes from: a recipe for a named model, or another trainer's config."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, group, show_report
from soup_git.cli.options import Format, FormatOption, JsonOption


class Trainer(StrEnum):
    """Trainers whose configs `migrate` reads."""

    soup = "soup"
    axolotl = "axolotl"
    llamafactory = "llamafactory"
    unsloth = "unsloth"


ConfigOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Where to write it; default: soup.yaml."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a soup.yaml that is there.")]


@app.command()
def migrate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The other trainer's config.")],
    trainer: Annotated[Trainer, typer.Option("--from", help="Whose config it is.")],
    output: ConfigOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Write soup.yaml from another trainer's config, and list what has no counterpart.

    Exit 1 when something that changes training was not carried over. A script or notebook of
    Unsloth is read for its literal arguments, and never run.
    """
    from soup_git.commands import migrate as command

    report, code = command.migrate(trainer.value, file, output, force=force)
    show_report(report, form, as_json)
    return code


recipes_app = group("recipes", "Settings for named models, each with its source.")


@recipes_app.command("list")
def recipes_list(form: FormatOption = Format.table, as_json: JsonOption = False) -> int:
    """List the recipes: model, task, size, licence."""
    from soup_git.commands import recipes as command

    show_report(command.listed(), form, as_json)
    return 0


@recipes_app.command("search")
def recipes_search(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Words of name, model, licence or note."),
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="TASK", help="Only recipes of this task.")
    ] = None,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """List the recipes that have every word; exit 1 when none has."""
    from soup_git.commands import recipes as command

    report, code = command.search(words or [], task)
    show_report(report, form, as_json)
    return code


@recipes_app.command("show")
def recipes_show(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="Which recipe.")],
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Print a recipe as the soup.yaml that it is, with where its values are from."""
    from soup_git.commands import recipes as command

    show_report(command.show(name), form, as_json)
    return 0


@recipes_app.command("use")
def recipes_use(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="Which recipe.")],
    output: ConfigOption = None,
    force: ForceOption = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Write a recipe's soup.yaml."""
    from soup_git.commands import recipes as command

    show_report(command.use(name, output, force=force), form, as_json)
    return 0
