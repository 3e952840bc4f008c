"""What is computed on updates: diff and merge."""

from __future__ import annotations

from collections.abc import Mapping
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
Several weights are applied as given and default to 1/N each.

\b
Heads for other numbers of classes and embeddings of other vocabularies have no sum:
--without 'score' leaves a module out, --keep './six:score' takes that of one adapter.

\b
cmaes searches for the weights that score best on a suite: each adapter alone and the uniform
blend first, then CMA-ES; the result is never worse on the suite than the best of those.

\b
Without -o the arguments are revisions, and the result is a merge commit into the current
branch with all of them as parents, as git merge makes it. A module that one side changed
is taken from that side, byte for byte; what several changed is combined from the merge
base: base + Σ w·(side − base), linear with w = 1/N unless --strategy and --weights, or
git config soup.merge.strategy and soup.merge.weights, say otherwise. Of all strategies on
adapters that were really trained, the mean lost least of what each side and the base knew
(docs/explanation/merging.md has the table). The rank stays the one that adapter_config.json says: what it cannot
hold of the result is lost, and said. With --rank grow (git config soup.merge.rank) it becomes
what holds all, in adapter_config.json too."""


_DIFF_HELP = """\b
With --data, A and B are revisions (or files and folders of the work tree), and their datasets
are compared row by row: data.train and data.validation as soup.lock and soup.yaml name them.
Rows are equal when their JSON is, whatever the order of keys. A row is "changed" when it keeps
its id or its prompt while the rest differs. Without B, A is compared with the work tree."""


@app.command(epilog=_DIFF_HELP)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="An adapter spec; a revision.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="Another one; with --data the work tree if left out."),
    ] = None,
    adapter: AdapterOption = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", metavar="N", min=1, help="Only the N modules that drifted most. [table: 20]"
        ),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Compare the datasets instead, row by row.")
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="PATH", help="--data: this dataset, in A and in B."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            metavar="N",
            min=0,
            max=1000,
            help="--data: rows shown of a kind. [default: 3]",
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
    if data:
        _refuse("with --data", {"--adapter": adapter, "--top-k": top_k})
        from soup_git.commands import datadiff

        shown = datadiff.SAMPLES if samples is None else samples
        rows = datadiff.data_diff(open_workspace(), a, b, dataset=dataset, samples=shown)
        show_report(rows, form, as_json, output)
        return ExitCode.CHECK_FAILED if exit_code and rows.differs else ExitCode.OK
    _refuse("without --data", {"--dataset": dataset, "--samples": samples is not None})
    if b is None:
        raise typer.BadParameter("name two adapters: git soup diff A B")
    from soup_git.commands import diff as command

    report = command.diff(open_workspace(), a, b, adapter)
    is_short = not as_json and form in {Page.table, Page.markdown}
    longest = top_k or (command.ROWS_IN_TABLE if is_short else None)
    show_report(report if longest is None else report.top(longest), form, as_json, output)
    return ExitCode.CHECK_FAILED if exit_code and report.differs else ExitCode.OK


@app.command(epilog=_MERGE_HELP)
def merge(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="A B...", help="1 to 16 adapter specs; without -o, revisions to merge."
        ),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--adapter", metavar="SPEC", help="One more adapter.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write the merged adapter to DIR."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "-s",
            "--strategy",
            metavar="S",
            help="How to merge: --list names all. [default: linear]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="W,W...",
            help="One per adapter. [default: 1/N each]",
        ),
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
        int | None,
        typer.Option("--seed", metavar="N", help="Of random masks and of cmaes. [default: 0]"),
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            metavar="K|full|keep|grow",
            help="With -o the result's rank, or full. [default: full for linear, else the largest input"
            " rank] Without -o: keep the sides' rank, or grow it where it cannot hold the result. [default: keep]",
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
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without", metavar="GLOB", help="Leave modules out; as often as there are some."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="A:GLOB",
            help="Take modules from A as they are; A is its spec, or a, b, … as they are named.",
        ),
    ] = None,
    allow_cross_base: Annotated[
        bool,
        typer.Option(
            "--allow-cross-base", help="Merge although the configs name different base models."
        ),
    ] = False,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="SUITE",
            help="Score inputs and result, and give a verdict; what cmaes searches by.",
        ),
    ] = None,
    allow_python: Annotated[
        bool, typer.Option("--allow-python", help="Let the suite run scorers of the workspace.")
    ] = False,
    base_as: BaseAsOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="B", help="cmaes: search no longer, 60s to 24h. [default: 10m]"
        ),
    ] = None,
    population: Annotated[
        int | None,
        typer.Option(
            "--population",
            metavar="P",
            min=2,
            max=256,
            help="cmaes: candidates of a generation. [default: 8, or 4 + 3 ln n]",
        ),
    ] = None,
    max_generations: Annotated[
        int | None,
        typer.Option(
            "--max-generations",
            metavar="G",
            min=1,
            max=10_000,
            help="cmaes: generations at most. [default: 100]",
        ),
    ] = None,
    param: Annotated[
        str | None,
        typer.Option(
            "--param",
            metavar="softmax|raw",
            help="cmaes: weights that add up to 1, or free ones. [default: softmax]",
        ),
    ] = None,
    per_group: Annotated[
        str | None,
        typer.Option(
            "--per-group",
            metavar="blocks|thirds",
            help="cmaes: weights for attention and MLP, or for each third of the layers.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="TASK.SCORE",
            help="cmaes: what to search by. [default: the mean of every task's first score]",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, max=256, help="cmaes: models loaded at once. [default: 1]"
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="cmaes: score on a Dask cluster."),
    ] = None,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Replace an adapter that DIR holds.")
    ] = False,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze", help="Without -o: freeze the DVC stage, so that dvc repro keeps the merge."
        ),
    ] = False,
    no_commit: Annotated[
        bool, typer.Option("--no-commit", help="Without -o: merge, and leave the commit to you.")
    ] = False,
    message: Annotated[
        str | None,
        typer.Option("-m", "--message", metavar="MSG", help="Without -o: of the merge commit."),
    ] = None,
    sign: Annotated[
        bool | None,
        typer.Option(
            "-S/ ",
            "--gpg-sign/--no-gpg-sign",
            help="Without -o: sign the merge commit, or do not. [default: as git is configured]",
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list", help="List the strategies with their papers.")
    ] = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
) -> int:
    """Merge adapters into DIR on their updates ΔW = s·B·A, or revisions in a merge commit."""
    from soup_git.commands import merge as command
    from soup_git.commands.evolve import SearchRequest

    if list_:
        show_report(command.strategies(), form, as_json)
        return 0
    named = [*(specs or []), *(more or [])]
    if allow_python and suite is None:
        raise typer.BadParameter("--allow-python is for the suite of --eval")
    if base_as is not None and suite is None:
        raise typer.BadParameter("--base-as is how the suite of --eval asks")
    if not named:
        raise typer.BadParameter("name the adapters to merge, or without -o the revisions")
    searching = SearchRequest(
        budget, population, max_generations, param, per_group, metric, jobs, scheduler
    )
    if output is None:
        _refuse("without -o DIR", {
            "--adapter": more, "--expr": expression, "--space": space,
            "--normalize": normalize, "--base": base, "--allow-cross-base": allow_cross_base,
            "--without": without, "--keep": keep, "--force": force, "--eval": suite, "--base-as": base_as, "--json": as_json or form is not Page.table,
            **dict.fromkeys(searching.given(), True),
        })  # fmt: skip
        from soup_git.commands import mergecommit

        if rank not in {None, "keep", "grow"}:
            raise typer.BadParameter("--rank K is for -o DIR; without it --rank keep or grow")
        asked = mergecommit.MergeCommitRequest(
            named,
            strategy,
            weights,
            density,
            seed,
            freeze,
            not no_commit,
            message,
            sign,
            rank,
        )
        return mergecommit.merge_commit(open_workspace(), asked)
    _refuse("with -o DIR", {
        "--freeze": freeze, "--no-commit": no_commit, "-m": message,
        "--gpg-sign": sign, "--no-gpg-sign": sign is False,
    })  # fmt: skip
    request = command.MergeRequest(
        named, output, strategy or "linear", weights, expression, density, seed, rank, space,
        normalize, allow_cross_base, base, force, without or (), keep or (), suite, allow_python,
        base_as_of(base_as), searching,
    )  # fmt: skip
    show_report(command.merge(open_workspace(), request), form, as_json)
    return 0


def _refuse(when: str, options: Mapping[str, object]) -> None:
    unfit = [name for name, value in options.items() if value]
    if unfit:
        raise typer.BadParameter(f"{unfit[0]} means nothing {when}")
