"""`git soup gate [SPEC] --suite S`: fails when a score regressed past its threshold and the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from soup_git.commands.eval import EvalRequest, adapter_here, loaded_in_words, measured, opened
from soup_git.core.baseload import TRAINED
from soup_git.errors import ExitCode, FatalError
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.evaluation.gating import Decision
    from soup_git.evaluation.suite import Suite


@dataclass(frozen=True)
class GateReport:
    schema: ClassVar[str] = "soup.gate/1"
    verdict: str
    """passed, warning or failed."""
    spec: str
    baseline: str | None
    suite: str
    suite_sha: str
    base: str
    decisions: list[Decision]
    base_load: str = ""
    """How the base was loaded for it, in words; empty for the base as it is."""
    base_as: str = TRAINED

    @property
    def title(self) -> str:
        return f"gate {self.verdict}: {self.spec}"

    def heat_maps(self) -> Sequence[HeatMap]:
        return []

    def tables(self) -> Sequence[Table | str]:
        against = f" against {self.baseline}" if self.baseline else ""
        head = f"gate {self.verdict}: {self.spec}{against}, suite {self.suite}"
        if self.base_load:
            head += f", base {self.base}{loaded_in_words(self.base_as, self.base_load)}"
        rows = [
            (
                d.name,
                measured(d.value, d.stderr),
                "–" if d.baseline is None else f"{d.baseline:.4g}",
                d.allowed or "–",
                d.state,
                d.why,
            )
            for d in self.decisions
        ]
        header = ("score", "value>", "baseline>", "allowed", "state", "")
        return [head, Table(header, rows)]


def gate(workspace: Workspace, request: EvalRequest) -> tuple[GateReport, ExitCode]:
    """Decide on one adapter; `request.specs` empty is the work tree's own."""
    from soup_git.evaluation.suite import load_suite

    suite = load_suite(request.suite, workspace.root)
    baseline = request.baseline or suite.file.baseline
    _refuse_nothing_to_gate(suite, baseline, request.suite)
    spec = request.specs[0] if request.specs else adapter_here(workspace)
    asked = EvalRequest(
        [spec], request.suite, baseline, request.base, request.batch_size, request.threads,
        request.allow_python, request.use_cache, base_as=request.base_as,
    )  # fmt: skip
    from soup_git.evaluation.gating import FAILED, WARNING, decide

    with opened(workspace, asked) as (runner, (one,), against):
        before = runner.score(against.candidate, suite) if against is not None else None
        results = runner.score(one.candidate, suite)
    if all(result.value is None for result in results):
        reasons = "; ".join({r: None for result in results for r in result.failures})
        raise FatalError(
            f"every evaluation failed: {reasons}", hint="with the cause removed, type it again"
        )
    decisions = decide(results, before, suite.thresholds)
    states = {decision.state for decision in decisions}
    verdict = "failed" if FAILED in states else "warning" if WARNING in states else "passed"
    shown = request.specs[0] if request.specs else _short(workspace, spec)
    report = GateReport(
        verdict,
        shown,
        baseline,
        suite.name,
        suite.sha256,
        runner.choice.base,
        decisions,
        runner.choice.load_of(one.candidate).words(),
        request.base_as,
    )
    return report, ExitCode.CHECK_FAILED if verdict == "failed" else ExitCode.OK


def _short(workspace: Workspace, spec: str) -> str:
    return Path(spec).relative_to(workspace.root).as_posix()


def _refuse_nothing_to_gate(suite: Suite, baseline: str | None, path: Path) -> None:
    if baseline is not None:
        return
    drops = [name for name, t in suite.thresholds.items() if t.max_drop is not None]
    if drops:
        raise FatalError(
            f"{path}: the gate of {drops[0]} allows a drop, but from what?",
            hint="--baseline main, or baseline: in the suite",
        )
    if not suite.thresholds:
        raise FatalError(
            f"{path} has no thresholds and there is no baseline: nothing can fail",
            hint="--baseline main, or gate: {SCORE: {min: …}} in a task",
        )
