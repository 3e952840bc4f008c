"""What a pull request's page says of scores: from the notes on both sides, or from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from soup_git.core.manifest import MANIFEST, Manifest
from soup_git.core.metricnames import higher_is_better
from soup_git.core.notes import EvalRecord, Gap, Metric, latest
from soup_git.core.prfiles import GivenDelta
from soup_git.core.pullrequest import (
    BETTER,
    MISSING,
    MOVED,
    NOISE,
    SAME,
    SHARE,
    UNSURE_BETTER,
    UNSURE_WORSE,
    WORSE,
    MetricDelta,
    Scores,
)
from soup_git.errors import FatalError
from soup_git.evaluation.gating import FAILED, OK, WARNING, Decision, decide, worse
from soup_git.evaluation.noted import NotedScore, independent, known_metric, noted_scores
from soup_git.evaluation.pinnedsuite import suite_at
from soup_git.evaluation.statistics import Difference
from soup_git.evaluation.suite import Suite, Threshold
from soup_git.storage.notes import read_notes
from soup_git.storage.resolver import Adapter
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace

_SEVERITY = (OK, WARNING, FAILED)


@dataclass(frozen=True)
class Side:
    """One side of the comparison: a commit, and the adapter that it has there, if any.

    `loose` is the adapter of a folder that was named and that no revision has.
    """

    name: str
    commit: str
    snapshot: Snapshot
    folder: str
    manifest: Manifest | None
    loose: Adapter | None = None

    @property
    def manifest_blob(self) -> str | None:
        return self.snapshot.entries.get(inside_folder(self.folder, MANIFEST))

    @property
    def weights(self) -> str | None:
        return self.manifest.weights_md5 if self.manifest is not None else None


# -- from notes --------------------------------------------------------------------------------


def noted(workspace: Workspace, before: Side, after: Side) -> list[Scores]:
    """The latest scores of `after`, a group for each suite, against those of `before`."""
    records = _records(workspace, after)
    others = _records(workspace, before)
    suites = sorted({record.suite for record in records})
    return [_of_suite(workspace, name, records, others, before, after) for name in suites]


def _records(workspace: Workspace, side: Side) -> list[EvalRecord]:
    """What is noted of a side's weights, on its commit or on its manifest."""
    blob = side.manifest_blob
    if side.weights is None or blob is None:
        return []
    found = read_notes(workspace.git, [side.commit, blob])
    unique = {record.line(): record for records in found.values() for record in records}
    return [record for record in unique.values() if record.weights == side.weights]


def _of_suite(
    workspace: Workspace,
    suite: str,
    records: Sequence[EvalRecord],
    others: Sequence[EvalRecord],
    before: Side,
    after: Side,
) -> Scores:
    newest = latest(record for record in records if record.suite == suite)
    assert newest is not None  # noqa: S101 - the suite was taken from these records
    same_suite = [r for r in records if _is_comparable(r, newest)]
    there = latest(r for r in others if _is_comparable(r, newest))
    found = _compared(newest, same_suite, there, before)
    results = noted_scores(found.record.metrics, found.gaps)
    baseline = None if found.baseline is None else noted_scores(found.baseline, {})
    gate = _held_to(workspace, suite, newest.suite_sha, before.snapshot, after.snapshot)
    return _decided(gate, found.name, results, baseline)


def _is_comparable(record: EvalRecord, newest: EvalRecord) -> bool:
    """One suite, and bases that were loaded alike: each adapter's own, or the one asked for."""
    own = record.is_on_its_own_base and newest.is_on_its_own_base
    return record.suite_sha == newest.suite_sha and (own or record.base_as == newest.base_as)


@dataclass(frozen=True)
class _Compared:
    """A record, and what its scores are compared with."""

    record: EvalRecord
    name: str
    baseline: Mapping[str, Metric] | None
    gaps: Mapping[str, Gap]


