"""Parallel coordinates as data: a vertical axis per quantity, a line per experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from soup_git.core.text import printable

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 900, 340, 44, 14, 70
_SHADES = 5
_MOST_LABEL = 22

Value = float | str | None


@dataclass(frozen=True)
class Axis:
    """One quantity: a value for each line, numbers or words, None where it has none."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True)
class ParallelCoordinates:
    """Lines through axes. They are shaded, light to dark, by their rank on the last axis."""

    title: str
    labels: Sequence[str]
    axes: Sequence[Axis]


def svg(found: ParallelCoordinates) -> str:
    """One SVG without scripts; a line's name and values are its title, for the pointer and readers."""
    if len(found.axes) < 2 or not found.labels:
        return ""
    between = (_WIDTH - 2 * _SIDE) / (len(found.axes) - 1)
    places = [(_SIDE + number * between, _heights(axis)) for number, axis in enumerate(found.axes)]
    parts = [
        (
            f'<figure><figcaption>{_text(found.title)}</figcaption><div class="wide">'
            f'<svg class="parallel" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
            f' aria-label="{_text(found.title)}; the table below has the same values">'
        )
    ]
    shades = _shades(found.axes[-1])
    for number, label in enumerate(found.labels):
        points = [
            (x, y)
            for (x, height), axis in zip(places, found.axes, strict=True)
            if (y := height(axis.values[number])) is not None
        ]
        said = ", ".join(f"{a.name} {written(a.values[number])}" for a in found.axes)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<g class="s{shades[number]}"><title>{_text(label)}: {_text(said)}</title>'
            f'<polyline points="{path}"/>'
            + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
            + "</g>"
        )
    parts += [_axis(axis, x, height) for axis, (x, height) in zip(found.axes, places, strict=True)]
    return "\n".join([*parts, "</svg></div></figure>"])


def written(value: Value) -> str:
    """A value as an axis and a table show it."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.6g}"


STYLE = (
    ".parallel{width:100%;min-width:40rem;font:12px system-ui,sans-serif;fill:currentColor}\n"
    ".parallel line{stroke:currentColor;opacity:.5}\n"
    ".parallel polyline{fill:none;stroke:currentColor;stroke-width:2;opacity:.8}\n"
    ".parallel g:hover polyline{stroke-width:5;opacity:1}\n"
    ".parallel text{paint-order:stroke;stroke:Canvas;stroke-width:3px}\n"
    ".parallel .name{text-anchor:middle;font-weight:600}\n"
    + "".join(
        f".parallel .s{number}{{color:{colour};fill:{colour}}}\n"
        for number, colour in enumerate(("#e6a15c", "#e57c3a", "#d7502a", "#b02418", "#7f0000"))
    )
    + "@media (prefers-color-scheme:dark){\n"
    + "".join(
        f".parallel .s{number}{{color:{colour};fill:{colour}}}\n"
        for number, colour in enumerate(("#8a3a17", "#b04a1e", "#d8602a", "#f78c5c", "#ffc9ad"))
    )
    + "}\n"
)


def _heights(axis: Axis) -> Callable[[Value], float | None]:
    """Where a value stands on its axis: numbers by size (their logarithm where they span
    decades), words in their order of appearance.
    """
    span = _HEIGHT - _TOP - _BOTTOM
    numbers = _numbers(axis)
    if numbers is None:
        words = list(dict.fromkeys(written(v) for v in axis.values if v is not None))
        steps = max(1, len(words) - 1)
        return lambda v: (
            None if v is None else _HEIGHT - _BOTTOM - span * words.index(written(v)) / steps
        )
    scale = math.log10 if _is_logarithmic(numbers) else float
    low, high = scale(min(numbers)), scale(max(numbers))

    def height(value: Value) -> float | None:
        if not isinstance(value, float | int):
            return None
        share = 0.5 if high == low else (scale(value) - low) / (high - low)
        return _HEIGHT - _BOTTOM - span * share

    return height


def _numbers(axis: Axis) -> list[float] | None:
    """The axis's values where all are numbers; None for words."""
    there = [value for value in axis.values if value is not None]
    numbers = [float(value) for value in there if isinstance(value, float | int)]
    return numbers if numbers and len(numbers) == len(there) else None


def _is_logarithmic(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and max(numbers) / min(numbers) >= 20


def _axis(axis: Axis, x: float, height: Callable[[Value], float | None]) -> str:
    numbers = _numbers(axis)
    ticks: list[Value] = list(dict.fromkeys(v for v in axis.values if v is not None))
    if numbers is not None and len(ticks) > 6:
        ticks = [min(numbers), max(numbers)]
    kind = " (log)" if numbers is not None and _is_logarithmic(numbers) else ""
    name = axis.name if len(axis.name) <= _MOST_LABEL else f"…{axis.name[1 - _MOST_LABEL :]}"
    parts = [
        (
            f'<text class="name" x="{x:.1f}" y="20">{_text(name + kind)}'
            f"<title>{_text(axis.name)}</title></text>"
        ),
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>',
    ]
    parts += [
        f'<text x="{x + 7:.1f}" y="{y + 4:.1f}">{_text(written(tick)[:_MOST_LABEL])}</text>'
        for tick in ticks
        if (y := height(tick)) is not None
    ]
    return "".join(parts)


def _shades(axis: Axis) -> list[int]:
    ranked = sorted({float(v) for v in axis.values if isinstance(v, float | int)})
    most = max(1, len(ranked) - 1)
    return [
        round(ranked.index(float(v)) / most * (_SHADES - 1)) if isinstance(v, float | int) else 0
        for v in axis.values
    ]


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
