"""`git soup plan`: what `dvc repro` would do, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from soup_git.commands.dependencies import moved_unseen, say_unseen
from soup_git.commands.estimating import known_estimate
from soup_git.commands.lock import PinCheck, pins_now
from soup_git.core.templates import PIPELINE
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.dvcfiles import parse_dvc_lock
from soup_git.storage.runs import RUNS
from soup_git.storage.snapshot import DVC_LOCK
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class StagePlan:
    stage: str
    would_run: bool
    why: list[str]
    estimate_seconds: float | None
    estimate_from: str | None
    estimate_low: float | None = None
    estimate_high: float | None = None

    def took(self) -> str:
        if self.estimate_seconds is None:
            return ""
        if self.estimate_low is None or self.estimate_high is None:
            return f"about {self.estimate_seconds:.0f} s, as {self.estimate_from} took"
        between = f"{self.estimate_low:.0f} to {self.estimate_high:.0f}"
        return f"about {self.estimate_seconds:.0f} s ({between}), measured by {self.estimate_from}"


@dataclass(frozen=True)
class PlanReport:
    schema: ClassVar[str] = "soup.plan/1"
    stages: list[StagePlan]
    pins: list[PinCheck]

    def tables(self) -> Sequence[Table | str]:
        rows = []
        for stage in self.stages:
            verb = "would run" if stage.would_run else "up to date"
            rows.append((stage.stage, verb, stage.took(), "; ".join(stage.why)))
        moved = [f"  {pin.line()}" for pin in self.pins if pin.state == "drifted"]
        return [Table(("stage", "", "estimate", "why"), rows), *moved]


def plan(workspace: Workspace) -> tuple[PlanReport, ExitCode]:
    """Ask DVC which stages changed; add the pins that moved, and what a run took before."""
    if not (workspace.root / PIPELINE).is_file():
        raise FatalError(
            f"there is no {PIPELINE} here: no pipeline to plan",
            hint="git soup init --template chat writes soup.yaml and dvc.yaml",
        )
    changed = workspace.dvc.status()
    lock_file = workspace.work_tree_bytes(DVC_LOCK)
    ran = parse_dvc_lock(lock_file, DVC_LOCK) if lock_file else {}
    pins = pins_now(workspace)
    moved = moved_unseen(workspace, pins)
    stages = []
    run_before: set[str] = set()
    for name, needs in workspace.dvc.stages().items():
        why = _reasons(changed.get(name, []))
        if why and name not in ran:
            why = ["never ran here"]
        why += [
            f"{one.path} changed, which only git soup train sees"
            for one in moved
            if one.stage.trains and one.stage.name == name
        ]
        why += [f"{stage} would run" for stage in needs if stage in run_before]
        if why:
            run_before.add(name)
        measured = _measured(workspace) if name == "train" and why else _UNKNOWN
        stages.append(StagePlan(name, bool(why), why, *measured))
    say_unseen(workspace)
    return PlanReport(stages, pins), ExitCode.DRIFT if run_before else ExitCode.OK


def _reasons(changes: Sequence[Any]) -> list[str]:
    reasons = []
    for change in changes:
        if isinstance(change, str):
            reasons.append(change)
            continue
        for kind, paths in change.items():
            what = {"changed deps": "dependency", "changed outs": "output"}.get(kind, kind)
            if isinstance(paths, Mapping):
                reasons += [f"{what} {path} {state}" for path, state in paths.items()]
            else:
                reasons.append(f"{what} {paths}")
    return reasons


_Measured = tuple[float | None, str | None, float | None, float | None]
_UNKNOWN: _Measured = (None, None, None, None)


def _measured(workspace: Workspace) -> _Measured:
    """Seconds, and who says so: a probe of exactly this config, else the last run here."""
    known = known_estimate(workspace)
    if known is not None:
        return known.seconds, "git soup profile", known.low, known.high
    git = workspace.git
    form = "--format=%(refname:lstrip=3)%00%(contents:trailers:key=Soup-Elapsed,valueonly)"
    for line in git.lines("for-each-ref", "--sort=-committerdate", form, RUNS):
        name, _, elapsed = line.partition("\0")
        if elapsed.strip().endswith("s"):
            return float(elapsed.strip()[:-1]), f"run/{name}", None, None
    return _UNKNOWN
