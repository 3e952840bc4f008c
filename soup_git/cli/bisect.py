"""Finding what broke: bisect, over checkpoints and inside git's own bisection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from soup_git.storage.workspace import Workspace

_HELP = """\b
Forms:
  git soup bisect C1 C2... --eval-command "..."    adapters, in order
  git soup bisect GOOD..BAD --eval-command "..."   commits that changed the adapter
  git soup bisect run/ID --eval-command "..."      the checkpoints of a training run
  git soup bisect run/ID --metric TASK.SCORE --drop 0.02 --suite suite.yaml
                                                   by a score: no process per probe
  git soup bisect log                              what was asked and told so far
  git soup bisect replay FILE                      judge by a log; runs nothing
  git soup bisect reset                            forget the search

\b
The command's exit code is the verdict: 0 good, 1 to 124 bad, 125 skip; 126 and above, a
signal, or a command that cannot be started end the search with 128. No shell runs it;
{ckpt} becomes a folder that holds the adapter, and SOUP_CKPT names it, too. A command that
fails alike at both ends, with exit code 2 or one Python error, is asked about (128).

\b
Exit: 0 ALL_OK, 3 BROKEN_AT, 125 UNRESOLVED. A search that was ended goes on when the same
is typed again. To follow merges: git bisect run git soup bisect-step."""

CommandOption = Annotated[
    str | None,
    typer.Option(
        "--eval-command",
        metavar="COMMAND",
        help="Judges the adapter in the folder {ckpt}: exit 0 good, 1-124 bad, 125 skip.",
    ),
]
TimeoutOption = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        help="End a probe after 90s, 5m, ...; its checkpoint is skipped.",
    ),
]
_WORDS = ("log", "replay", "reset")


@app.command(epilog=_HELP)
def bisect(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="C1 C2...|GOOD..BAD|run/ID", help="Oldest first.", show_default=False
        ),
    ] = None,
    command: CommandOption = None,
    adapter: AdapterOption = None,
    timeout: TimeoutOption = None,
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise",
            metavar="P,Q",
            help="Verdicts lie at rate P (good judged bad), Q (bad judged good): repeat probes.",
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            "--confidence",
            metavar="C",
            help="Stop at this probability; without --noise the rate of lies is estimated, too."
            " [default: 0.95 with --noise]",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option("--max-probes", metavar="N", min=1, help="Give up a noisy search after N."),
    ] = None,
    jobs: Annotated[
        int, typer.Option("-j", "--jobs", metavar="N", min=1, max=256, help="Probes at once.")
    ] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Probe on a Dask cluster's workers."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Stop after this long: 60s to 24h."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="TASK.SCORE",
            help="Instead of a command: bad when this score of --suite is worse than the first"
            " checkpoint's by more than --drop.",
        ),
    ] = None,
    drop: Annotated[
        str | None, typer.Option("--drop", metavar="X", help="As in 0.02, or 2%.")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option("--suite", metavar="S", help="The suite that has the metric.")
    ] = None,
    base_as: BaseAsOption = None,
    then_blame: Annotated[
        bool,
        typer.Option(
            "--then-blame", help="Then measure which modules of the culprit did it, one by one."
        ),
    ] = False,
    dataset: Annotated[
        Path | None,
        typer.Option(
            "--dataset",
            metavar="EVAL",
            help="The rows that --then-blame measures on.  [default: those of the metric's task]",
        ),
    ] = None,
    trust_exit: Annotated[
        bool,
        typer.Option(
            "--trust-exit",
            help="A command that fails alike at both ends (exit code 2, a Python error) judges them.",
        ),
    ] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Say what would be probed; run nothing.")
    ] = False,
    form: PageOption = Page.table,
    as_json: JsonOption = False,
    output: OutputOption = None,
) -> int:
    """Find the first checkpoint that fails, also when the eval is noisy."""
    from soup_git.commands import bisect as verb
    from soup_git.commands import bisectblame, bisectlog
    from soup_git.render.report import say

    if not specs:
        raise typer.BadParameter("name the checkpoints: C1 C2..., GOOD..BAD, or run/ID")
    if specs[0] in _WORDS:
        _check_words(specs, command or metric)
        workspace = open_workspace()
        if specs[0] != "replay":
            _log_or_reset(workspace, specs[0], output)
            return 0
        request = None
        report = bisectlog.replay(workspace, Path(specs[1]))
    else:
        _check_probe(command, metric, drop, suite, timeout, trust_exit=trust_exit)
        if base_as is not None and metric is None and not then_blame:
            raise typer.BadParameter("--base-as goes with --metric; a command loads its own base")
        _check_blame(then_blame, dataset, metric)
        request = verb.Request(
            specs, command, adapter, timeout, noise, confidence, most, jobs, scheduler, budget,
            metric, drop or "", suite, base_as_of(base_as), trust_exit,
        )  # fmt: skip
        workspace = open_workspace()
        if then_blame:
            bisectblame.blame_rows(workspace, request, dataset)
        if plan_only:
            show_report(verb.plan(workspace, request), form, as_json, output)
            return 0
        report = verb.bisect(workspace, request)
        if then_blame:
            report = bisectblame.then_blame(workspace, request, report, dataset)
    show_report(report, form, as_json, output)
    for hint in bisectblame.hints(workspace, report, adapter, request):
        say(f"hint: {hint}")
    return report.exit_code


def _log_or_reset(workspace: Workspace, word: str, output: Path | None) -> None:
    from soup_git.commands import bisectlog
    from soup_git.render.report import say, write_text

    if word == "log":
        write_text(bisectlog.log_text(workspace), output)
    else:
        say("forgotten" if bisectlog.reset(workspace) else "no bisection was under way")


def _check_probe(
    command: str | None, metric: str | None, drop: str | None, suite: Path | None,
    timeout: str | None, *, trust_exit: bool,
) -> None:  # fmt: skip
    if metric is None:
        for option, value in (("--drop", drop), ("--suite", suite)):
            if value is not None:
                raise typer.BadParameter(f"{option} goes with --metric TASK.SCORE")
        if command is None:
            raise typer.BadParameter(
                "--eval-command is needed: what judges a checkpoint; or --metric TASK.SCORE"
            )
        return
    of_command = {"--eval-command": command, "--timeout": timeout, "--trust-exit": trust_exit}
    other = next((name for name, value in of_command.items() if value), None)
    if other is not None:
        raise typer.BadParameter(f"{other} is of a command; --metric starts none")
    if drop is None or suite is None:
        raise typer.BadParameter("--metric needs --drop X and --suite S")


def _check_blame(then_blame: bool, dataset: Path | None, metric: str | None) -> None:
    if dataset is not None and not then_blame:
        raise typer.BadParameter("--dataset is what --then-blame measures on")
    if then_blame and metric is None and dataset is None:
        raise typer.BadParameter("--then-blame needs --dataset EVAL: rows to measure on")


def _check_words(specs: list[str], probe: str | None) -> None:
    wanted = 2 if specs[0] == "replay" else 1
    if len(specs) != wanted or probe is not None:
        form = "replay FILE" if wanted == 2 else specs[0]
        raise typer.BadParameter(
            f"git soup bisect {form} stands alone; an adapter called {specs[0]} is ./{specs[0]}"
        )


@app.command("bisect-step")
def bisect_step(
    command: CommandOption = None, adapter: AdapterOption = None, timeout: TimeoutOption = None
) -> int:
    """Judge the revision that git bisect is at: git bisect run git soup bisect-step ..."""
    from soup_git.commands.bisectstep import step

    if command is None:
        raise typer.BadParameter("--eval-command is needed: what judges the adapter")
    return step(open_workspace(), command, adapter, timeout)
