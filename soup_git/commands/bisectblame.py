"""What of a bisection's culprit did it: measured right after the search, or what to type for it."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from pathlib import Path

from soup_git.commands.bisect import Request
from soup_git.commands.bisectreport import BisectReport, short
from soup_git.core.bisection import Found
from soup_git.errors import FatalError
from soup_git.render.report import say
from soup_git.storage.candidates import checkpoints
from soup_git.storage.workspace import Workspace


def then_blame(
    workspace: Workspace, request: Request, report: BisectReport, dataset: Path | None
) -> BisectReport:
    """With what of the culprit did it: each module put back to the last good one's.

    `dataset` None takes the prompts of the metric's task. Where nothing can be blamed the
    search's own answer stays, and stderr says why.
    """
    from soup_git.commands.ablation import AblationRequest, ablate
    from soup_git.commands.bisectmetric import forget

    if report.verdict != Found.BROKEN_AT:
        return report
    if report.last_good is None:
        say("no blame: the first checkpoint is bad already, there is no good one to compare with")
        return report
    forget()  # one model in memory is enough
    specs = {
        c.name: f"{c.commit}:{c.path}" if c.commit is not None else c.name
        for c in checkpoints(workspace, request.specs, request.adapter)
    }
    broken, good = specs[str(report.first_broken)], specs[report.last_good]
    rows = dataset or _prompts_of(workspace, request)
    try:
        found = ablate(
            workspace, AblationRequest(broken, rows, against=good, base_as=request.base_as)
        )
    except FatalError as error:
        say(f"no blame: {error}")
        return report
    return replace(report, blame=found)


def blame_rows(workspace: Workspace, request: Request, dataset: Path | None) -> None:
    """Refuse rows that cannot be read before the search, not after it."""
    from soup_git.evaluation.lossrows import load_rows

    rows = dataset or _prompts_of(workspace, request)
    load_rows(rows, str(rows))


def hints(
    workspace: Workspace,
    report: BisectReport,
    adapter: str | None,
    request: Request | None = None,
) -> list[str]:
    """What to type next; a search by a metric has rows that its culprit can be blamed on."""
    if report.verdict != Found.BROKEN_AT:
        return []
    if report.last_good is None:
        return ["the first checkpoint is bad already: what broke it lies before it"]
    broken = str(report.first_broken)
    words = [short(report.last_good), short(broken), *(["--adapter", adapter] if adapter else [])]
    found = [f"git soup diff {shlex.join(words)} shows what changed there"]
    if request is not None and request.metric is not None and report.blame is None:
        with contextlib.suppress(FatalError):  # not every task has rows that a loss reads
            blame_rows(workspace, request, None)
            rows = str(_prompts_of(workspace, request))
            pair = [words[1], "--against", words[0], *words[2:], "--dataset", rows]
            found.append(f"git soup blame {shlex.join(pair)} measures which modules did it")
    git = workspace.git
    side = git.resolve(f"{broken}^2")
    if side is not None:
        base = git.merge_base(f"{broken}^1", side)
        found.append(f"it is a merge: git soup bisect {str(base)[:10]}..{side[:10]} looks inside")
    return found


def _prompts_of(workspace: Workspace, request: Request) -> Path:
    from soup_git.evaluation.suite import load_suite

    assert request.suite is not None  # noqa: S101 - for the type checker
    suite = load_suite(request.suite, workspace.root)
    task = str(request.metric).partition(".")[0]
    name = next((t.prompts for t in suite.file.tasks if t.name == task), None)
    if name is None:
        raise FatalError(
            f"{task} has no prompts of its own to blame on", hint="--then-blame --dataset EVAL"
        )
    beside = request.suite.parent / name
    return beside if beside.exists() else workspace.root / name
