"""Whether a merge kept what its inputs could: OK, MINOR, MAJOR or UNKNOWN, with the numbers.

Each score of the result is compared with the best input's, row by row. A drop below 2% is
OK, below 5% MINOR (the original tool's bounds). Where the interval of the drop holds both
what is OK and what is MAJOR, the suite cannot tell, and the verdict is UNKNOWN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soup_git.evaluation.gating import worse
from soup_git.evaluation.results import TaskResult, by_name
from soup_git.evaluation.statistics import EXP_MEAN

OK_BELOW, MINOR_BELOW = 0.02, 0.05
_WORST_FIRST = ("MAJOR", "UNKNOWN", "MINOR", "OK")


@dataclass(frozen=True)
class ScoreVerdict:
    """One score: of the result, of the best input, and the relative drop with its interval."""

    name: str
    verdict: str
    value: float | None
    best: float | None
    best_input: str | None
    drop: float | None
    """A share of the best input's value; negative where the merge is better."""
    drop_low: float | None
    drop_high: float | None


@dataclass(frozen=True)
class Verdict:
    verdict: str
    suite: str
    suite_sha: str
    why: str
    """What kept it from being judged; empty otherwise."""
    scores: list[ScoreVerdict] = field(default_factory=list)


def judge(
    suite: str,
    suite_sha: str,
    inputs: Mapping[str, Sequence[TaskResult]],
    merged: Sequence[TaskResult],
) -> Verdict:
    """The verdict on a merge; `inputs` by their specs."""
    scores = [_of_score(result, inputs) for result in merged if result.kind != EXP_MEAN]
    found = {score.verdict for score in scores} or {"UNKNOWN"}
    overall = next(word for word in _WORST_FIRST if word in found)
    why = ""
    if overall == "UNKNOWN":
        unclear = [score.name for score in scores if score.verdict == "UNKNOWN"]
        why = (
            f"the noise is larger than what would tell: {', '.join(unclear)}"
            if unclear
            else "no score"
        )
    return Verdict(overall, suite, suite_sha, why, scores)


def unknown(suite: str, suite_sha: str, why: str) -> Verdict:
    """Nothing could be scored."""
    return Verdict("UNKNOWN", suite, suite_sha, why)


def _of_score(merged: TaskResult, inputs: Mapping[str, Sequence[TaskResult]]) -> ScoreVerdict:
    sign = 1.0 if merged.higher_is_better else -1.0
    known = {
        spec: found
        for spec, results in inputs.items()
        if (found := by_name(results).get(merged.name)) is not None and found.value is not None
    }
    if merged.value is None or not known:
        return ScoreVerdict(merged.name, "UNKNOWN", merged.value, None, None, None, None, None)
    spec, best = max(known.items(), key=lambda item: sign * (item[1].value or 0.0))
    gap = merged.against(best)
    scale = abs(best.value or 0.0) or 1.0
    if gap is None:
        return ScoreVerdict(
            merged.name, "UNKNOWN", merged.value, best.value, spec, None, None, None
        )
    drop, low, high = (
        None if x is None else x / scale for x in worse(gap, merged.higher_is_better)
    )
    return ScoreVerdict(
        merged.name, _word(drop, low, high), merged.value, best.value, spec, drop, low, high
    )


def _word(drop: float | None, low: float | None, high: float | None) -> str:
    if drop is None or low is None or high is None or (low < OK_BELOW and high >= MINOR_BELOW):
        return "UNKNOWN"
    return "OK" if drop < OK_BELOW else "MINOR" if drop < MINOR_BELOW else "MAJOR"
