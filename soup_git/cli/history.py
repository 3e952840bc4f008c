"""Where adapters come from: blame, log, tag; and what is kept of them: gc."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import (
    AdapterOption,
    BaseAsOption,
    JsonOption,
    OutputOption,
    Page,
    PageOption,
    base_as_of,
)

_BLAME_HELP = """\b
Without --dataset: who. For each module the commit that last changed it, and how much it
changed then.

\b
With --dataset EVAL: what it does. Each module (or layer) is taken out in turn, and the loss
on EVAL's answers is measured again; with --against SPEC it is put back to SPEC's instead.
Rows are those of suites ({"prompt", "expected"}) or of training datasets. A budget that does
not pay for all ranks them by gradients first, and each row says whether it is exact."""


class Per(StrEnum):
    module = "module"
    layer = "layer"


@app.command(epilog=_BLAME_HELP)
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
    dataset: Annotated[
        Path | None,
        typer.Option("--dataset", metavar="EVAL", help="Measure on these rows, on the real model."),
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layer", metavar="GLOB", help="Only layers like 'layers.3' or their modules."
        ),
    ] = None,
    per: Annotated[
        Per | None, typer.Option("--per", help="What is taken out at once.  [default: module]")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="60s to 24h.  [default: 5m]"),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            "--shards",
            metavar="N",
            min=1,
            max=4096,
            help="Parts of the rows, of at least 30 s each.  [default: 4]",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SPEC", help="Put modules back to this adapter's."),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Time a few passes, say what fits; measure nothing.")
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="The base model, instead of the adapter's."),
    ] = None,
    base_as: BaseAsOption = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Rows a pass.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Of the CPU.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N",
            min=1,
            max=256,
            help="Models that measure at once, here.  [default: 1]",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Measure on a Dask cluster's workers."),
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Say which commit last changed each module; with --dataset, what each does to the loss."""
    if dataset is None:
        given = {
            "--layer": layers, "--per": per, "--budget": budget, "--shards": shards,
            "--against": against, "--plan-only": plan_only, "--base": base,
            "--base-as": base_as,
            "--batch-size": batch_size, "--threads": threads,
            "--jobs": jobs, "--scheduler": scheduler,
        }  # fmt: skip
        for option, value in given.items():
            if value:
                raise typer.BadParameter(f"{option} goes with --dataset EVAL: rows to measure on")
        from soup_git.commands import blame as command

        report = command.blame(open_workspace(), spec, adapter, module)
        show_report(report, form, as_json, output)
        return 0
    if jobs is not None and scheduler is not None:
        raise typer.BadParameter("--jobs is of this machine; a --scheduler has its own workers")
    from soup_git.commands import ablation

    request = ablation.AblationRequest(
        spec, dataset, [*(layers or []), *([module] if module else [])], per or Per.module,
        budget or "5m", shards or 4, against, base, batch_size, threads, adapter,
        jobs or 1, scheduler, base_as_of(base_as),
    )  # fmt: skip
    if plan_only:
        show_report(ablation.plan(open_workspace(), request), form, as_json, output)
        return 0
    measured = ablation.ablate(open_workspace(), request)
    is_short = not as_json and form in {Page.table, Page.markdown}
    show_report(ablation.short(measured) if is_short else measured, form, as_json, output)
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
    oneline: Annotated[
        bool, typer.Option("--oneline", help="A line a commit, without a head.")
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

    request = command.LogRequest(spec, everywhere, graph, limit, oneline)
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
    sign: Annotated[
        bool | None,
        typer.Option(
            "-s/ ",
            "--sign/--no-sign",
            help="Sign the version, or do not. [default: as git is configured]",
        ),
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
) -> int:
    """Release a version of an adapter as tag NAME/vN, or move a label such as NAME/prod."""
    from soup_git.commands import tag as command

    if name is None:
        if what is not None or adapter is not None or sign is not None:
            raise typer.BadParameter("--as, --adapter and --sign need the NAME that they are for")
        show_report(command.tags(open_workspace()), form, as_json)
        return 0
    request = command.TagRequest(name, revision, what, adapter, sign)
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
