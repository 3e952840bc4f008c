"""`git soup bisect`: the first checkpoint that fails, by the fewest probes that tell.

The search itself is `core.bisection`, or `core.noisybisection` where answers may be wrong;
`evaluation.bisecting` drives it. Here the question is put together, asked and logged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soup_git.commands.bisectreport import (
    BisectReport,
    PlanReport,
    metric_in_words,
    report_of,
    short,
)
from soup_git.commands.bisectsearch import noise_of, search_for, tell
from soup_git.core.baseload import TRAINED
from soup_git.core.bisection import Contradiction, Found, Verdict, most_probes
from soup_git.core.bisectlog import Log, Question, Told
from soup_git.core.durations import parse_budget, parse_duration, spoken
from soup_git.core.text import canonical_json, counted
from soup_git.errors import FatalError
from soup_git.evaluation.bisecting import (
    Aborted,
    drive,
    judge_here,
    judge_on_worker,
    skipped,
)
from soup_git.evaluation.executors import Flag, Pool, pool
from soup_git.evaluation.probes import (
    CommandProbe,
    Outcome,
    Probe,
    ended_by_signals,
    fails_by_itself,
)
from soup_git.render.report import say
from soup_git.storage.bisectlog import BisectLog
from soup_git.storage.candidates import checkpoints
from soup_git.storage.materials import bring
from soup_git.storage.notes import append_notes
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Request:
    """What was typed."""

    specs: Sequence[str]
    command: str | None = None
    adapter: str | None = None
    timeout: str | None = None
    noise: str | None = None
    confidence: float | None = None
    most: int | None = None
    jobs: int = 1
    scheduler: str | None = None
    budget: str | None = None
    metric: str | None = None
    """Instead of a command; `drop` and `suite` come with it."""
    drop: str = ""
    suite: Path | None = None
    base_as: str = TRAINED
    trust_exit: bool = False
    """A command that fails alike at both ends judges them."""


class _FailsAlike(Exception):  # noqa: N818 - a finding about the command, not a fault
    """The command failed at both ends as if it had judged neither."""


def plan(workspace: Workspace, request: Request) -> PlanReport:
    """What would be probed; runs nothing and writes nothing."""
    session = _Session(workspace, request)
    logged = session.log.read()
    is_ours = logged is not None and logged.end is None and logged.question == session.question
    names = [checkpoint.name for checkpoint in session.checkpoints]
    return PlanReport(
        checkpoints=names,
        command=list(session.probe.command) if isinstance(session.probe, CommandProbe) else [],
        metric=session.metric,
        ends=[names[0], names[-1]],
        most_probes=most_probes(len(names)) if session.question.confidence is None else None,
        told=len(logged.told) if is_ours and logged is not None else 0,
        jobs=request.jobs,
    )


def bisect(workspace: Workspace, request: Request) -> BisectReport:
    """Find the first checkpoint that fails. What was learned is kept, however this ends."""
    session = _Session(workspace, request)
    with session.log.held(), ended_by_signals():
        return session.run()


class _Session:
    """One search: its question, its log, and the probes it starts."""

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self.workspace = workspace
        self.request = request
        self.budget = parse_budget(request.budget) if request.budget else None
        noise, confidence = noise_of(request.noise, request.confidence, request.most)
        self.checkpoints = checkpoints(workspace, request.specs, request.adapter)
        self.probe, asked = self._probe()
        self.question = Question(
            checkpoints=tuple((c.name, c.key) for c in self.checkpoints),
            probe=asked,
            noise=noise,
            confidence=confidence,
        )
        self.log = BisectLog(workspace.git)
        self.search = search_for(self.question, request.most)
        self.told: list[Told] = []
        self.at_ends: dict[int, Outcome] = {}
        """How each end was first judged to be bad."""

    def _probe(self) -> tuple[Probe, dict[str, Any]]:
        """What judges a checkpoint, and how the log names it."""
        request = self.request
        if request.metric is not None:
            from soup_git.commands.bisectmetric import MetricProbe

            first = self.checkpoints[0]
            if not first.is_there:
                raise FatalError(
                    f"{first.shown} has no adapter at {first.path}, and --metric compares with it",
                    hint="start at a revision that has the adapter",
                )
            assert request.suite is not None  # noqa: S101 - for the type checker
            reference = first.materials(self.workspace)
            made = MetricProbe.parse(
                self.workspace,
                request.metric,
                request.drop,
                request.suite,
                reference,
                request.base_as,
            )
            return made, dict(made.question())
        inside = Path.cwd().resolve().relative_to(self.workspace.root.resolve()).as_posix()
        timeout = parse_duration(request.timeout, "--timeout") if request.timeout else None
        command = CommandProbe.parse(request.command or "", inside, timeout)
        return command, {"command": list(command.command)}

    @property
    def metric(self) -> dict[str, str] | None:
        return None if "command" in self.question.probe else dict(self.question.probe)

    def run(self) -> BisectReport:
        self._resume()
        deadline = None if self.budget is None else time.monotonic() + self.budget
        try:
            with pool(self.request.jobs, self.request.scheduler) as made:
                drive(
                    self.search,
                    made,
                    partial(self._start, made),
                    self._heard,
                    jobs=self.request.jobs,
                    deadline=deadline,
                    twins=self.question.twins(),
                )
        except Contradiction as found:
            # The next question will be another one, and nothing should be in its way.
            self.log.end(Found.UNRESOLVED, "good after bad")
            raise self._good_after_bad(found) from None
        except _FailsAlike:
            # Verdicts that may be none are not kept: a mended command starts anew.
            self.told = []
            self.log.end(Found.UNRESOLVED, "the command fails alike at both ends")
            raise self._question() from None
        except Aborted as aborted:
            raise self._no_verdict(aborted) from None
        finally:
            self._note()
        answer = self.search.answer()
        report = report_of(
            self.question, self.told, self.search, answer or self.search.best_guess()
        )
        # A noisy search without an answer can go on, with more probes.
        is_plain = self.question.confidence is None
        if answer is not None and (is_plain or report.verdict != Found.UNRESOLVED):
            self.log.end(report.verdict, report.first_broken or "")
        return report

    def _resume(self) -> None:
        logged = self.log.read()
        if logged is None or logged.end is not None or not logged.told:
            self.log.start(self.question)
            return
        if logged.question != self.question:
            raise FatalError(
                f"another bisection is under way: {_in_words(logged)}",
                hint="git soup bisect log shows it, git soup bisect reset forgets it",
            )
        say(f"going on with {counted(len(logged.told), 'verdict')} of the log")
        try:
            tell(self.search, self.question, logged.told)
        except Contradiction as found:
            raise self._good_after_bad(found) from None
        self.told = list(logged.told)
        for one in self.told:
            if one.verdict == Verdict.bad:
                outcome = Outcome(one.verdict, one.exit_code, one.seconds)
                self.at_ends.setdefault(one.position, outcome)

    def _start(self, made: Pool, position: int, flag: Flag) -> Future[Outcome]:
        checkpoint = self.checkpoints[position]
        if not checkpoint.is_there:
            nothing: Future[Outcome] = Future()
            nothing.set_result(skipped(f"it has no adapter at {checkpoint.path}"))
            return nothing
        needed = checkpoint.materials(self.workspace)
        if self.request.scheduler is not None:
            root = str(self.workspace.root)
            return made.executor.submit(judge_on_worker, root, needed, self.probe, flag)
        bring(self.workspace, needed)
        echo = f"  {checkpoint.shown}: " if self.request.jobs > 1 else "  "
        return made.executor.submit(
            judge_here, self.workspace, needed, self.log.checkpoints, self.probe, flag, echo
        )

    def _heard(self, position: int, outcome: Outcome) -> None:
        """On disk first: a kill after this loses nothing."""
        checkpoint, verdict = self.checkpoints[position], Verdict(str(outcome.verdict))
        told = Told(position, verdict, outcome.exit_code, round(outcome.seconds, 3))
        self.log.add(told, checkpoint.name)
        self.told.append(told)
        why = f": {outcome.why}" if outcome.why else ""
        say(f"{checkpoint.shown} {verdict} ({spoken(outcome.seconds)}){why}")
        if not self.request.trust_exit and self._both_ends_fail_alike(position, outcome):
            raise _FailsAlike

    def _both_ends_fail_alike(self, position: int, outcome: Outcome) -> bool:
        ends = (0, len(self.checkpoints) - 1)
        if position not in ends or outcome.verdict != Verdict.bad:
            return False
        self.at_ends.setdefault(position, outcome)
        if any(told.verdict == Verdict.good for told in self.told):
            return False
        first, last = (self.at_ends.get(end) for end in ends)
        return first is not None and last is not None and fails_by_itself(first, last)

    def _note(self) -> None:
        """Leave the verdicts on the commits they are about; folders have no place for them."""
        lines: dict[str, list[str]] = {}
        for position in sorted({told.position for told in self.told}):
            checkpoint = self.checkpoints[position]
            if checkpoint.commit is None or not checkpoint.is_there:
                continue
            counts = Counter(t.verdict for t in self.told if t.position == position)
            record = {
                "schema": "soup.bisect-verdict/1",
                "adapter": checkpoint.path,
                "weights": checkpoint.materials(self.workspace).weights_md5,
                "probe": dict(self.question.probe),
                **{str(verdict): counts[verdict] for verdict in Verdict},
            }
            lines.setdefault(checkpoint.commit, []).append(canonical_json(record))
        if lines:
            append_notes(self.workspace.git, lines)

    def _good_after_bad(self, found: Contradiction) -> FatalError:
        bad, good = (self.checkpoints[x].shown for x in (found.bad, found.good))
        if bad == good:
            what = f"{bad} is good in one probe and bad in another"
        else:
            what = f"good comes after bad: {bad} is bad, and {good} after it is good"
        return FatalError(
            f"{what}; no single checkpoint broke it",
            hint="bisect a part with one break, or with --confidence 0.95 if the eval is noisy",
        )

    def _question(self) -> FatalError:
        first, last = self.checkpoints[0].shown, self.checkpoints[-1].shown
        outcome = self.at_ends[0]
        said = f": {outcome.said[-1]}" if outcome.said else ""
        return FatalError(
            f"the eval command fails alike on {first} and {last}, with exit code"
            f" {outcome.exit_code}{said}; it may have judged neither",
            hint="mend the command; or type the same with --trust-exit, if that is its verdict",
        )

    def _no_verdict(self, aborted: Aborted) -> FatalError:
        shown = self.checkpoints[aborted.position].shown
        return FatalError(
            f"the eval command gave no verdict on {shown}: {aborted.outcome.why}",
            hint="mend the command, then type the same again: it goes on where it stopped",
        )


def _in_words(logged: Log) -> str:
    names = [short(name) for name, _ in logged.question.checkpoints]
    command = logged.question.probe.get("command")
    probe = logged.question.probe
    words = " ".join(map(str, command)) if isinstance(command, list) else metric_in_words(probe)
    return f"{names[0]} to {names[-1]}, {words}, {counted(len(logged.told), 'verdict')}"
