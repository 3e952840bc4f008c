"""A report as one self-contained HTML page: no script, no network, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Protocol, runtime_checkable

from soup_git.core.text import printable
from soup_git.render import chart, parallel
from soup_git.render.barchart import Bars, svg
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Report, Table

STEPS = 9
# One hue for a sign, lightness for the size: readable without colour vision, and printed.
LIGHT = ("#fff7ec", "#fee8c8", "#fdd49e", "#fdbb84", "#fc8d59", "#ef6548", "#d7301f", "#b30000", "#7f0000")  # fmt: skip
DARK = ("#1c1512", "#33190f", "#4f1f0e", "#702a10", "#943714", "#ba471b", "#df5d2b", "#fb8454", "#ffb894")  # fmt: skip
# Below 0.
LIGHT_BELOW = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b")  # fmt: skip
DARK_BELOW = ("#11161c", "#0e2033", "#0d2f4f", "#104070", "#165494", "#1d6bba", "#2f87df", "#58a6fb", "#99ccff")  # fmt: skip


@runtime_checkable
class HasHeatMaps(Protocol):
    @property
    def title(self) -> str: ...

    def heat_maps(self) -> Sequence[HeatMap]: ...


@runtime_checkable
class HasBars(Protocol):
    @property
    def title(self) -> str: ...

    def bars(self) -> Sequence[Bars]: ...


@runtime_checkable
class HasCharts(Protocol):
    @property
    def title(self) -> str: ...

    def charts(self) -> Sequence[chart.Chart]: ...


@runtime_checkable
class HasParallelCoordinates(Protocol):
    @property
    def title(self) -> str: ...

    def parallel_coordinates(self) -> Sequence[parallel.ParallelCoordinates]: ...


def as_html(report: Report) -> str:
    """The report's pictures, where it has some, then its tables."""
    title, maps, style = "git soup", [], base_style()
    if isinstance(report, HasHeatMaps):
        title, maps = report.title, [heat_map(found) for found in report.heat_maps()]
    if isinstance(report, HasBars):
        title, maps = report.title, [*maps, *(svg(found) for found in report.bars())]
    if isinstance(report, HasCharts):
        charts = [figure(found) for found in report.charts()]
        title, maps, style = report.title, maps + charts, style + (chart.STYLE if charts else "")
    if isinstance(report, HasParallelCoordinates):
        drawn = [parallel.svg(found) for found in report.parallel_coordinates()]
        title, maps, style = report.title, maps + drawn, style + parallel.STYLE
    parts = [
        f"<p>{text_of(part)}</p>" if isinstance(part, str) else table(part)
        for part in report.tables()
    ]
    return page(title, f"<h1>{text_of(title)}</h1>\n" + "\n".join([*maps, *parts]), style)


def page(title: str, body: str, style: str) -> str:
    """A whole document around a body: nothing in it may run, and nothing is fetched."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text_of(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def heat_map(found: HeatMap) -> str:
    """A table whose cells carry their value as colour, as text and as a tooltip."""
    scale = scale_of(found)
    head = "".join(f'<th scope="col"><span>{text_of(name)}</span></th>' for name in found.columns)
    lines = [
        "<figure>",
        f"<figcaption>{text_of(found.title)}</figcaption>",
        _scrolls(text_of(found.title)),
        '<table class="map">',
        f"<thead><tr><td></td>{head}</tr></thead>",
        "<tbody>",
    ]
    for row in found.rows:
        cells = "".join(_cell(found, row, column, scale) for column in found.columns)
        lines.append(f'<tr><th scope="row">{text_of(row)}</th>{cells}</tr>')
    lines += ["</tbody>", "</table></div>", scale.legend(), "</figure>"]
    return "\n".join(lines)


def figure(found: chart.Chart) -> str:
    """The chart under its title."""
    drawn, title = chart.svg(found), text_of(found.title)
    return f"<figure>\n<figcaption>{title}</figcaption>\n{_scrolls(title)}{drawn}</div>\n</figure>"


def _scrolls(title: str) -> str:
    """What is wider than a narrow screen scrolls by itself, by the keyboard too."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{title}">'


def scale_of(found: HeatMap) -> Scale:
    """The scale that all cells of a heat map are coloured by."""
    values = [value for value, _ in found.cells.values() if value is not None]
    sizes = [abs(value) for value in values if value]
    is_signed = min(values, default=0.0) < 0
    return Scale(min(sizes, default=0.0), max(sizes, default=0.0), found, is_signed)


