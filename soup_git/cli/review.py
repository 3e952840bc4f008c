"""What a reviewer is shown."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import AdapterOption, Format, JsonOption, OutputOption
from soup_git.errors import ExitCode


class PullRequestFormat(StrEnum):
    markdown = "markdown"
    json = "json"
    html = "html"


@app.command()
def pr(
    title: Annotated[
        str | None,
        typer.Argument(
            metavar="[TITLE]", help="[default: the head commit's subject]", show_default=False
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "--base-sha",
            metavar="REV",
            help="What it is to be merged into. [default: origin/HEAD, main or master]",
        ),
    ] = None,
    head: Annotated[
        str, typer.Option("--head", metavar="REV", help="What is to be merged.")
    ] = "HEAD",
    adapter: AdapterOption = None,
    deltas: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="FILE",
            help="Metrics from eval_delta.json, not from the notes of the two revisions.",
        ),
    ] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="Outputs from sample_diffs.json, or from git soup compare --json.",
        ),
    ] = None,
    slug: Annotated[
        str | None,
        typer.Option(
            "--slug",
            metavar="NAME",
            help="The page's name in refs/soup/prs. [default: from TITLE, else from the branch]",
        ),
    ] = None,
    no_ref: Annotated[
        bool, typer.Option("--no-ref", help="Show the page only; keep it nowhere.")
    ] = False,
    form: Annotated[
        PullRequestFormat, typer.Option("--format", help="How to write the page.")
    ] = PullRequestFormat.markdown,
    as_json: JsonOption = False,
    output: OutputOption = None,
    in_browser: Annotated[
        bool, typer.Option("--open", help="Also show it as html in a browser.")
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--push",
            help="Push the branch, all it names and the page; post it as one comment on GitHub.",
        ),
    ] = False,
    remote: Annotated[
        str | None,
        typer.Option(
            "--remote",
            metavar="REMOTE",
            help="Where to, with --push. [default: as git chooses]",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Put a branch's adapters on one page to judge: scores, drift, samples, data, lineage."""
    from soup_git.commands import pr as command
    from soup_git.commands import prpage
    from soup_git.render.report import write_text

    if publish and no_ref:
        raise typer.BadParameter("--push sends the ref that --no-ref does not write")
    if remote is not None and not publish:
        raise typer.BadParameter("--remote says where --push goes")
    workspace = open_workspace()
    to = None
    if publish:
        from soup_git.commands import prpush

        to = prpush.destination(workspace, head, remote)
    found = command.pull_request(
        workspace, command.PrRequest(title, base, head, adapter, deltas, samples, slug)
    )
    kept = "" if no_ref else prpage.store(workspace, found)
    if in_browser:
        prpage.show_in_browser(workspace, found)
    if to is None or output is not None:
        write_text(prpage.FORMATS["json" if as_json else form.value](found), output)
    if to is not None:
        show_report(prpush.publish(workspace, found, kept, to, base=base), Format.table, as_json)
    return ExitCode.OK
