"""Sweeps: a grid of trainings as DVC experiments."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import typer.core

from soup_git.cli.app import app, open_workspace, show_report
from soup_git.cli.options import (
    Format,
    FormatOption,
    JsonOption,
    OutputOption,
    Page,
    PageOption,
)


class _RunsByDefault(typer.core.TyperGroup):
    """`git soup sweep --param …` is `git soup sweep run --param …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in {"-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


sweep_app = typer.Typer(
    help="Train a grid of configs as DVC experiments, compare them, make a branch of one.",
    rich_markup_mode=None,
    cls=_RunsByDefault,
)
app.add_typer(sweep_app, name="sweep")


@sweep_app.command("run")
def sweep_run(
    params: Annotated[
        list[str],
        typer.Option(
            "--param",
            metavar="KEY=V1,V2",
            help="A key of soup.yaml and its values, as in training.lr=1e-5,2e-5; several"
            " make a grid.",
        ),
    ],
    jobs: Annotated[
        int,
        typer.Option(
            "-j",
            "--jobs",
            metavar="N",
            min=1,
            max=64,
            help="Experiments at once.",
            show_default=True,
        ),
    ] = 1,
    queue_only: Annotated[
        bool, typer.Option("--queue-only", help="Queue them and do not start any.")
    ] = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Queue an experiment for each combination, and run the queue. "run" may be left out.

    Every combination is checked before any is queued. What is done or waits already is not
    queued again, so the same command goes on after an interruption. Exit 1 when one failed.
    """  # fmt: skip
    from soup_git.commands import sweep as command

    report, code = command.sweep(open_workspace(), params, jobs=jobs, queue_only=queue_only)
    show_report(report, form, as_json, output)
    return code


@sweep_app.command("show")
def sweep_show(
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="NAME", help="By this metric or parameter.")
    ] = None,
    descending: Annotated[
        bool, typer.Option("--descending", help="With --sort: the largest first.")
    ] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="Show this metric instead of those that differ; may be repeated.",
        ),
    ] = None,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """List the experiments with parameters and metrics; as html with parallel coordinates."""
    from soup_git.commands import sweepshow as command

    report = command.show(open_workspace(), metrics=metrics or (), sort=sort, descending=descending)
    show_report(report, form, as_json, output)
    return 0


@sweep_app.command("promote")
def sweep_promote(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="Its name, or how it starts.")
    ],
    branch: Annotated[str, typer.Option("--branch", metavar="NAME", help="The branch to make.")],
    force: Annotated[
        bool, typer.Option("--force", help="Move a branch that exists; its reflog keeps the tip.")
    ] = False,
    form: FormatOption = Format.table,
    as_json: JsonOption = False,
) -> int:
    """Make a branch of an experiment: its config, its adapter, and a lock that holds."""
    from soup_git.commands import sweeppromote as command

    report = command.promote(open_workspace(), experiment, branch, force=force)
    show_report(report, form, as_json)
    return 0


@sweep_app.command("stop")
def sweep_stop(
    kill: Annotated[
        bool, typer.Option("--kill", help="End what runs now, too; it will count as failed.")
    ] = False,
) -> int:
    """Stop after the experiments that run now; what waits stays queued."""
    from soup_git.commands import sweep as command

    command.stop(open_workspace(), kill=kill)
    return 0


@sweep_app.command("clear")
def sweep_clear(
    done: Annotated[
        bool, typer.Option("--done", help="Delete the results of sweeps, too; branches stay.")
    ] = False,
) -> int:
    """Forget the experiments that wait and those that failed."""
    from soup_git.commands import sweep as command

    command.clear(open_workspace(), done=done)
    return 0
