"""Heat maps as one picture that stands alone: layers across, modules down.

It has a background of its own, so that it reads on a light page and on a dark one, whatever
the page says; where the reader's system is dark, picture and background are dark together.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from soup_git.core.text import printable
from soup_git.render.heatmap import HeatMap
from soup_git.render.html import DARK, LIGHT, STEPS, Scale, scale_of

_LABEL, _ACROSS, _LEAST, _MOST, _HEIGHT, _MARGIN = 168, 720, 7.0, 56.0, 24, 16
_WITH_TEXT = 46.0
"""From this width on a cell has room for its number."""
_BETWEEN_NUMBERS = 24.0
_SWATCH = 20
_LABEL_CHARACTERS = 23


def picture(maps: Sequence[tuple[str, HeatMap]]) -> str:
    """One SVG with every map under its name; no script, no link, no font from elsewhere."""
    parts: list[str] = []
    top, width = float(_MARGIN), 420.0
    for name, found in maps:
        drawn, height, across = _one(name, found, top)
        parts += drawn
        top, width = top + height, max(width, across)
    names = ", ".join(name for name, _ in maps)
    size = f'width="{width:.0f}" height="{top:.0f}" viewBox="0 0 {width:.0f} {top:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
        f' aria-label="Relative drift of each module of {_text(names)}">\n'
        f"<style>{_style()}</style>\n"
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1:.0f}" height="{top - 1:.0f}" rx="6"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _one(name: str, found: HeatMap, top: float) -> tuple[list[str], float, float]:
    """(elements, height, width) of one map from `top` down."""
    scale, layers, modules = scale_of(found), found.rows, found.columns
    cell = min(_MOST, max(_LEAST, _ACROSS / max(1, len(layers))))
    left, grid = _LABEL, top + 44
    parts = [f'<text class="name" x="{_MARGIN}" y="{top + 12:.0f}">{_text(_end(name, 96))}</text>']
    every = max(1, round(_BETWEEN_NUMBERS / cell + 0.49))
    for number, layer in enumerate(layers):
        if number % every == 0:
            x = left + cell * (number + 0.5)
            label = layer.rpartition(".")[2] or "–"
            parts.append(
                f'<text class="layer" x="{x:.1f}" y="{grid - 6:.0f}">{_text(label)}</text>'
            )
    for number, module in enumerate(modules):
        y = grid + _HEIGHT * number
        label = _end(module, _LABEL_CHARACTERS)
        parts.append(f'<text class="module" x="{left - 8}" y="{y + 16:.0f}">{_text(label)}</text>')
        parts += [
            _cell(found, layer, module, scale, (left + cell * place, y, cell))
            for place, layer in enumerate(layers)
            if (layer, module) in found.cells
        ]
    bottom = grid + _HEIGHT * len(modules)
    parts += _legend(scale, found, left, bottom + 12)
    return parts, bottom + 48 - top, left + max(cell * len(layers), 400) + _MARGIN


def _cell(
    found: HeatMap, layer: str, module: str, scale: Scale, place: tuple[float, float, float]
) -> str:
    value, text = found.cells[layer, module]
    x, y, width = place
    kind = "odd" if value is None else scale.kind(value)
    box = f'x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{_HEIGHT}"'
    where = f"{layer}.{module}" if layer else module
    drawn = (
        f'<g class="{kind}"><title>{_text(where)}: {_text(text)}</title><rect class="cell" {box}/>'
    )
    if width >= _WITH_TEXT and value is not None:
        number = _short(value)
        drawn += f'<text x="{x + width / 2:.1f}" y="{y + 16:.0f}">{number}</text>'
    return drawn + "</g>"


def _short(value: float) -> str:
    """A share in percent, as short as a cell is narrow."""
    shown = 100 * value
    if shown == 0:
        return "0"
    return f"{shown:.0e}" if shown < 0.05 or shown >= 10_000 else f"{shown:.3g}"


def _legend(scale: Scale, found: HeatMap, left: float, y: float) -> list[str]:
    first = scale.least if scale.logarithmic else 0.0
    parts = [f'<text class="left" x="{left}" y="{y + 11:.0f}">{scale.written(first)}</text>']
    start = left + 62
    parts += [
        f'<g class="h{step}"><rect class="cell" x="{start + _SWATCH * step}" y="{y:.0f}"'
        f' width="{_SWATCH}" height="14"/></g>'
        for step in range(STEPS)
    ]
    words = f"{scale.written(scale.most)}{', logarithmic' if scale.logarithmic else ''}"
    if any(value is None for value, _ in found.cells.values()):
        words += "; grey: only on one side"
    end = start + _SWATCH * STEPS + 8
    parts.append(f'<text class="left" x="{end}" y="{y + 11:.0f}">{words}</text>')
    return parts


def _style() -> str:
    def steps(colours: Sequence[str], turn: int, low: str, high: str) -> str:
        return "".join(
            f".h{i} rect{{fill:{colour}}}.h{i} text{{fill:{low if i < turn else high}}}"
            for i, colour in enumerate(colours)
        )

    return (
        "text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328;"
        "text-anchor:middle}.name{font-weight:600;text-anchor:start}.module{text-anchor:end}"
        ".left{text-anchor:start}.page{fill:#fff;stroke:#d0d7de}.cell{stroke:#fff}"
        f".odd rect{{fill:#8c959f}}{steps(LIGHT, 6, '#1b1b1b', '#fff')}"
        "@media (prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117;stroke:#30363d}"
        f".cell{{stroke:#0d1117}}{steps(DARK, 6, '#fff6f1', '#1a0d06')}}}"
    )


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
