"""What a bisection found, and what it would probe: the reports, and the words in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from soup_git.core.bisection import Answer, Found, Search, Verdict
from soup_git.core.bisectlog import Question, Told
from soup_git.core.drift import bar
from soup_git.core.durations import spoken
from soup_git.core.text import counted
from soup_git.errors import ExitCode
from soup_git.render.barchart import Bars
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table

if TYPE_CHECKING:
    from soup_git.commands.ablation import AblationReport
    from soup_git.core.noisybisection import NoisySearch

_EXIT = {
    Found.ALL_OK: ExitCode.OK,
    Found.BROKEN_AT: ExitCode.DRIFT,
    Found.UNRESOLVED: ExitCode.CANNOT_JUDGE,
}
_ROWS_IN_CHART = 12
_BARS_IN_PICTURE = 60


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
            ("metric", metric_in_words(self.metric))
            if self.metric is not None
            else ("command", " ".join(self.command)),
        ]
        return [Table(("", ""), rows)]


def report_of(
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


def metric_in_words(probe: Mapping[str, Any]) -> str:
    return f"{probe.get('metric')} of {probe.get('suite')}, down by more than {probe.get('drop')}"
