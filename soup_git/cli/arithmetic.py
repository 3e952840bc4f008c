"""What is computed on updates: diff and merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import (
    AdapterOption,
    Format,
    FormatOption,
    JsonOption,
    OutputOption,
    Page,
    PageOption,
)
from soup_git.errors import ExitCode

# \b keeps click from filling a paragraph's lines together.
_MERGE_HELP = """\b
Which strategy? On 16 LLM benchmarks only the plain weighted sum helped reliably, and
subspace methods usually lost (arXiv 2511.21437); over some 1,000 hub LoRAs adaptive
merging gained little over training anew (arXiv 2602.12323). So linear is the default and
exact; the others are offered, and an eval should decide.

\b
Which space, for strategies that work entry by entry?
  shared   an orthonormal basis of the updates themselves: fast, and the same whatever
           basis the factors are in
  delta    the dense entries of the update, as the papers write it: minutes for an 8B
           model; the residual of going back to rank K is reported
  factors  A and B separately: PEFT's numbers, for those who need them

\b
Several weights are applied as given and default to 1/N each."""


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="An adapter spec.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    adapter: AdapterOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", metavar="N", min=1, help="Only the N modules that drifted most. [table: 20]"
        ),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit 1 when the two differ, as git diff.")
    ] = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Compare two adapters: how far each module's update moved, whatever the factors' basis."""
    from soup_git.commands import diff as command

    report = command.diff(open_workspace(), a, b, adapter)
    is_short = not as_json and form in {Page.table, Page.markdown}
    rows = top_k or (command.ROWS_IN_TABLE if is_short else None)
    show_report(report if rows is None else report.top(rows), form, as_json, output)
    return ExitCode.CHECK_FAILED if exit_code and report.differs else ExitCode.OK


@app.command(epilog=_MERGE_HELP)
def merge(
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="A B...", help="1 to 16 adapter specs.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="SPEC", help="One more adapter.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write the merged adapter to DIR."),
    ] = None,
    strategy: Annotated[
        str, typer.Option("-s", "--strategy", metavar="S", help="How to merge: --list names all.")
    ] = "linear",
    weights: Annotated[
        str | None,
        typer.Option("--weights", metavar="W,W...", help="One per adapter. [default: 1/N each]"),
    ] = None,
    expression: Annotated[
        str | None,
        typer.Option("--expr", metavar="EXPR", help="Weights as a sum: 'a + 0.5*b - c'."),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option("--density", metavar="D", help="The share of entries to keep. [default: 0.5]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of random masks. [default: 0]")
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            metavar="K|full",
            help="The result's rank. [default: full for linear, else the largest input rank]",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space",
            metavar="shared|delta|factors",
            help="Where entries are compared. [default: shared]",
        ),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Divide the weights by their sum.")
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="DIR", help="The base model's folder: DoRA and whole tensors need it."
        ),
    ] = None,
    allow_cross_base: Annotated[
        bool,
        typer.Option(
            "--allow-cross-base", help="Merge although the configs name different base models."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Replace an adapter that DIR holds.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="List the strategies with their papers.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Merge adapters into one, on their updates ΔW = s·B·A rather than on A and B."""
    from soup_git.commands import merge as command

    if list_:
        show_report(command.strategies(), form, as_json)
        return 0
    named = [*(specs or []), *(more or [])]
    if output is None:
        raise typer.BadParameter("-o DIR is needed: where to write the merged adapter")
    if not named:
        raise typer.BadParameter("name the adapters to merge")
    request = command.MergeRequest(
        named, output, strategy, weights, expression, density, seed, rank, space,
        normalize, allow_cross_base, base, force,
    )  # fmt: skip
    show_report(command.merge(open_workspace(), request), form, as_json)
    return 0
