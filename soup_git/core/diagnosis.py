"""What is wrong with a training run, in plain words, from what the run wrote down.

`diagnose` asks each rule of `core.losssymptoms` and `core.runsymptoms`; a rule is a pure
function from `Evidence` to findings, and its thresholds stand beside it with their reasons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PROBLEM, WARNING = "problem", "warning"
POLICY_TASKS = frozenset({"grpo", "rloo", "ppo", "online_dpo", "nash_md", "xpo"})
"""Their loss is an objective that is moved each step: it says nothing by falling or not."""


@dataclass(frozen=True)
class Point:
    """One point of the training curve: means of the steps up to `step`, the largest gradient.

    `grad_norm` is the norm before clipping; None where it was not written down.
    """

    step: int
    loss: float
    learning_rate: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True)
class EvalPoint:
    step: int
    loss: float


@dataclass(frozen=True)
class Norms:
    """Of the adapter's manifest: names of tensors -> Frobenius norms."""

    step: int
    norms: Mapping[str, float]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Evidence:
    """Everything that a run says of itself."""

    points: Sequence[Point]
    evals: Sequence[EvalPoint] = ()
    adapters: Sequence[Norms] = ()
    """Of its checkpoints, oldest first."""
    task: str = "sft"
    settings: Mapping[str, float] = field(default_factory=dict)
    """Numbers of soup.yaml by key (`training.lr`), defaults filled in where they are known."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of metrics.json."""
    failed_at: int | None = None
    """The step whose loss was no number, where training stopped for that."""
    run: str | None = None
    checkpoints: Sequence[int] = ()
    """The steps of which the run has an adapter, `run/RUN@STEP`."""

    @property
    def steps(self) -> int:
        last = [p.step for p in self.points[-1:]]
        return max([*last, self.failed_at or 0, int(self.metrics.get("steps", 0))])

    @property
    def finite(self) -> list[Point]:
        return [p for p in self.points if math.isfinite(p.loss)]


@dataclass(frozen=True)
class Change:
    """`key: value` of soup.yaml, or what to do where no key does it."""

    key: str
    value: str


@dataclass(frozen=True)
class Finding:
    """`weight` orders findings of one level: 1 is most of it."""

    name: str
    level: str
    weight: float
    evidence: str
    meaning: str
    change: list[Change]


@dataclass(frozen=True)
class Unjudged:
    """A question that the run's data cannot answer."""

    question: str
    why: str


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]
    unjudged: list[Unjudged]

    @property
    def is_sick(self) -> bool:
        return any(finding.level == PROBLEM for finding in self.findings)


def diagnose(evidence: Evidence) -> Diagnosis:
    """All findings, the heaviest first, and what could not be judged."""
    from soup_git.core import losssymptoms, runsymptoms

    findings = [*runsymptoms.find(evidence), *losssymptoms.find(evidence)]
    order = {PROBLEM: 0, WARNING: 1}
    findings.sort(key=lambda f: (order[f.level], -f.weight, f.name))
    return Diagnosis(findings, [*losssymptoms.unjudged(evidence), *runsymptoms.unjudged(evidence)])
