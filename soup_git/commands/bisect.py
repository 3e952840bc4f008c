"""`git soup bisect`: the first checkpoint that fails, by the fewest probes that tell.

The search itself is `core.bisection`, or `core.noisybisection` where answers may be wrong;
`evaluation.bisecting` drives it. Here the question is put together, logged and reported.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from soup_git.core.bisection import (
    Answer,
    Contradiction,
    Found,
    PlainSearch,
    Search,
    Verdict,
    most_probes,
)
from soup_git.core.bisectlog import Log, Question, Told, parse_log
from soup_git.core.drift import bar
from soup_git.core.durations import parse_budget, parse_duration, spoken
from soup_git.core.text import canonical_json, counted
from soup_git.errors import ExitCode, FatalError
from soup_git.evaluation.bisecting import (
    Aborted,
    drive,
    judge_here,
    judge_on_worker,
    skipped,
)
from soup_git.evaluation.executors import Flag, Pool, pool
from soup_git.evaluation.probes import CommandProbe, Outcome, Probe
from soup_git.render.barchart import Bars
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table, say
from soup_git.storage.bisectlog import BisectLog
from soup_git.storage.candidates import checkpoints
from soup_git.storage.files import bytes_of
from soup_git.storage.materials import bring, materials
from soup_git.storage.notes import append_notes
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.commands.ablation import AblationReport
    from soup_git.core.noisybisection import NoisySearch

_EXIT = {
    Found.ALL_OK: ExitCode.OK,
    Found.BROKEN_AT: ExitCode.DRIFT,
    Found.UNRESOLVED: ExitCode.CANNOT_JUDGE,
}
_DEFAULT_CONFIDENCE = 0.95
_ROWS_IN_CHART = 12
_BARS_IN_PICTURE = 60


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


@dataclass(frozen=True)
class Step:
    """One probe, in the order in which they ended."""

    checkpoint: str
    ok: bool | None
    """None: it could not be judged."""
    exit_code: int | None
    seconds: float


@dataclass(frozen=True)
class Chance:
    checkpoint: str | None
    """None: nothing broke."""
    probability: float


@dataclass(frozen=True)
class Noise:
    """How often a probe lies: as it was given, or as it was estimated."""

    false_alarm: float
    miss: float
    is_known: bool


@dataclass(frozen=True)
class BisectReport:
    schema: ClassVar[str] = "soup.bisect/1"
    verdict: Found
    first_broken: str | None
    last_good: str | None
    candidates: list[str]
    """Of UNRESOLVED: every checkpoint that may be the first broken one."""
    may_be_all_ok: bool
    checkpoints: int
    probes: int
    seconds: float
    """Of probing, summed over the probes."""
    steps: list[Step]
    confidence: float | None
    """What was asked for; the answer's own probability is the posterior's largest."""
    noise: Noise | None
    posterior: list[Chance] | None
    blame: AblationReport | None = None
    """What of the difference between the good and the bad neighbour did it."""

    @property
    def exit_code(self) -> ExitCode:
        return _EXIT[self.verdict]

    @property
    def title(self) -> str:
        return f"git soup bisect: {self._headline()}"

    def tables(self) -> Sequence[Table | str]:
        rows = [
            (str(number), short(step.checkpoint), _word(step.ok), _code(step), spoken(step.seconds))
            for number, step in enumerate(self.steps, start=1)
        ]
        parts: list[Table | str] = [self._headline()]
        if self.verdict == Found.UNRESOLVED:
            parts.append(f"it may be {self._either()}")
        parts += ["", Table(("probe>", "checkpoint", "verdict", "exit>", "took>"), rows)]
        parts += self._posterior_tables()
        return [*parts, "", *self.blame.tables()] if self.blame is not None else parts

    def heat_maps(self) -> list[HeatMap]:
        """The blame's, where there is one."""
        return self.blame.heat_maps() if self.blame is not None else []

    def bars(self) -> list[Bars]:
        """The posterior in the checkpoints' own order: what has a chance worth a pixel."""
        if self.posterior is None:
            return []
        least = sorted((c.probability for c in self.posterior), reverse=True)
        bound = max(1e-3, least[_BARS_IN_PICTURE] if len(least) > _BARS_IN_PICTURE else 0.0)
        drawn = [c for c in self.posterior if c.probability > bound]
        labels = [_named(c.checkpoint) for c in drawn]
        return [Bars("first broken, probability", labels, [c.probability for c in drawn])]

    def _headline(self) -> str:
        probes = counted(self.probes, "probe")
        effort = f"{probes} of {self.checkpoints} checkpoints, {spoken(self.seconds)}"
        sure = ""
        if self.posterior is not None and self.verdict != Found.UNRESOLVED:
            sure = f", probability {max(c.probability for c in self.posterior):.3f}"
        if self.verdict == Found.BROKEN_AT:
            last = (
                f"last good {short(self.last_good)}" if self.last_good else "none before it is good"
            )
            return f"BROKEN_AT {short(str(self.first_broken))} ({last}){sure}, {effort}"
        return f"{self.verdict}{sure}, {effort}"

    def _either(self) -> str:
        names = [short(name) for name in self.candidates]
        shown = names if len(names) <= 8 else [*names[:3], f"… {len(names) - 4} more …", names[-1]]
        return ", ".join([*shown, *(["none of them"] if self.may_be_all_ok else [])])

    def _posterior_tables(self) -> list[Table | str]:
        if self.posterior is None or self.noise is None:
            return []
        told = Counter((step.checkpoint, step.ok) for step in self.steps)
        likely = sorted(self.posterior, key=lambda c: -c.probability)[:_ROWS_IN_CHART]
        likely = [c for c in likely if c.probability >= 5e-4]
        rows = [
            (
                _named(c.checkpoint),
                f"{c.probability:.3f}",
                str(told[str(c.checkpoint), True]),
                str(told[str(c.checkpoint), False]),
                bar(c.probability),
            )
            for c in self.posterior
            if c in likely
        ]
        source = "given" if self.noise.is_known else "estimated"
        rates = (
            f"noise, {source}: good judged bad {100 * self.noise.false_alarm:.1f} %,"
            f" bad judged good {100 * self.noise.miss:.1f} %"
        )
        return ["", Table(("first broken", "probability>", "good>", "bad>", ""), rows), rates]


