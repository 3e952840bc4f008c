"""Words and signs that both drawings of a pull request share; no name from outside is in them."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.drift import percent
from soup_git.core.pullrequest import (
    BETTER,
    LOOK,
    MISSING,
    MOVED,
    NOISE,
    NOTHING,
    READY,
    SAME,
    STOP,
    UNSURE_BETTER,
    UNSURE_WORSE,
    WORSE,
    AdapterChange,
    MetricDelta,
    PullRequest,
    SamplePair,
    Scores,
)
from soup_git.core.rowdiff import DatasetDiff
from soup_git.core.text import counted

SIGNS = {READY: "✅", STOP: "⛔", LOOK: "⚠️", NOTHING: "➖"}
MARKS = {
    BETTER: "✓ better", WORSE: "✗ worse", NOISE: "≈ within noise", SAME: "= same",
    UNSURE_BETTER: "? better, noise unknown", UNSURE_WORSE: "? worse, noise unknown",
    MOVED: "△ changed", MISSING: "– not compared",
}  # fmt: skip
_ORDER = (WORSE, UNSURE_WORSE, BETTER, UNSURE_BETTER, MOVED, NOISE, SAME, MISSING)
FIRST_SAMPLES = 3


def by_importance(metrics: Sequence[MetricDelta]) -> list[MetricDelta]:
    """What failed, then what got worse, better, and the rest; else as the suite has them."""
    return sorted(metrics, key=lambda m: (m.gate != "failed", _ORDER.index(m.verdict)))


def gate_words(scores: Scores) -> str:
    words = {
        "passed": "✓ passed",
        "warning": "✓ passed, with warnings within the noise",
        "failed": "✗ failed",
    }
    if scores.gate in words:
        return words[scores.gate]
    failed = any(metric.gate == "failed" for metric in scores.metrics)
    if failed:
        return "✗ none is set, and a score got worse"
    # A gate that is set and could not be asked is not one that nobody set.
    return f"? {scores.doubts[0]}" if scores.doubts else "– none is set"


def held(metric: MetricDelta) -> str:
    """What the gate asks and found; empty where it asks nothing."""
    if metric.allowed:
        word = {"ok": "✓", "warning": "≈", "failed": "✗"}.get(metric.gate or "", "")
        return f"{word} {metric.allowed}".strip()
    return metric.why if metric.gate == "failed" and metric.candidate is None else ""


def drift_words(adapter: AdapterChange) -> str:
    """`28 modules, 28 changed, total drift 12.3 %`."""
    if adapter.drift is None:
        return {
            "added": "new: there is nothing to compare its weights with",
            "removed": "removed",
            "renamed": "renamed, with equal weights",
            "unchanged": "unchanged",
        }.get(adapter.status, "could not be compared")
    if adapter.drift.equal:
        return "equal weights"
    total = percent(adapter.drift.relative_drift)
    return f"{adapter.drift.counts}, total drift {total}"


def lock_words(pr: PullRequest) -> str:
    pins = ", ".join(dict.fromkeys(mismatch.pin for mismatch in pr.lock.drift))
    match pr.lock.state:
        case "holds":
            return "✓ holds"
        case "missing":
            return "? head has no soup.lock"
        case "not pinned":
            return f"? not pinned: {', '.join(pr.lock.not_pinned)}"
    return f"✗ drifted: {pins}" if pins else "✗ names other weights"


def rebuilt_words(adapter: AdapterChange) -> str:
    found = adapter.reproduction
    match found.state:
        case "identical":
            return "✓ identical"
        case "equivalent":
            return f"✓ within {found.tolerance:g} of it"
        case "different":
            most = found.largest_relative_difference
            return "✗ different" + (f", by up to {percent(most)} in a module" if most else "")
    if adapter.weights is None:
        return "– removed"
    return "? not yet" if found.command else "– it was added: nothing says how it was made"


def first_samples(samples: Sequence[SamplePair]) -> list[SamplePair]:
    """Those that say something: outputs that differ come first."""
    return sorted(samples, key=lambda sample: sample.same)[:FIRST_SAMPLES]


def samples_words(samples: Sequence[SamplePair]) -> str:
    same = sum(sample.same for sample in samples)
    return f"{counted(len(samples), 'sample')}, {same} answered the same"


def dataset_words(found: DatasetDiff) -> str:
    """`4,812 → 5,120 rows: +312 added, −4 removed, 3 changed`."""
    parts = [
        f"{sign}{count:,} {word}"
        for sign, count, word in (
            ("+", found.added, "added"),
            ("−", found.removed, "removed"),
            ("", found.changed, "changed"),
            ("", found.moved, "moved"),
        )
        if count
    ]
    rows = f"{found.a.rows:,} → {found.b.rows:,} rows"
    return f"{rows}: {', '.join(parts)}" if parts else f"{found.b.rows:,} rows, the same"


def wrapped(text: str, width: int) -> str:
    """`text` with lines of at most `width` characters, broken at spaces where there are some."""
    return "\n".join(piece for line in text.split("\n") for piece in _broken(line, width))


def _broken(line: str, width: int) -> list[str]:
    pieces = []
    while len(line) > width:
        space = line.rfind(" ", width // 2, width + 1)
        at = space if space > 0 else width
        pieces.append(line[:at])
        line = line[at:].removeprefix(" ")
    return [*pieces, line]


def shortened_text(text: str, characters: int, lines: int) -> str:
    """The start of a text; a cut one says how much more there is."""
    kept = "\n".join(text.split("\n")[:lines])[:characters]
    left = len(text) - len(kept)
    return f"{kept}\n… ({counted(left, 'character')} more)" if left > 0 else text
