"""What a reviewer is shown."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace
from soup_git.cli.options import AdapterOption, JsonOption, OutputOption
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
) -> int:
    """Put a branch's adapters on one page to judge: scores, drift, samples, data, lineage."""
    from soup_git.commands import pr as command
    from soup_git.commands import prpage
    from soup_git.render.report import write_text

    workspace = open_workspace()
    request = command.PrRequest(title, base, head, adapter, deltas, samples, slug)
    found = command.pull_request(workspace, request)
    if not no_ref:
        prpage.store(workspace, found)
    if in_browser:
        prpage.show_in_browser(workspace, found)
    write_text(prpage.FORMATS["json" if as_json else form.value](found), output)
    return ExitCode.OK
