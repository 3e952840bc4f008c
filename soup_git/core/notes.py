"""Evaluation results as lines of a git note: `refs/notes/soup`.

One record is one line of JSON, so that git's own union of notes (`cat_sort_uniq`) merges
two people's results. Whoever can push can write there: what is no record of ours, or
claims something impossible, is passed over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from soup_git.core.baseload import BASE_AS, TRAINED
from soup_git.core.digests import MD5_HEX, SHA256_HEX
from soup_git.core.text import canonical_json
from soup_git.errors import FatalError

SCHEMA = "soup.eval/1"
MAX_LINE_BYTES = 64 << 10


@dataclass(frozen=True)
class Metric:
    value: float
    stderr: float | None = None
    """Standard error of `value`; None where it is unknown."""
    n: int | None = None
    """How many samples it was measured on."""

    def text(self) -> str:
        """`7.4 ±0.2`, with as many digits as the standard error allows."""
        if not self.stderr:
            return f"{self.value:.4g}"
        digits = min(6, max(0, -math.floor(math.log10(self.stderr))))
        return f"{self.value:.{digits}f} ±{self.stderr:.{digits}f}"


@dataclass(frozen=True)
class Gap:
    """Candidate minus baseline on the same rows: the pairs have less noise than two values."""

    value: float
    stderr: float | None
    low: float | None
    """The 95% interval."""
    high: float | None


@dataclass(frozen=True)
class Baseline:
    """What a record was compared with; `weights` None is the base model alone."""

    weights: str | None
    metrics: Mapping[str, Metric]
    differences: Mapping[str, Gap] = field(default_factory=dict)
    """Of the metrics that both sides have, where the rows were paired."""


@dataclass(frozen=True)
class EvalRecord:
    """The scores of one adapter on one suite."""

    adapter: str
    """Its path in the repository."""
    weights: str
    """md5 of its weights, as manifest and pointer name it."""
    suite: str
    suite_sha: str
    metrics: Mapping[str, Metric]
    """`TASK.SCORE` -> its value."""
    at: str
    """ISO 8601, with its offset from UTC."""
    baseline: Baseline | None = None
    base_as: str | None = None
    """How the base was loaded: `trained` where the adapter says how that was; or `full`, `4bit`,
    `8bit`, which were asked for. None is the base as it is, of which nothing was said."""
    schema: str = field(default=SCHEMA, init=False)

    def line(self) -> str:
        """The record as one line; raises for numbers that are not finite."""
        body: dict[str, Any] = {
            "schema": SCHEMA,
            "adapter": self.adapter,
            "weights": self.weights,
            "suite": self.suite,
            "suite_sha": self.suite_sha,
            "metrics": _metrics_body(self.metrics),
            "at": self.at,
        }
        if self.baseline is not None:
            body["baseline"] = _baseline_body(self.baseline)
        if self.base_as is not None:
            body["base_as"] = self.base_as
        if _record(body) is None:
            raise FatalError(
                f"these results cannot be noted: {self.adapter} on {self.suite}",
                hint="every value must be finite, and every record needs a metric and a date",
            )
        return canonical_json(body)

    @property
    def is_on_its_own_base(self) -> bool:
        """Whether the base was loaded as the adapter says, not as somebody asked for."""
        return self.base_as in {None, TRAINED}

    def summary(self) -> str:
        """The first metric and how many more there are, for one cell of a table."""
        name, metric = min(self.metrics.items())
        more = f" (+{len(self.metrics) - 1})" if len(self.metrics) > 1 else ""
        return f"{name} {metric.text()}{more}"


def parse_note(data: bytes) -> list[EvalRecord]:
    """The records in a note, oldest first; lines that are not ours are passed over."""
    found: dict[str, EvalRecord] = {}
    for line in note_lines(data):
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            continue
        record = _record(body)
        if record is not None:
            found[record.line()] = record
    return sorted(found.values(), key=lambda record: (moment(record.at), record.line()))


def note_lines(data: bytes) -> Iterator[bytes]:
    """The lines of a note that can be records of ours."""
    for line in data.split(b"\n"):
        if line.startswith(b"{") and len(line) <= MAX_LINE_BYTES:
            yield line


def latest(records: Iterable[EvalRecord]) -> EvalRecord | None:
    """The newest; one on another base than the adapter's own only where there is none on that."""
    return max(records, key=lambda r: (r.is_on_its_own_base, moment(r.at), r.line()), default=None)


