"""Where adapters come from: blame, log, tag; and what is kept of them: gc."""

from __future__ import annotations

from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import AdapterOption, JsonOption, OutputOption, Page, PageOption


@app.command()
def blame(
    spec: Annotated[
        str,
        typer.Argument(metavar="ADAPTER", help="A folder, a revision, REV:PATH, or run/ID[@STEP]."),
    ],
    adapter: AdapterOption = None,
    module: Annotated[
        str | None,
        typer.Option("--module", metavar="GLOB", help="Only modules like 'layers.*.mlp.*'."),
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Say for each module which commit last changed it, and how much it changed then."""
    from soup_git.commands import blame as command

    report = command.blame(open_workspace(), spec, adapter, module)
    show_report(report, form, as_json, output)
    return 0


@app.command()
def log(
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="[REV|ADAPTER]", help="Where to start, or one adapter.", show_default=False
        ),
    ] = None,
    graph: Annotated[
        bool, typer.Option("--graph", help="Draw how the versions descend from each other.")
    ] = False,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Start at every branch and tag.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("-n", "--max-count", metavar="N", min=0, help="At most N commits.")
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Show the history of adapters: trained, added, merged, pinned, and how they scored."""
    from soup_git.commands import log as command

    request = command.LogRequest(spec, everywhere, graph, limit)
    show_report(command.log(open_workspace(), request), form, as_json, output)
    return 0


@app.command()
def tag(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="The adapter's name; without, list all.", show_default=False
        ),
    ] = None,
    revision: Annotated[
        str, typer.Argument(metavar="[REV]", help="What to release; vN is NAME's own.")
    ] = "HEAD",
    what: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="vN|LABEL",
            help="A version, or a label to move. [default: next version]",
        ),
    ] = None,
    adapter: AdapterOption = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
) -> int:
    """Release a version of an adapter as tag NAME/vN, or move a label such as NAME/prod."""
    from soup_git.commands import tag as command

    if name is None:
        if what is not None or adapter is not None:
            raise typer.BadParameter("--as and --adapter need the NAME that they are for")
        show_report(command.tags(open_workspace()), form, as_json)
        return 0
    request = command.TagRequest(name, revision, what, adapter)
    show_report(command.tag(open_workspace(), request), form, as_json)
    return 0


@app.command()
def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how much: what it does by itself.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", "--force", help="Delete it.")] = False,
    grace: Annotated[
        str,
        typer.Option(
            "--older-than",
            metavar="TIME",
            help="Keep what is younger: now, 12h, 14d.",
            show_default=True,
        ),
    ] = "14d",
    shared: Annotated[
        bool,
        typer.Option(
            "--shared-cache", help="Also look into a cache that other repositories may use."
        ),
    ] = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
) -> int:
    """Find objects in the DVC cache that no ref, reflog, index or work tree names."""
    from soup_git.commands import gc as command

    if dry_run and prune:
        raise typer.BadParameter("--dry-run and --prune exclude each other")
    report = command.gc(open_workspace(), prune=prune, grace=grace, shared=shared)
    show_report(report, form, as_json)
    return 0