@dataclass(frozen=True)
class PlanReport:
    schema: ClassVar[str] = "soup.bisect-plan/1"
    checkpoints: list[str]
    command: list[str]
    """Empty where a metric judges."""
    metric: dict[str, str] | None
    ends: list[str]
    """What is probed first."""
    most_probes: int | None
    """One at a time and without skips; None where noise decides."""
    told: int
    """Verdicts that the log holds already."""
    jobs: int

    def tables(self) -> Sequence[Table | str]:
        bound = "as many as the noise asks for" if self.most_probes is None else (
            f"at most {self.most_probes}, one at a time and without skips"
        )  # fmt: skip
        rows = [
            ("checkpoints", f"{len(self.checkpoints)}, {' to '.join(map(short, self.ends))}"),
            ("probes", f"{bound}; {self.told} in the log" if self.told else bound),
            ("at once", str(self.jobs)),
            ("metric", _metric_in_words(self.metric))
            if self.metric is not None
            else ("command", " ".join(self.command)),
        ]
        return [Table(("", ""), rows)]


# -- the verb -----------------------------------------------------------------------------------


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
    with session.log.held(), _ended_by_signals():
        return session.run()


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
        found = ablate(workspace, AblationRequest(broken, rows, against=good))
    except FatalError as error:
        say(f"no blame: {error}")
        return report
    return replace(report, blame=found)


def blame_rows(workspace: Workspace, request: Request, dataset: Path | None) -> None:
    """Refuse rows that cannot be read before the search, not after it."""
    from soup_git.evaluation.lossrows import load_rows

    rows = dataset or _prompts_of(workspace, request)
    load_rows(rows, str(rows))


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


