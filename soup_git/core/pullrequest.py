"""A pull request of adapters as values: all that its page says, before anybody draws it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

from soup_git.core.digests import sha256_hex
from soup_git.core.drift import DriftSummary, LayerDrift
from soup_git.core.lockdiff import LockDiff, Mismatch
from soup_git.core.names import check_name
from soup_git.core.rowdiff import DatasetDiff
from soup_git.core.valuediff import ValueChange

READY = "ready"
STOP = "do not merge"
LOOK = "look closer"
NOTHING = "nothing to judge"

BETTER, WORSE, NOISE, SAME = "better", "worse", "within noise", "same"
UNSURE_BETTER, UNSURE_WORSE = "better, noise unknown", "worse, noise unknown"
MOVED, MISSING = "changed", "missing"

SHARE, PERCENT = "share", "%"
"""Units of a metric: a share of 1, shown in percent; or a number that is in percent already."""

_SLUG_LENGTH = 80


@dataclass(frozen=True)
class Reason:
    """A few words of ours, and the name from outside that they are about, which may be hostile."""

    words: str
    about: str = ""

    def text(self) -> str:
        return f"{self.about} {self.words}" if self.about else self.words


@dataclass(frozen=True)
class Verdict:
    word: str
    """ready, do not merge, look closer, or nothing to judge."""
    reasons: list[Reason]
    line: str
    """All of it as one line of text."""


def verdict_of(word: str, reasons: list[Reason]) -> Verdict:
    said = ", ".join(reason.text() for reason in reasons)
    return Verdict(word, reasons, f"{word}: {said}" if said else word)


@dataclass(frozen=True)
class MetricDelta:
    """One metric on both sides. None is a side that was not measured, never 0."""

    name: str
    baseline: float | None
    baseline_stderr: float | None
    candidate: float | None
    candidate_stderr: float | None
    delta: float | None
    """Candidate minus baseline."""
    delta_stderr: float | None
    n: int | None
    """How many rows it was measured on."""
    higher_is_better: bool | None
    """None where nobody said so."""
    unit: str
    """`share`, `%`, or nothing."""
    verdict: str
    gate: str | None = None
    """ok, warning or failed; None where no gate holds it to anything."""
    allowed: str = ""
    why: str = ""
    """What the gate says about it."""


@dataclass(frozen=True)
class Scores:
    """The metrics of one suite, or of one file."""

    source: str
    suite_sha: str | None
    baseline: str
    """What they are compared with, in words; empty where nothing was measured."""
    gate: str
    """passed, warning, failed, or none where no threshold is set."""
    remarks: list[str]
    """What a reader has to know about the gate."""
    doubts: list[str]
    """Why the gate's word is not enough: it has changed itself, or cannot be read."""
    metrics: list[MetricDelta]


@dataclass(frozen=True)
class SamplePair:
    prompt: str
    baseline_output: str
    candidate_output: str

    @property
    def same(self) -> bool:
        return self.baseline_output == self.candidate_output


@dataclass(frozen=True)
class Reproduction:
    """Whether somebody made the adapter again from its lock or recipe, and got the same."""

    state: str
    """identical, equivalent (within the tolerance), different, or unknown."""
    command: str
    """What finds out, where it is unknown."""
    at: str | None = None
    tolerance: float | None = None
    largest_relative_difference: float | None = None


@dataclass(frozen=True)
class AdapterChange:
    """One adapter that differs between merge base and head."""

    path: str
    status: str
    """changed, added, removed, renamed, reconfigured, or unchanged where it was asked about."""
    renamed_from: str | None
    base_model_before: str | None
    base_model: str | None
    weights_before: str | None
    """md5."""
    weights: str | None
    recipe: list[str]
    """Of a merged adapter: what it was made of."""
    drift: DriftSummary | None
    layers: list[LayerDrift]
    """By drift, the largest first."""
    drift_unknown: str
    """Why there is no drift."""
    scores: list[Scores]
    scores_command: str
    """What measures them, where there are none."""
    samples: list[SamplePair]
    samples_command: str
    reproduction: Reproduction
    changed_in_base: bool = False
    """Whether the base has another one by now than at the merge base, and not head's."""

    @property
    def base_differs(self) -> bool:
        both = self.status not in {"added", "removed"}
        return both and self.base_model_before != self.base_model

    @property
    def is_judged(self) -> bool:
        """Whether scores are asked of it: an adapter that is gone or only moved has none to show."""
        return self.status not in {"removed", "renamed"}


@dataclass(frozen=True)
class LockState:
    """Head's soup.lock against head's own files, as far as git speed can tell."""

    state: str
    """holds, drifted, not pinned (in part), or missing."""
    drift: list[Mismatch]
    not_pinned: list[str]
    strays: list[str]
    """Adapters whose weights are not those that the lock names."""


@dataclass(frozen=True)
class Commit:
    """One commit that touched an adapter, the config, the data or the lock."""

    commit: str
    author: str
    date: str
    subject: str
    touched: list[str]
    runs: list[str]
    """The training runs that made its adapters."""
    trailers: dict[str, str]


@dataclass(frozen=True)
class Revision:
    name: str
    """As it was asked for: a branch, or anything that git resolves."""
    commit: str


@dataclass(frozen=True)
class PullRequest:
    schema: ClassVar[str] = "soup.pr/1"
    title: str
    slug: str
    verdict: Verdict
    base: Revision
    head: Revision
    merge_base: str
    commits: int
    adapters: list[AdapterChange]
    lock: LockState
    config_changes: list[ValueChange]
    lock_changes: LockDiff
    datasets: list[DatasetDiff]
    datasets_unknown: str
    """Why the datasets could not be compared."""
    lineage: list[Commit]
    reproduce: list[str]
    """Commands, in order."""

    @property
    def ref(self) -> str:
        return PRS + self.slug


PRS = "refs/soup/prs/"


def slug_of(text: str) -> str:
    """A name for the page: lower case, ASCII, words joined by `-`; valid wherever a name is.

    A text without any Latin letter or digit is named by its digest.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG_LENGTH].strip("-")
    return check_name(words or f"page-{sha256_hex(text.encode('utf-8', 'replace'))[:8]}", "page")
