"""Metrics as people read them: as many digits as the noise allows, and never 0 for what is small."""

from __future__ import annotations

import math

from soup_git.core.pullrequest import PERCENT, SHARE, MetricDelta

_TINY = 1e-4


def value_text(value: float | None, stderr: float | None, unit: str) -> str:
    """`98.1 %`, `1.284`, `1.2e-07`; `–` for a side that was not measured."""
    if value is None:
        return "–"
    scale = 100.0 if unit == SHARE else 1.0
    shown = _number(scale * value, _digits(stderr, scale))
    return f"{shown} %" if unit in {SHARE, PERCENT} else shown


def delta_text(metric: MetricDelta) -> str:
    """`−7.9 ± 1.1 points`: the difference and its standard error."""
    if metric.delta is None:
        return "–"
    scale = 100.0 if metric.unit == SHARE else 1.0
    digits = _digits(metric.delta_stderr, scale)
    sign = "+" if metric.delta > 0 else "−" if metric.delta < 0 else "±"
    shown = f"{sign}{_number(abs(scale * metric.delta), digits)}" if metric.delta else "0"
    if metric.delta_stderr:
        shown += f" ± {_number(scale * metric.delta_stderr, digits)}"
    return f"{shown} points" if metric.unit in {SHARE, PERCENT} else shown


def _digits(stderr: float | None, scale: float) -> int | None:
    """Two digits of the standard error; None where there is none."""
    if not stderr or not math.isfinite(stderr):
        return None
    return max(0, 1 - math.floor(math.log10(scale * stderr)))


def _number(value: float, digits: int | None) -> str:
    if digits is None:
        return f"{value:.4g}" if 0 < abs(value) < _TINY or abs(value) >= 1e5 else _plain(value)
    if digits > 6 or abs(value) >= 1e7:
        return f"{value:.2e}"
    return f"{value:.{digits}f}"


def _plain(value: float) -> str:
    """Four digits, without an exponent."""
    if value == 0:
        return "0"
    places = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
