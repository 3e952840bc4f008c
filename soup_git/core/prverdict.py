"""The first line of a pull request's page: may it be merged, and why.

A score that got worse by more than its noise, or fails its gate, is a reason not to merge.
What is unknown, or not what it says it is, asks for a closer look. Everything else is ready.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from soup_git.core.prnumbers import delta_text, value_text
from soup_git.core.pullrequest import (
    LOOK,
    MISSING,
    MOVED,
    NOTHING,
    READY,
    STOP,
    UNSURE_BETTER,
    UNSURE_WORSE,
    WORSE,
    AdapterChange,
    LockState,
    MetricDelta,
    Reason,
    Scores,
    Verdict,
    verdict_of,
)
from soup_git.core.text import counted

_NAMED = 3
"""So many reasons fit on a line; the others are counted."""


def judge(adapters: Sequence[AdapterChange], lock: LockState) -> Verdict:
    if not adapters:
        return verdict_of(NOTHING, [Reason("no adapter changed")])
    stops = [reason for adapter in adapters for reason in _stops(adapter)]
    if stops:
        return verdict_of(STOP, _few(stops))
    doubts = [*_lock_doubts(lock)]
    doubts += [reason for adapter in adapters for reason in _doubts(adapter)]
    if doubts:
        return verdict_of(LOOK, _few(doubts))
    return verdict_of(READY, _all_well(adapters, lock))


def _few(reasons: Sequence[Reason]) -> list[Reason]:
    unique = list(dict.fromkeys(reasons))
    if len(unique) <= _NAMED:
        return unique
    return [*unique[: _NAMED - 1], Reason(f"and {len(unique) - _NAMED + 1} more")]


def _stops(adapter: AdapterChange) -> Iterator[Reason]:
    for scores in adapter.scores:
        for metric in scores.metrics:
            if is_failed(metric):
                yield Reason(_how_much(metric), metric.name)


def is_failed(metric: MetricDelta) -> bool:
    return metric.gate == "failed"


def _how_much(metric: MetricDelta) -> str:
    """`−7.9 ± 1.1 points`, or what the gate asked for where it is not about the difference."""
    if metric.verdict == WORSE:
        return delta_text(metric)
    if metric.candidate is None:
        return metric.why or "was not measured"
    value = value_text(metric.candidate, metric.candidate_stderr, metric.unit)
    return f"{value}, {metric.allowed} is asked" if metric.allowed else metric.why


def _lock_doubts(lock: LockState) -> Iterator[Reason]:
    if lock.state == "missing":
        yield Reason("no soup.lock pins its inputs")
    for pin in dict.fromkeys(mismatch.pin for mismatch in lock.drift):
        yield Reason(f"{pin} drifted from soup.lock")
    for pin in lock.not_pinned:
        yield Reason(f"{pin} is not pinned")
    for path in lock.strays:
        yield Reason("has other weights than soup.lock names", path)


def _doubts(adapter: AdapterChange) -> Iterator[Reason]:
    if adapter.base_differs:
        yield Reason("is for another base model now", adapter.path)
    if adapter.changed_in_base:
        yield Reason("was changed in the base too, and nobody scored both together", adapter.path)
    if adapter.status == "removed":
        yield Reason("is removed", adapter.path)
    if adapter.reproduction.state == "different":
        yield Reason("came out differently when it was rebuilt", adapter.path)
    if not adapter.is_judged:
        return
    if adapter.drift is None and adapter.status == "changed":
        yield Reason("could not be compared", adapter.path)
    if not adapter.scores:
        yield Reason("was not evaluated", adapter.path)
    for scores in adapter.scores:
        yield from _score_doubts(scores)


def _score_doubts(scores: Scores) -> Iterator[Reason]:
    for doubt in scores.doubts:
        yield Reason(doubt, scores.source)
    unsure = [m for m in scores.metrics if m.verdict == UNSURE_WORSE and m.gate != "ok"]
    for metric in unsure:
        yield Reason(f"{delta_text(metric)}, noise unknown", metric.name)
    for metric in scores.metrics:
        if metric.candidate is None and metric.baseline is not None:
            yield Reason("was not measured", metric.name)
    compared = [m for m in scores.metrics if m.verdict != MISSING]
    moved = [m for m in compared if m.verdict == MOVED]
    if not scores.metrics:
        yield Reason("has no score", scores.source)
    elif not compared and not scores.doubts and scores.gate == "none":
        yield Reason("has no baseline to compare with", scores.source)
    elif compared and moved == compared:
        yield Reason("does not say which way is better", scores.source)
        return
    for metric in moved:
        yield Reason(f"{delta_text(metric)}, better or worse is not said", metric.name)
    is_better = any(m.verdict == UNSURE_BETTER for m in compared)
    if is_better and not unsure and all(m.delta_stderr is None for m in compared):
        yield Reason("states no noise", scores.source)


def _all_well(adapters: Sequence[AdapterChange], lock: LockState) -> list[Reason]:
    reasons = []
    scores = [one for adapter in adapters for one in adapter.scores]
    if scores:
        is_gated = any(one.gate != "none" for one in scores)
        # What no gate holds to anything is beside it in the table, as within the noise.
        warned = sum(m.gate == "warning" and bool(m.allowed) for s in scores for m in s.metrics)
        words = "gate passed" if is_gated else "nothing worse beyond the noise, no gate set"
        reasons.append(
            Reason(words + (f" with {counted(warned, 'warning')}" if warned and is_gated else ""))
        )
    if lock.state == "holds":
        reasons.append(Reason("lock holds"))
    states = {adapter.reproduction.state for adapter in adapters}
    if states <= {"identical"}:
        reasons.append(Reason("reproduced"))
    elif states <= {"identical", "equivalent"}:
        reasons.append(Reason("reproduced within the tolerance"))
    else:
        reasons.append(Reason("not rebuilt yet"))
    return reasons