class Scale:
    """Values to steps of colour: by the logarithm where they span more than a decade or two."""

    def __init__(self, least: float, most: float, found: HeatMap, is_signed: bool) -> None:
        self.least, self.most = least, most
        # Around 0 there is no least size that means anything.
        self.logarithmic = least > 0 and most / least > 30 and not is_signed
        self._found, self._is_signed = found, is_signed

    def kind(self, value: float) -> str:
        """The CSS class of a value."""
        return f"{'b' if value < 0 else 'h'}{self.step(abs(value))}"

    def step(self, size: float) -> int:
        """0 for the smallest, 8 for the largest."""
        if size <= 0 or self.most <= 0:
            return 0
        if self.logarithmic:
            share = math.log(size / self.least) / math.log(self.most / self.least)
        else:
            share = size / self.most
        return min(STEPS - 1, max(0, round(share * (STEPS - 1))))

    def legend(self) -> str:
        first = self.least if self.logarithmic else 0.0
        kind = ", logarithmic" if self.logarithmic else ""
        parts = [f"{self.written(first)} {_swatches('h')} {self.written(self.most)}{kind}"]
        if self._is_signed:
            below = f"{self.written(0.0)} {_swatches('b')} {self.written(-self.most)}"
            parts.append(f"{below}, {text_of(self._found.below)}")
        if any(value is None for value, _ in self._found.cells.values()) or not self._is_signed:
            parts.append(f'<span class="odd">&nbsp;</span> {text_of(self._found.none)}')
        return f'<p class="legend">{"; ".join(parts)}</p>'

    def written(self, value: float) -> str:
        if self._found.unit == "%":
            return f"{100 * value:.3g} %"
        return f"{value:.3g} {text_of(self._found.unit)}"


def _swatches(kind: str) -> str:
    return "".join(f'<span class="{kind}{step}">&nbsp;</span>' for step in range(STEPS))


def _cell(found: HeatMap, row: str, column: str, scale: Scale) -> str:
    if (row, column) not in found.cells:
        return "<td></td>"
    value, text = found.cells[row, column]
    kind = "odd" if value is None else scale.kind(value)
    place = f"{row}.{column}" if row else column
    return f'<td class="{kind}" title="{text_of(place)}: {text_of(text)}">{text_of(text)}</td>'


def table(found: Table) -> str:
    """The rows, with the lines before and after them."""
    right = [name.endswith(">") for name in found.header]
    head = "".join(f'<th scope="col">{text_of(n.removesuffix(">"))}</th>' for n in found.header)
    lines = [f"<p>{text_of(found.before)}</p>"] if found.before else []
    lines += [
        '<div class="wide"><table class="rows">',
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
    ]
    for row in found.rows:
        cells = (
            f'<td class="n">{text_of(cell)}</td>' if flush else f"<td>{text_of(cell)}</td>"
            for cell, flush in zip(row, right, strict=True)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table></div>"]
    if found.after:
        lines.append(f"<p>{text_of(found.after)}</p>")
    return "\n".join(lines)


def text_of(text: str) -> str:
    """`text` as HTML shows it letter for letter, in an element or in an attribute."""
    return escape(printable(text), quote=True)


def base_style() -> str:
    """CSS of a whole page."""
    return (
        ":root{color-scheme:light dark}\n"
        "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:75rem;"
        "background:#fff;color:#1b1b1b}\n"
        "h1{font-size:1.3rem;overflow-wrap:anywhere}\n"
        ".map td{border-color:#fff}\n"
        + picture_style()
        + "@media (prefers-color-scheme:dark){\nbody{background:#16130f;color:#e9e4df}\n"
        ".map td{border-color:#16130f}\n}\n"
    )


def picture_style() -> str:
    """CSS of what `heat_map`, `table` and the bars draw, on whatever page they stand."""

    def steps(kind: str, colours: Sequence[str], low: str, high: str) -> str:
        # From step 6 on the other text colour is the one with a contrast of 4.5 to 1.
        return "".join(
            f".{kind}{i}{{background:{colour};color:{low if i < 6 else high}}}\n"
            for i, colour in enumerate(colours)
        )

    return (
        "figure{margin:0 0 2rem}\n"
        "figcaption{font-weight:600;margin-bottom:.5rem}\n.wide{overflow-x:auto}\n"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
        ".rows th,.rows td{padding:.2rem .7rem;text-align:left;border-bottom:1px solid #8884}\n"
        ".rows td.n{text-align:right}\n"
        ".map{border-spacing:0}\n.map th{font-weight:400;padding:.1rem .5rem;text-align:right;"
        "white-space:nowrap}\n.map thead th{text-align:center;font-size:.85rem}\n"
        ".map td{min-width:4.2rem;padding:.15rem .4rem;text-align:center;font-size:.8rem;"
        "white-space:nowrap;border-width:1px;border-style:solid}\n"
        ".odd{background:repeating-linear-gradient(45deg,#8885 0 4px,transparent 4px 8px)}\n"
        ".legend span{display:inline-block;width:1.4rem}\n"
        ".bars text{font-size:12px;fill:currentColor}\n.bars rect{fill:#d7301f}\n"
        + steps("h", LIGHT, "#1b1b1b", "#fff")
        + steps("b", LIGHT_BELOW, "#1b1b1b", "#fff")
        + "@media (prefers-color-scheme:dark){\n"
        + steps("h", DARK, "#fff6f1", "#1a0d06")
        + steps("b", DARK_BELOW, "#f4f8fc", "#06101a")
        + "}\n"
    )
