"""What travels between clones."""

from __future__ import annotations

from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import Format, FormatOption, JsonOption

RemoteArgument = Annotated[
    str | None, typer.Argument(metavar="[REMOTE]", help="The remote. [default: as git chooses]")
]


@app.command()
def push(
    remote: RemoteArgument = None,
    every_branch: Annotated[
        bool, typer.Option("--all", help="Push every branch, not only the current one.")
    ] = False,
    recheck: Annotated[
        bool,
        typer.Option(
            "--recheck", help="Ask the DVC remote about every object anew, as after dvc gc --cloud."
        ),
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Send weights and data to the DVC remote, then branch, runs, locks and notes in one push."""
    from soup_git.commands import push as command

    report, code = command.push(
        open_workspace(), remote, every_branch=every_branch, recheck=recheck
    )
    show_report(report, form, as_json)
    return code


@app.command()
def pull(
    remote: RemoteArgument = None,
    every_object: Annotated[
        bool, typer.Option("--all", help="Also fetch the objects of every branch and run.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Bring in a remote's commits, runs, locks and notes, and the data and weights of HEAD."""
    from soup_git.commands import pull as command

    report, code = command.pull(open_workspace(), remote, every_object=every_object)
    show_report(report, form, as_json)
    return code