class _Session:
    """One search: its question, its log, and the probes it starts."""

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self.workspace = workspace
        self.request = request
        self.budget = parse_budget(request.budget) if request.budget else None
        noise, confidence = _noise(request)
        self.checkpoints = checkpoints(workspace, request.specs, request.adapter)
        self.probe, asked = self._probe()
        self.question = Question(
            checkpoints=tuple((c.name, c.key) for c in self.checkpoints),
            probe=asked,
            noise=noise,
            confidence=confidence,
        )
        self.log = BisectLog(workspace.git)
        self.search = _search(self.question, request.most)
        self.told: list[Told] = []

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
                self.workspace, request.metric, request.drop, request.suite, reference
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
        except Aborted as aborted:
            raise self._no_verdict(aborted) from None
        finally:
            self._note()
        answer = self.search.answer()
        report = _report(self.question, self.told, self.search, answer or self.search.best_guess())
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
            _tell(self.search, self.question, logged.told)
        except Contradiction as found:
            raise self._good_after_bad(found) from None
        self.told = list(logged.told)

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

    def _no_verdict(self, aborted: Aborted) -> FatalError:
        shown = self.checkpoints[aborted.position].shown
        return FatalError(
            f"the eval command gave no verdict on {shown}: {aborted.outcome.why}",
            hint="mend the command, then type the same again: it goes on where it stopped",
        )


# -- the log ------------------------------------------------------------------------------------


def log_text(workspace: Workspace) -> str:
    text = BisectLog(workspace.git).text()
    if text is None:
        raise FatalError(
            "no bisection is under way", hint="git soup bisect GOOD..BAD --eval-command '...'"
        )
    return text


def replay(workspace: Workspace, file: Path) -> BisectReport:
    """Judge by a log alone, and put it in place for the same question to go on. Runs nothing."""
    data = bytes_of(file)
    if data is None:
        raise FatalError(f"there is no log {file}", hint="git soup bisect log > FILE writes one")
    logged = parse_log(data, str(file))
    search = _search(logged.question, None)
    try:
        _tell(search, logged.question, logged.told)
    except Contradiction as found:
        names = logged.question.checkpoints
        raise FatalError(
            f"{file} contradicts itself: {short(names[found.bad][0])} is bad, and"
            f" {short(names[found.good][0])} is good",
            hint="remove the verdict that is wrong from it, then replay it again",
        ) from None
    log = BisectLog(workspace.git)
    with log.held():
        log.replace(data[: data.rfind(b"\n") + 1])
    return _report(logged.question, logged.told, search, search.answer() or search.best_guess())


def reset(workspace: Workspace) -> bool:
    """Forget the bisection that is under way; whether there was one."""
    log = BisectLog(workspace.git)
    with log.held():
        return log.remove()


def step(workspace: Workspace, command: str, adapter: str | None, timeout: str | None) -> int:
    """Judge the revision that git's own bisection is at; the exit code is for `git bisect run`."""
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
    with pool(1) as made, _ended_by_signals():
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


# -- from options to a search, from a search to a report --------------------------------------------


def _noise(request: Request) -> tuple[tuple[float, float] | None, float | None]:
    """(rates, confidence): None and None where answers are certain."""
    if request.noise is None and request.confidence is None:
        if request.most is not None:
            raise FatalError(
                "--max-probes bounds a search that repeats probes",
                hint="add --confidence 0.95, or leave --max-probes out",
            )
        return None, None
    confidence = request.confidence if request.confidence is not None else _DEFAULT_CONFIDENCE
    if not 0.5 < confidence < 1:
        raise FatalError(
            f"--confidence {confidence:g} is not between 0.5 and 1", hint="--confidence 0.95"
        )
    if request.noise is None:
        return None, confidence
    try:
        rates = [float(word) for word in request.noise.split(",")]
    except ValueError:
        rates = []
    if len(rates) == 1:
        rates *= 2
    if len(rates) != 2 or not all(0 <= rate < 1 for rate in rates) or not sum(rates) < 1:
        raise FatalError(
            f"--noise {request.noise} is no flip rate: one below 0.5, or two that add up to less"
            " than 1",
            hint="--noise 0.1; or --noise 0.1,0.02 for good judged bad, bad judged good",
        )
    return (rates[0], rates[1]), confidence


