"""`git soup bisect-step`: judge the revision that git's own bisection is at."""

from __future__ import annotations

from pathlib import Path

from soup_git.core.bisection import Verdict
from soup_git.core.durations import parse_duration, spoken
from soup_git.errors import ExitCode, FatalError
from soup_git.evaluation.bisecting import judge_here
from soup_git.evaluation.executors import pool
from soup_git.evaluation.probes import CommandProbe, ended_by_signals
from soup_git.render.report import say
from soup_git.storage.materials import bring, materials
from soup_git.storage.workspace import Workspace


def step(workspace: Workspace, command: str, adapter: str | None, timeout: str | None) -> int:
    """The exit code is for `git bisect run`."""
    git = workspace.git
    revision = "BISECT_HEAD" if git.resolve("BISECT_HEAD") is not None else "HEAD"
    inside = Path.cwd().resolve().relative_to(workspace.root.resolve()).as_posix()
    limit = parse_duration(timeout, "--timeout") if timeout else None
    probe = CommandProbe.parse(command, inside, limit)
    commit = git.commit(revision)
    folders = workspace.at(commit).adapters
    if not folders or (adapter is not None and str(Path(adapter)) not in folders):
        say(f"{commit[:10]} has no adapter{f' at {adapter}' if adapter else ''}: skip")
        return ExitCode.CANNOT_JUDGE
    needed = materials(workspace.adapter(commit, adapter))
    bring(workspace, needed)
    with pool(1) as made, ended_by_signals():
        flag = made.flag()
        place = workspace.git.git_dir / "soup" / "bisect-step"
        future = made.executor.submit(judge_here, workspace, needed, place, probe, flag, "  ")
        try:
            outcome = future.result()
        finally:
            flag.set()
    if outcome.verdict is None:
        raise FatalError(
            f"the eval command gave no verdict on {commit[:10]}: {outcome.why}",
            hint="mend the command, then git bisect run again",
        )
    say(f"{commit[:10]} {outcome.verdict} ({spoken(outcome.seconds)})")
    if outcome.verdict == Verdict.skip:
        return ExitCode.CANNOT_JUDGE
    return int(outcome.exit_code or 0)