def _record(body: Any) -> EvalRecord | None:
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        return None
    texts: list[Any] = [body.get(key) for key in ("adapter", "weights", "suite", "suite_sha", "at")]
    if not all(isinstance(text, str) and text for text in texts):
        return None
    adapter, weights, suite, suite_sha, at = texts
    metrics = _metrics(body.get("metrics"))
    baseline = _baseline(body["baseline"]) if body.get("baseline") is not None else None
    fits = (
        MD5_HEX.fullmatch(weights)
        and SHA256_HEX.fullmatch(suite_sha)
        and metrics
        and moment(at)
        and (baseline is not None or body.get("baseline") is None)
        and body.get("base_as") in (None, *BASE_AS)
    )
    if not fits or metrics is None:
        return None
    return EvalRecord(
        adapter, weights, suite, suite_sha, metrics, at, baseline, body.get("base_as")
    )


def _baseline(body: Any) -> Baseline | None:
    if not isinstance(body, dict):
        return None
    weights, metrics = body.get("weights"), _metrics(body.get("metrics"))
    is_md5 = weights is None or (isinstance(weights, str) and MD5_HEX.fullmatch(weights))
    differences = _differences(body.get("differences", {}))
    if not is_md5 or metrics is None or differences is None:
        return None
    return Baseline(weights, metrics, differences)


def _differences(body: Any) -> dict[str, Gap] | None:
    if not isinstance(body, dict):
        return None
    found = {}
    for name, item in sorted(body.items()):
        if not name or not isinstance(item, dict) or not _is_number(item.get("value")):
            return None
        others = [item.get(key) for key in ("stderr", "low", "high")]
        if not all(other is None or _is_number(other) for other in others):
            return None
        stderr, low, high = (None if other is None else float(other) for other in others)
        if (stderr is not None and stderr < 0) or (low is None) != (high is None):
            return None
        found[name] = Gap(float(item["value"]), stderr, low, high)
    return found


def _baseline_body(baseline: Baseline) -> dict[str, Any]:
    body: dict[str, Any] = {
        "weights": baseline.weights,
        "metrics": _metrics_body(baseline.metrics),
    }
    if baseline.differences:
        body["differences"] = {name: vars(gap) for name, gap in baseline.differences.items()}
    return body


def _metrics(body: Any) -> dict[str, Metric] | None:
    if not isinstance(body, dict):
        return None
    found = {}
    for name, item in sorted(body.items()):
        if not name or not isinstance(item, dict):
            return None
        value: Any = item.get("value")
        stderr, n = item.get("stderr"), item.get("n")
        sound = (
            _is_number(value)
            and (stderr is None or (_is_number(stderr) and stderr >= 0))
            and (n is None or (type(n) is int and n >= 0))
        )
        if not sound:
            return None
        found[name] = Metric(float(value), None if stderr is None else float(stderr), n)
    return found


def _metrics_body(metrics: Mapping[str, Metric]) -> dict[str, Any]:
    return {
        name: {"value": metric.value, "stderr": metric.stderr, "n": metric.n}
        for name, metric in metrics.items()
    }


def _is_number(value: Any) -> bool:
    if type(value) not in {int, float}:
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def moment(at: str) -> float:
    """Seconds since 1970; 0 for what is no date, and for dates without an offset from UTC."""
    try:
        moment = datetime.fromisoformat(at)
        return 0.0 if moment.tzinfo is None else moment.timestamp()
    except (ValueError, OverflowError):
        return 0.0
