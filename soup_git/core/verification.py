"""What `git soup verify` found, as a line of the same git note that holds evaluations.

Readers of evaluations pass over these lines, and the other way round; a union merge of two
people's notes keeps both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from soup_git.core.digests import MD5_HEX, SHA256_HEX
from soup_git.core.notes import moment, note_lines
from soup_git.core.text import canonical_json

SCHEMA = "soup.verify/1"
VERDICTS = ("identical", "equivalent", "different")


@dataclass(frozen=True)
class Verification:
    """One attempt to make an adapter again."""

    adapter: str
    """Its path in the repository."""
    verdict: str
    """identical, equivalent (within the tolerance) or different."""
    expected_md5: str
    rebuilt_md5: str
    at: str
    """ISO 8601, with its offset from UTC."""
    run: str | None = None
    """The run that its lock names (`Lock.run`): what it was made again from, if not a recipe."""
    tolerance: float | None = None
    """The largest relative difference that was accepted."""
    largest_relative_difference: float | None = None

    def line(self) -> str:
        return canonical_json({"schema": SCHEMA, **vars(self)})


def parse_verifications(data: bytes) -> list[Verification]:
    """The verifications in a note, oldest first; lines that are none are passed over."""
    found: dict[str, Verification] = {}
    for line in note_lines(data):
        try:
            one = _verification(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if one is not None:
            found[one.line()] = one
    return sorted(found.values(), key=lambda one: (moment(one.at), one.line()))


def latest_verification(found: Iterable[Verification]) -> Verification | None:
    return max(found, key=lambda one: (moment(one.at), one.line()), default=None)


def _verification(body: Any) -> Verification | None:
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        return None
    texts: list[Any] = [body.get(key) for key in ("adapter", "expected_md5", "rebuilt_md5", "at")]
    if not all(isinstance(text, str) and text for text in texts):
        return None
    adapter, expected, rebuilt, at = texts
    numbers = [body.get(key) for key in ("tolerance", "largest_relative_difference")]
    verdict, run = body.get("verdict"), body.get("run")
    fits = (
        verdict in VERDICTS
        and MD5_HEX.fullmatch(expected)
        and MD5_HEX.fullmatch(rebuilt)
        and moment(at)
        and (run is None or (isinstance(run, str) and SHA256_HEX.fullmatch(run)))
        and all(number is None or _is_share(number) for number in numbers)
    )
    if not fits:
        return None
    tolerance, largest = (None if number is None else float(number) for number in numbers)
    return Verification(adapter, str(verdict), expected, rebuilt, at, run, tolerance, largest)


def _is_share(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value < 1e300 and math.isfinite(value)
