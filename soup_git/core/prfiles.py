"""The files a pull request's page can be given: metric deltas and sample outputs, as JSON.

Both are the original tool's; what `git soup eval --json` and `git soup compare --json` write
is read too. Whoever wrote them is not trusted: sizes are bounded, numbers have to be finite.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from soup_git.core.pullrequest import PERCENT, SamplePair
from soup_git.core.text import printable
from soup_git.errors import FatalError

MAX_DELTAS = 64
MAX_SAMPLES = 256
MAX_SAMPLE_BYTES = 32 << 10
MAX_FILE_BYTES = 64 << 20
_MAX_NAME = 256

_NUMBER = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<percent>%?)")


@dataclass(frozen=True)
class GivenDelta:
    """One entry of an `eval_delta.json`; None is a side that was not measured."""

    name: str
    baseline: float | None
    candidate: float | None
    unit: str
    stderr: float | None
    """Of the difference."""
    higher_is_better: bool | None


def parse_deltas(data: bytes, where: str) -> list[GivenDelta]:
    """The metrics of an `eval_delta.json`. Raises FatalError for what cannot be shown truly."""
    body = _json(data, where)
    if isinstance(body, dict) and body.get("schema") == "soup.scores/1":
        body = _of_scores(body, where)
    entries = _entries(body, where, "metric", MAX_DELTAS)
    found = [_delta(entry, f"{where}: entry {n}") for n, entry in enumerate(entries, 1)]
    twice = {d.name for d in found if [x.name for x in found].count(d.name) > 1}
    if twice:
        _refuse(where, f"{printable(min(twice))} is there twice")
    return found


def parse_samples(data: bytes, where: str) -> list[SamplePair]:
    """The outputs of a `sample_diffs.json`; a text longer than 32 KiB is cut, and says so."""
    body = _json(data, where)
    if isinstance(body, dict) and body.get("schema") == "soup.samples/1":
        body = body.get("samples")
    entries = _entries(body, where, "prompt", MAX_SAMPLES)
    keys = ("prompt", "baseline_output", "candidate_output")
    found = []
    for number, entry in enumerate(entries, 1):
        texts = [_sample_text(entry.get(key), key, f"{where}: entry {number}") for key in keys]
        found.append(SamplePair(*texts))
    return found


def _sample_text(text: Any, key: str, where: str) -> str:
    if not isinstance(text, str):
        _refuse(where, f"{key} is {_kind(text)}, not a text")
    return cut_sample(text)


def cut_sample(text: str) -> str:
    """At most 32 KiB of `text`; a cut one says how long it was."""
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_SAMPLE_BYTES:
        return data.decode()
    note = f"\n… (cut: {len(data):,} bytes)"
    return data[: MAX_SAMPLE_BYTES - len(note.encode())].decode("utf-8", "ignore") + note


def _json(data: bytes, where: str) -> Any:
    if len(data) > MAX_FILE_BYTES:
        _refuse(where, "it is longer than 64 MiB, and no more is read")
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_Odd)
    except (ValueError, RecursionError) as error:
        _refuse(where, f"it is not JSON ({error})")


@dataclass(frozen=True)
class _Odd:
    """NaN or an infinity, which JSON does not have and Python's writer leaves in files."""

    name: str


def _entries(body: Any, where: str, first: str, most: int) -> list[dict[str, Any]]:
    if not isinstance(body, list) or not all(isinstance(entry, dict) for entry in body):
        _refuse(where, f'it is no list of objects [{{"{first}": …}}, …]')
    if len(body) > most:
        _refuse(where, f"it has {len(body)} entries; a page takes {most} at most")
    return body


def _of_scores(body: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """What `git soup eval --json` wrote, of one adapter and its baseline."""
    adapters, baseline = body.get("adapters"), body.get("baseline")
    if not isinstance(adapters, list) or len(adapters) != 1 or not isinstance(adapters[0], dict):
        _refuse(where, "these are the scores of several adapters; a page shows one")
    before = {s.get("name"): s for s in _scores(baseline, where)} if baseline else {}
    return [
        {
            "metric": score.get("name"),
            "baseline": before.get(score.get("name"), {}).get("value"),
            "candidate": score.get("value"),
            "stderr": score.get("difference_stderr"),
            "higher_is_better": score.get("higher_is_better"),
        }
        for score in _scores(adapters[0], where)
    ]


def _scores(side: Any, where: str) -> list[Mapping[str, Any]]:
    scores = side.get("scores") if isinstance(side, dict) else None
    if not isinstance(scores, list) or not all(isinstance(score, dict) for score in scores):
        _refuse(where, "it has no scores")
    return scores


def _delta(entry: Mapping[str, Any], where: str) -> GivenDelta:
    name = entry.get("metric")
    if not isinstance(name, str) or not name.strip():
        _refuse(where, "metric is no name")
    if len(name) > _MAX_NAME:
        _refuse(where, f"metric is a name of {len(name):,} characters")
    where = f"{where} ({printable(name)})"
    baseline, unit_before = _value(entry.get("baseline"), "baseline", where)
    candidate, unit = _value(entry.get("candidate"), "candidate", where)
    if None not in {baseline, candidate} and unit_before != unit:
        _refuse(where, "one side is a percentage, the other is not")
    stderr, _ = _value(entry.get("stderr"), "stderr", where)
    if stderr is not None and stderr < 0:
        _refuse(where, "stderr is below 0")
    higher = entry.get("higher_is_better")
    if higher is not None and not isinstance(higher, bool):
        _refuse(where, f"higher_is_better is {_kind(higher)}, not true or false")
    return GivenDelta(name, baseline, candidate, unit or unit_before, stderr, higher)


def _value(value: Any, key: str, where: str) -> tuple[float | None, str]:
    if value is None:
        return None, ""
    number, unit = value, ""
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value.strip())
        if found is None:
            _refuse(where, f"{key} is the text {printable(value[:40])!r}, not a number")
        number, unit = float(found["number"]), PERCENT if found["percent"] else ""
    if isinstance(number, bool) or not isinstance(number, int | float):
        _refuse(where, f"{key} is {_kind(value)}, not a number")
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse(where, f"{key} is no finite number")
    return number, unit


def _kind(value: Any) -> str:
    if isinstance(value, _Odd):
        return value.name
    words = {type(None): "missing", bool: "true or false", str: "a text", list: "a list"}
    return words.get(type(value), "a number" if isinstance(value, int | float) else "an object")


def _refuse(where: str, what: str) -> NoReturn:
    raise FatalError(
        f"{where}: {what}", hint="docs/howto/review.md shows the files that git soup pr reads"
    )
