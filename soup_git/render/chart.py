"""A chart as data: dots, a line, and levels to compare them with; html draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from soup_git.core.text import printable

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 320, 64, 36, 12
_MOST_DOTS = 4000


@dataclass(frozen=True)
class Chart:
    """Values over 1, 2, …; `line` has a value for each of them, a dot may be missing."""

    title: str
    across: str
    up: str
    dots: Sequence[float | None]
    line: Sequence[float]
    levels: Sequence[tuple[str, float]]
    """Names of horizontal lines, and where they are."""


def svg(chart: Chart) -> str:
    """The chart as one SVG element without scripts; colours come from the page's style."""
    values = [*(d for d in chart.dots if d is not None), *chart.line, *(v for _, v in chart.levels)]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    count = max(len(chart.line), len(chart.dots), 2)

    def x(number: int) -> str:
        return f"{_LEFT + (_WIDTH - _LEFT - 8) * number / (count - 1):.1f}"

    def y(value: float) -> str:
        return f"{_TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low):.1f}"

    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    parts = [f'<svg class="chart" {size} role="img" aria-label="{_text(chart.title)}">']
    for tick in _ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(tick)}" y2="{y(tick)}"/>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(tick)}">{tick:.4g}</text>')
    for name, value in chart.levels:
        where = f'x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(value)}" y2="{y(value)}"'
        parts.append(
            f'<line class="level" {where}><title>{_text(name)}: {value:.6g}</title></line>'
        )
        parts.append(
            f'<text class="name" x="{_WIDTH - 10}" y="{y(value)}" dy="-3">{_text(name)}</text>'
        )
    every = max(1, len(chart.dots) // _MOST_DOTS)
    parts += [
        f'<circle cx="{x(i)}" cy="{y(dot)}" r="2.5"><title>{i + 1}: {dot:.6g}</title></circle>'
        for i, dot in enumerate(chart.dots)
        if dot is not None and i % every == 0
    ]
    steps = [f"{x(i)},{y(value)}" for i, value in enumerate(chart.line) if i % every == 0]
    parts.append(f'<polyline points="{" ".join(steps)}"/>')
    parts.append(
        f'<text class="across" x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 6}">{_text(chart.across)}</text>'
    )
    parts.append(f'<text class="tick" x="{_LEFT}" y="{_HEIGHT - 20}">1</text>')
    parts.append(f'<text class="tick" x="{_WIDTH - 8}" y="{_HEIGHT - 20}">{count}</text>')
    parts.append(
        f'<text class="up" transform="translate(12 {_HEIGHT / 2:.0f}) rotate(-90)">{_text(chart.up)}</text>'
    )
    return "\n".join([*parts, "</svg>"])


STYLE = (
    ".chart{width:100%;max-width:60rem;font:12px system-ui,sans-serif;fill:currentColor}\n"
    ".chart .grid{stroke:#8883}.chart .level{stroke:currentColor;stroke-dasharray:4 4;opacity:.6}\n"
    ".chart circle{fill:#fc8d59;opacity:.7}.chart polyline{fill:none;stroke:#d7301f;stroke-width:2}\n"
    ".chart .tick,.chart .name{text-anchor:end;dominant-baseline:middle}\n"
    ".chart .name{dominant-baseline:auto;opacity:.8}.chart .across,.chart .up{text-anchor:middle}\n"
)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five of them."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