def _compared(
    newest: EvalRecord, same_suite: Sequence[EvalRecord], there: EvalRecord | None, before: Side
) -> _Compared:
    """Row by row with `before` where a record has that; else two values, or its own baseline."""
    paired = latest(r for r in same_suite if r.baseline and r.baseline.weights == before.weights)
    if paired is not None and paired.baseline is not None:
        name = before.name if before.weights else "the base model alone"
        return _Compared(paired, name, paired.baseline.metrics, paired.baseline.differences)
    if there is not None:
        return _Compared(newest, before.name, there.metrics, {})
    other = latest(r for r in same_suite if r.baseline)
    if other is None or other.baseline is None:
        return _Compared(newest, "", None, {})
    md5 = other.baseline.weights
    name = f"the adapter with md5:{md5}" if md5 else "the base model alone"
    return _Compared(other, name, other.baseline.metrics, other.baseline.differences)


@dataclass(frozen=True)
class _Gate:
    """What the scores of one suite are held to, and what is to be said about it."""

    source: str
    sha256: str | None
    thresholds: Mapping[str, Threshold]
    remarks: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def _held_to(
    workspace: Workspace, path: str, sha256: str, before: Snapshot, after: Snapshot
) -> _Gate:
    """The gate of the suite that was scored: only if head still has exactly that suite."""
    try:
        suite = suite_at(workspace, after, path)
    except FatalError as error:
        why = str(error).split("\n")[0]
        return _Gate(path, sha256, {}, (f"its gate could not be read: {why}",), ("cannot be read",))
    if suite is None:
        return _Gate(path, sha256, {}, ("head has no such file, so no gate is known",))
    if suite.sha256 != sha256:
        said = "it is not the suite at head any more, so its gate is not applied"
        return _Gate(path, sha256, {}, (said,), ("changed since it was scored",))
    return _with_own_changes(path, suite, before, after)


def _with_own_changes(path: str, suite: Suite, before: Snapshot, after: Snapshot) -> _Gate:
    remarks = [] if suite.thresholds else ["no gate is set: nothing may be worse beyond its noise"]
    doubts = []
    if path in before.entries and before.entries[path] != after.entries[path]:
        remarks.append("this pull request changes the suite")
        doubts.append("is changed here, and judges itself")
    return _Gate(path, suite.sha256, suite.thresholds, tuple(remarks), tuple(doubts))


# -- from a file -------------------------------------------------------------------------------


def given(deltas: Sequence[GivenDelta], source: str, before: str) -> Scores:
    """The metrics of an `eval_delta.json`; no gate, so that nothing may be worse beyond its noise."""
    results = [_given_score(delta) for delta in deltas]
    baseline = [NotedScore(delta.name, delta.baseline) for delta in deltas]
    gate = _Gate(source, None, {}, ("no gate is set: the numbers are the file's",))
    directions = {delta.name: _direction(delta) for delta in deltas}
    measured = {b.name for b in baseline if b.value is not None}
    known = [
        r for r in results
        if directions[r.name] is not None and r.value is not None and r.name in measured
    ]  # fmt: skip
    found = _decided(gate, before, known, [b for b in baseline if b.name in measured])
    judged = {metric.name: metric for metric in found.metrics}
    metrics = []
    for delta, result in zip(deltas, results, strict=True):
        metric = judged.get(delta.name) or _metric(result, NotedScore(delta.name, delta.baseline))
        direction = directions[delta.name]
        if direction is None and metric.verdict not in {MISSING, SAME}:
            metric = replace(metric, verdict=MOVED)
        metrics.append(replace(metric, unit=delta.unit, higher_is_better=direction))
    return replace(found, metrics=metrics)


def _direction(delta: GivenDelta) -> bool | None:
    """Which way is better, where the file says so, or the name does."""
    if delta.higher_is_better is not None:
        return delta.higher_is_better
    known = known_metric(delta.name)
    return known.higher_is_better if known else higher_is_better(delta.name)


