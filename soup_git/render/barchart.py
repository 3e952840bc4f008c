"""A bar chart as data: what a report offers to the html page, drawn there as one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from soup_git.core.text import printable

_ROW, _LABEL, _WIDTH, _VALUE = 22, 260, 420, 70
_MOST_LABEL = 34


@dataclass(frozen=True)
class Bars:
    """Shares of 1, a row for each, in the order to draw them."""

    title: str
    labels: Sequence[str]
    values: Sequence[float]


def svg(chart: Bars) -> str:
    """One self-contained SVG: no script, no link, colours from the page."""
    height = _ROW * len(chart.labels)
    rows = []
    for number, (label, value) in enumerate(zip(chart.labels, chart.values, strict=True)):
        y = _ROW * number
        width = _WIDTH * max(0.0, min(1.0, value))
        short = label if len(label) <= _MOST_LABEL else f"…{label[1 - _MOST_LABEL :]}"
        rows.append(
            f"<g><title>{_text(label)}: {value:.4f}</title>"
            f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end">{_text(short)}</text>'
            f'<rect x="{_LABEL}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" rx="2"/>'
            f'<text x="{_LABEL + width + 6:.1f}" y="{y + 15}">{100 * value:.1f} %</text></g>'
        )
    return (
        f'<figure><figcaption>{_text(chart.title)}</figcaption><div class="wide">'
        f'<svg class="bars" xmlns="http://www.w3.org/2000/svg" role="img"'
        f' width="{_LABEL + _WIDTH + _VALUE}" height="{height}"'
        f' viewBox="0 0 {_LABEL + _WIDTH + _VALUE} {height}">{"".join(rows)}</svg></div></figure>'
    )


def _text(text: str) -> str:
    return escape(printable(text), quote=True)
