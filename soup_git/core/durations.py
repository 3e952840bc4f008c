"""Durations as people type them: `60s`, `5m`, `2h`."""

from __future__ import annotations

import re

from soup_git.errors import FatalError

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
LEAST_BUDGET, LARGEST_BUDGET = 60, 24 * 3600


def parse_duration(text: str, option: str) -> float:
    """Seconds, more than 0."""
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if seconds <= 0:
        raise FatalError(
            f"{option} {text!r} is not a duration", hint=f"{option} 90s, {option} 5m or {option} 2h"
        )
    return seconds


def parse_budget(text: str, option: str = "--budget") -> float:
    """Seconds, from a minute to a day."""
    seconds = parse_duration(text, option)
    if not LEAST_BUDGET <= seconds <= LARGEST_BUDGET:
        raise FatalError(
            f"{option} {text} is out of bounds: 60s to 24h",
            hint=f"{option} {'60s' if seconds < LEAST_BUDGET else '24h'}",
        )
    return seconds


def spoken(seconds: float) -> str:
    """`8 ms`, `1.4 s`, `12 s`, `4 m 10 s`, `2 h 5 m`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} m"