def _given_score(delta: GivenDelta) -> NotedScore:
    gap = None
    if delta.stderr is not None and delta.candidate is not None and delta.baseline is not None:
        gap = independent(delta.candidate - delta.baseline, delta.stderr, 0)
    return NotedScore(
        delta.name, delta.candidate, higher_is_better=_direction(delta) is not False, gap=gap
    )


# -- what is made of both ----------------------------------------------------------------------


def _decided(
    gate: _Gate,
    name: str,
    results: Sequence[NotedScore],
    baseline: Sequence[NotedScore] | None,
) -> Scores:
    """Each score with its difference and what the gate says; `baseline` None was not measured."""
    thresholds = dict(gate.thresholds)
    doubts, remarks = list(gate.doubts), list(gate.remarks)
    if baseline is None:
        drops = [key for key, t in thresholds.items() if t.max_drop is not None]
        thresholds = {key: _without_drop(t) for key, t in thresholds.items()}
        if drops:
            doubts.append("allows a drop, and no baseline was scored")
    others = {score.name: score for score in baseline or ()}
    # What only the baseline has is nothing to decide on; `decide` names what a gate misses.
    decisions: dict[str, list[Decision]] = {}
    for decision in decide(results, baseline, thresholds):
        decisions.setdefault(decision.name, []).append(decision)
    metrics = [_with_gate(_metric(r, others.get(r.name)), decisions, gate) for r in results]
    scored = {result.name for result in results}
    absent = [_absent(key) for key in decisions if key not in scored]
    metrics += [_with_gate(metric, decisions, gate) for metric in absent]
    states = [m.gate for m in metrics if m.name in gate.thresholds and m.gate is not None]
    word = {OK: "passed", WARNING: "warning", FAILED: "failed"}[
        max(states, key=_SEVERITY.index, default=OK)
    ]
    return Scores(
        gate.source, gate.sha256, name, word if states else "none", remarks, doubts, metrics
    )


def _without_drop(threshold: Threshold) -> Threshold:
    """The same bounds, without the drop that nothing can be compared for."""
    return Threshold(min=threshold.min, max=threshold.max)


def _absent(name: str) -> MetricDelta:
    return MetricDelta(name, None, None, None, None, None, None, None, None, "", MISSING)


def _metric(score: NotedScore, baseline: NotedScore | None) -> MetricDelta:
    gap = score.against(baseline) if baseline is not None and baseline.value is not None else None
    gap = gap if score.value is not None else None
    return MetricDelta(
        name=score.name,
        baseline=baseline.value if baseline else None,
        baseline_stderr=baseline.stderr if baseline else None,
        candidate=score.value,
        candidate_stderr=score.stderr,
        delta=gap.value if gap else None,
        delta_stderr=gap.stderr if gap else None,
        n=score.n,
        higher_is_better=score.higher_is_better,
        unit=SHARE if score.binary else "",
        verdict=_word(gap, score.higher_is_better),
    )


def _word(gap: Difference | None, higher_is_better: bool) -> str:
    if gap is None:
        return MISSING
    if gap.value == 0:
        return SAME
    drop, _, _ = worse(gap, higher_is_better)
    if gap.stderr is None:
        return UNSURE_WORSE if drop > 0 else UNSURE_BETTER
    if gap.is_noise:
        return NOISE
    return WORSE if drop > 0 else BETTER


def _with_gate(
    metric: MetricDelta, decisions: Mapping[str, list[Decision]], gate: _Gate
) -> MetricDelta:
    found = decisions.get(metric.name, [])
    if not found:
        return metric
    state = max((d.state for d in found), key=_SEVERITY.index)
    why = "; ".join(d.why for d in found if d.why and d.state == state)
    is_set = metric.name in gate.thresholds
    allowed = ", ".join(d.allowed for d in found if d.allowed) if is_set else ""
    return replace(metric, gate=state, allowed=allowed, why=why)
