"""Where a training config comes from: a recipe for a named model, or another trainer's config."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, show_report
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
