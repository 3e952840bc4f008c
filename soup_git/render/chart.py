"""A chart as data: dots, a line, and levels to compare them with; html draws it as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from soup_git.core.text import printable

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 720, 320, 64, 18, 36, 12
_FEW_DOTS, _MOST_DOTS = 100, 4000


@dataclass(frozen=True)
class Chart:
    """Values over 1, 2, …; `line` has a value for each of them, a dot may be missing.

    With `dots_at` and `line_at`, one number for each, they stand there instead.
    """

    title: str
    across: str
    up: str
    dots: Sequence[float | None]
    line: Sequence[float]
    levels: Sequence[tuple[str, float]]
    """Names of horizontal lines, and where they are."""
    dots_at: Sequence[float] = ()
    line_at: Sequence[float] = ()

    @property
    def places(self) -> tuple[Sequence[float], Sequence[float]]:
        """Where the dots and where the points of the line are, from left to right."""
        return (
            self.dots_at or range(1, len(self.dots) + 1),
            self.line_at or range(1, len(self.line) + 1),
        )


def svg(chart: Chart) -> str:
    """The chart as one SVG element without scripts; colours come from the page's style."""
    values = [*(d for d in chart.dots if d is not None), *chart.line, *(v for _, v in chart.levels)]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    places = [place for among in chart.places for place in among]
    axes = _Axes(min(places), max(places), low - margin, high + margin)
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    parts = [
        f'<svg class="chart" {size} role="img" aria-label="{_text(chart.title)}">',
        *_levels(chart, axes),
        *_marks(chart, axes),
        *_words(chart, axes),
        "</svg>",
    ]
    return "\n".join(parts)


@dataclass(frozen=True)
class _Axes:
    """From numbers to places in the drawing."""

    first: float
    last: float
    low: float
    high: float

    def x(self, place: float) -> str:
        share = (place - self.first) / (self.last - self.first or 1)
        return f"{_LEFT + (_WIDTH - _LEFT - _RIGHT) * share:.1f}"

    def y(self, value: float) -> str:
        share = (self.high - value) / (self.high - self.low)
        return f"{_TOP + (_HEIGHT - _TOP - _BOTTOM) * share:.1f}"

    def across(self, value: float) -> str:
        """Where a horizontal line at a value runs."""
        return f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{self.y(value)}" y2="{self.y(value)}"'


def _levels(chart: Chart, axes: _Axes) -> list[str]:
    parts = []
    for tick in _ticks(axes.low, axes.high):
        parts.append(f'<line class="grid" {axes.across(tick)}/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{axes.y(tick)}">{tick:.4g}</text>')
    for name, value in chart.levels:
        title = f"<title>{_text(name)}: {value:.6g}</title>"
        parts.append(f'<line class="level" {axes.across(value)}>{title}</line>')
        place = f'x="{_WIDTH - _RIGHT - 2}" y="{axes.y(value)}" dy="-3"'
        parts.append(f'<text class="name" {place}>{_text(name)}</text>')
    return parts


def _marks(chart: Chart, axes: _Axes) -> list[str]:
    dots_at, line_at = chart.places
    few = len(chart.dots) <= _FEW_DOTS
    dots = [
        f'<circle cx="{axes.x(at)}" cy="{axes.y(dot)}" r="{4 if few else 2.5}">'
        f"<title>{at:g}: {dot:.6g}</title></circle>"
        for at, dot in _thinned(dots_at, chart.dots)
        if dot is not None
    ]
    steps = [f"{axes.x(at)},{axes.y(value)}" for at, value in _thinned(line_at, chart.line)]
    line = f'<polyline points="{" ".join(steps)}"/>'
    # A line is lost under thousands of dots, and a few dots are lost under a line.
    return [line, *dots] if few else [*dots, line]


def _words(chart: Chart, axes: _Axes) -> list[str]:
    middle = f"translate(12 {_HEIGHT / 2:.0f}) rotate(-90)"
    return [
        f'<text class="across" x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 6}">{_text(chart.across)}</text>',
        *(
            f'<text class="foot" x="{axes.x(place)}" y="{_HEIGHT - 20}">{place:g}</text>'
            for place in _along(axes.first, axes.last)
        ),
        f'<text class="up" transform="{middle}">{_text(chart.up)}</text>',
    ]


def spark(values: Sequence[float], title: str) -> str:
    """A line the size of a word, for a cell of a table; the numbers are said beside it."""
    values = [value for value in values if math.isfinite(value)]
    if len(values) < 2:
        return ""
    width, height = 110, 26
    low, high = min(values), max(values)
    steps = [
        f"{2 + (width - 4) * i / (len(values) - 1):.1f},"
        f"{2 + (height - 4) * (high - value) / (high - low or 1):.1f}"
        for i, value in _thinned(range(len(values)), values)
    ]
    return (
        f'<svg class="spark" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{_text(title)}"><polyline points="{" ".join(steps)}"/></svg>'
    )


STYLE = (
    ".chart{width:100%;max-width:60rem;font:12px system-ui,sans-serif;fill:currentColor}\n"
    ".chart .grid{stroke:#8883}.chart .level{stroke:currentColor;stroke-dasharray:4 4;opacity:.6}\n"
    ".chart circle{fill:#fc8d59;opacity:.7}.chart polyline{fill:none;stroke:#d7301f;stroke-width:2}\n"
    ".chart .tick,.chart .name{text-anchor:end;dominant-baseline:middle}\n"
    ".chart .name{dominant-baseline:auto;opacity:.8}\n"
    ".chart .across,.chart .up,.chart .foot{text-anchor:middle}\n"
    ".spark polyline{fill:none;stroke:#d7301f;stroke-width:1.5}\n"
)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five of them."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _along(first: float, last: float) -> list[float]:
    """Both ends of the axis, and the round whole numbers between that leave them room."""
    if last <= first:
        return [first]
    room = 0.08 * (last - first)
    between = [t for t in _ticks(first, last) if first + room < t < last - room]
    return [first, *(t for t in between if t == int(t)), last]


Value = TypeVar("Value")


def _thinned(places: Sequence[float], values: Sequence[Value]) -> Sequence[tuple[float, Value]]:
    """(place, value) of at most `_MOST_DOTS` or so, the last one among them."""
    pairs = list(zip(places, values, strict=True))
    every = max(1, len(pairs) // _MOST_DOTS)
    return pairs[::every] if every == 1 else [*pairs[::every], pairs[-1]]


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