def _search(question: Question, most: int | None) -> Search:
    count = len(question.checkpoints)
    if question.confidence is None:
        return PlainSearch(count)
    from soup_git.arithmetic.posterior import known_rates, unknown_rates
    from soup_git.core.noisybisection import NoisySearch

    rates = known_rates(*question.noise) if question.noise is not None else unknown_rates()
    return NoisySearch(count, rates, question.confidence, most)


def _tell(search: Search, question: Question, told: Sequence[Told]) -> None:
    """What a log holds; equal adapters share their verdicts, as they did when it was written."""
    twins = {position: group for group in question.twins() for position in group}
    for one in told:
        for position in twins.get(one.position, [one.position]):
            search.tell(position, one.verdict)


def _report(
    question: Question, told: Sequence[Told], search: Search, answer: Answer
) -> BisectReport:
    names = [name for name, _ in question.checkpoints]
    count = len(names)
    culprit = answer.candidates[0] if answer.found == Found.BROKEN_AT else None
    last_good: str | None = names[-1] if answer.found == Found.ALL_OK else None
    # Of an open search, what lies before all candidates is known to be good when nothing lies.
    before = answer.candidates[0] - 1 if answer.candidates else -1
    if before >= 0 and (culprit is not None or question.confidence is None):
        last_good = names[before]
    is_open = answer.found == Found.UNRESOLVED
    noise, posterior = _belief(question, search, names)
    return BisectReport(
        verdict=answer.found,
        first_broken=None if culprit is None else names[culprit],
        last_good=last_good,
        candidates=[names[k] for k in answer.candidates if k < count] if is_open else [],
        may_be_all_ok=is_open and count in answer.candidates,
        checkpoints=count,
        probes=len(told),
        seconds=round(sum(one.seconds for one in told), 3),
        steps=[
            Step(names[t.position], _OK[t.verdict], t.exit_code, t.seconds) for t in told
        ],
        confidence=question.confidence,
        noise=noise,
        posterior=posterior,
    )  # fmt: skip


_OK: Mapping[Verdict, bool | None] = {
    Verdict.good: True,
    Verdict.bad: False,
    Verdict.skip: None,
}


def _belief(
    question: Question, search: Any, names: Sequence[str]
) -> tuple[Noise | None, list[Chance] | None]:
    if question.confidence is None:
        return None, None
    noisy: NoisySearch = search
    belief = noisy.belief
    top = int(belief.probability.argmax())
    if question.noise is not None:
        noise = Noise(question.noise[0], question.noise[1], is_known=True)
    else:
        rates = float(belief.false_alarm[top]), float(belief.miss[top])
        noise = Noise(*rates, is_known=False)
    chances = [float(p) for p in belief.probability]
    return noise, [
        Chance(name, p) for name, p in zip([*names, None], chances, strict=True)
    ]  # fmt: skip


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


def short(name: str | None) -> str:
    """A commit's name as git abbreviates it; other names as they are."""
    text = name or ""
    is_id = len(text) in {40, 64} and all(c in "0123456789abcdef" for c in text)
    return text[:10] if is_id else text


def _named(checkpoint: str | None) -> str:
    return "nothing broke" if checkpoint is None else short(checkpoint)


def _word(ok: bool | None) -> str:
    return "skip" if ok is None else "good" if ok else "bad"


def _code(step: Step) -> str:
    return "–" if step.exit_code is None else str(step.exit_code)


def _in_words(logged: Log) -> str:
    names = [short(name) for name, _ in logged.question.checkpoints]
    command = logged.question.probe.get("command")
    probe = logged.question.probe
    words = " ".join(map(str, command)) if isinstance(command, list) else _metric_in_words(probe)
    return f"{names[0]} to {names[-1]}, {words}, {counted(len(logged.told), 'verdict')}"


def _metric_in_words(probe: Mapping[str, Any]) -> str:
    return f"{probe.get('metric')} of {probe.get('suite')}, down by more than {probe.get('drop')}"


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does: probes run in sessions of their own.

    Without this a probe would outlive the bisection that wanted it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    # nohup, and whoever else had a signal ignored, meant it.
    heeded = [name for name, handler in before.items() if handler is not signal.SIG_IGN]
    for name in heeded:
        signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name in heeded:
            signal.signal(name, before[name])
