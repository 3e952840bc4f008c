"""`git soup bisect --metric TASK.SCORE --drop X --suite S`: a score judges, and no process is started.

The base is loaded once, each checkpoint's numbers are copied in, and what was scored before
comes from the cache. A checkpoint is bad when its score is worse than the first one's by
more than the drop, on the same rows: the answer is the checkpoint's alone, so the same
adapter is never good once and bad once.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.commands.eval import EvalRequest, resolve, runner_for
from soup_git.core.baseload import TRAINED
from soup_git.core.bisection import Verdict
from soup_git.core.yamllines import nearest
from soup_git.errors import FatalError
from soup_git.evaluation.executors import Flag
from soup_git.evaluation.probes import Outcome
from soup_git.render.report import say
from soup_git.storage.materials import Materials, bring, laid_out
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.evaluation.results import TaskResult
    from soup_git.evaluation.suite import Suite

_DROP = re.compile(r"\d{1,9}(?:\.\d{1,9})?(?P<percent>%?)")
# One model in memory: probes that run at once on threads wait for each other.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class MetricProbe:
    """Judges by a score. Picklable: another process loads its own model, once."""

    metric: str
    drop: str
    """In the score's unit, or in percent of the first checkpoint's score."""
    suite: str
    """Relative to the work tree's top."""
    suite_sha: str
    reference: Materials
    """The first checkpoint."""
    base_as: str = TRAINED

    @classmethod
    def parse(
        cls,
        workspace: Workspace,
        metric: str,
        drop: str,
        suite: Path,
        reference: Materials,
        base_as: str,
    ) -> MetricProbe:
        """Raises FatalError for a suite that cannot be read, a score that it does not have."""
        from soup_git.evaluation.suite import load_suite

        if not _DROP.fullmatch(drop):
            raise FatalError(
                f"--drop {drop!r} is not a number from 0 up, nor a percentage",
                hint="--drop 0.02, or --drop 2%",
            )
        root = workspace.root.resolve()
        if suite.exists() and not suite.resolve().is_relative_to(root):
            raise FatalError(
                f"{suite} is outside the workspace", hint="move it into the repository"
            )
        found = load_suite(suite, workspace.root)
        known = _scores(found)
        if known is not None and metric not in known:
            raise FatalError(
                f"{suite} has no score {metric}{nearest(metric, known)}; it has {', '.join(known)}",
                hint="--metric TASK.SCORE",
            )
        path = suite.resolve().relative_to(root).as_posix()
        return cls(metric, drop, path, found.sha256, reference, base_as)

    def question(self) -> dict[str, str]:
        """What the log and the notes keep."""
        asked = {
            "metric": self.metric, "drop": self.drop, "suite": self.suite,
            "suite_sha": self.suite_sha,
        }  # fmt: skip
        return asked if self.base_as == TRAINED else {**asked, "base_as": self.base_as}

    def judge(self, folder: Path, root: Path, flag: Flag, echo: str | None) -> Outcome:
        started = time.monotonic()
        with _ONE_AT_A_TIME:
            if flag.is_set():
                seconds = time.monotonic() - started
                return Outcome(None, None, seconds, "nobody needs it any more")
            verdict, why = _judging(self, str(root)).verdict(folder)
        seconds = time.monotonic() - started
        if verdict is Verdict.skip:
            return Outcome(verdict, None, seconds, why)
        if echo is not None:
            say(f"{echo}{why}")
        return Outcome(verdict, None, seconds)


def forget() -> None:
    """Let go of models that probes have loaded."""
    _judging.cache_clear()


@cache
def _judging(probe: MetricProbe, root: str) -> _Judging:
    return _Judging(probe, Path(root))


class _Judging:
    """The loaded base, and what the first checkpoint scores on it."""

    def __init__(self, probe: MetricProbe, root: Path) -> None:
        from soup_git.evaluation.suite import load_suite

        self._probe = probe
        self._workspace = Workspace.open(root)
        suite = load_suite(root / probe.suite, self._workspace.root)
        if suite.sha256 != probe.suite_sha:
            raise FatalError(
                f"{probe.suite} here is not the suite that the bisection was started with",
                hint="git soup bisect reset, then bisect with this one",
            )
        task = probe.metric.partition(".")[0]
        self._suite = replace(suite, tasks=tuple(t for t in suite.tasks if t.name == task))
        bring(self._workspace, probe.reference)
        with (
            tempfile.TemporaryDirectory(prefix="soup-probe-") as name,
            laid_out(self._workspace, probe.reference, Path(name)) as folder,
        ):
            named = resolve(self._workspace, str(folder))
            settings = EvalRequest([str(folder)], root / probe.suite, base_as=probe.base_as)
            # Held until this is forgotten: closing a runner gives up its model.
            self._runner = ExitStack().enter_context(runner_for(self._workspace, [named], settings))
            self._first = self._score(folder)
        if self._first.value is None:
            raise FatalError(
                f"the first checkpoint, {probe.reference.name}, has no {probe.metric}:"
                f" {'; '.join(self._first.failures)}",
                hint=f"git soup eval {probe.reference.name} --suite {probe.suite}",
            )

    def verdict(self, folder: Path) -> tuple[Verdict, str]:
        """The verdict, and the numbers or the reason in words."""
        from soup_git.evaluation.gating import worse

        found = self._score(folder)
        gap = found.against(self._first)
        if found.value is None or gap is None:
            return Verdict.skip, f"no row has a score: {'; '.join(found.failures)}"
        drop, low, high = worse(gap, found.higher_is_better)
        first = self._first.value or 0.0
        # By a hair is a matter of floating point, not of the adapter.
        is_bad = drop > _allowed(self._probe.drop, first) + 1e-9 * max(1.0, abs(first))
        interval = "" if low is None or high is None else f" [{low:+.4g}, {high:+.4g}]"
        words = f"{self._probe.metric} {found.value:.4g}, worse by {drop:+.4g}{interval}"
        return (Verdict.bad if is_bad else Verdict.good), words

    def _score(self, folder: Path) -> TaskResult:
        candidate = resolve(self._workspace, str(folder)).candidate
        results = [
            r for r in self._runner.score(candidate, self._suite) if r.name == self._probe.metric
        ]
        if not results:
            raise FatalError(
                f"{self._probe.suite} has no score {self._probe.metric}",
                hint="git soup eval names the scores of a suite",
            )
        return results[0]


def _allowed(drop: str, first: float) -> float:
    number = float(drop.removesuffix("%"))
    return number / 100 * abs(first) if drop.endswith("%") else number


def _scores(suite: Suite) -> list[str] | None:
    """`TASK.SCORE` of all its tasks; None where only the harness knows."""
    from soup_git.evaluation.scorers import scorer_of

    scorers = [(task.name, scorer_of(task.scoring)) for task in suite.tasks]
    if any(scorer.reads == "harness" for _, scorer in scorers):
        return None
    return [f"{name}.{metric.name}" for name, scorer in scorers for metric in scorer.metrics]
