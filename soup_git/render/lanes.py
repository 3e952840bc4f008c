"""A history as lanes: where each commit stands, and the lines between them, as one SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from soup_git.core.text import printable

ROW_EM = 3.5
"""Height of a row, for whoever sets text beside it."""
_EM, _LANE, _EDGE = 16, 15, 12
_ROW = _EM * ROW_EM
_COLOURS = 6


@dataclass(frozen=True)
class Knot:
    """A commit: how it is marked, and its parents, which come later."""

    name: str
    parents: Sequence[str]
    mark: str
    """`dot`, `ring` or `diamond`."""


@dataclass(frozen=True)
class Lanes:
    columns: Sequence[int]
    """The lane of each commit, in order."""
    lines: Sequence[tuple[int, int, int]]
    """(row, lane there, lane one row below)."""
    width: int


def lanes(knots: Sequence[Knot]) -> Lanes:
    """Lanes for commits that come children before parents.

    A lane waits for one commit. A child whose parent is waited for already joins that lane,
    so that five hundred branches of one commit need two. What waits for a commit that is not
    among these runs out at the bottom.
    """
    waiting: list[str | None] = []
    columns, lines, width = [], [], 1
    for row, knot in enumerate(knots):
        column = _lane_of(waiting, knot.name)
        columns.append(column)
        waiting[column] = None
        through = {lane: lane for lane, name in enumerate(waiting) if name is not None}
        for number, parent in enumerate(knot.parents):
            there = _lane_of(waiting, parent)
            straight = not number and (waiting[there] != parent or there > column)
            if straight and waiting[there] == parent:
                # The line furthest left goes straight on, and the others bend towards it.
                waiting[there], through[there] = None, column
            there = column if straight else there
            waiting[there] = parent
            lines.append((row, column, there))
        lines += [(row, lane, below) for lane, below in through.items()]
        width = max(width, len(waiting))
        while waiting and waiting[-1] is None:
            waiting.pop()
    return Lanes(columns, lines, width)


def _lane_of(waiting: list[str | None], name: str) -> int:
    """The lane that waits for a commit; else the first that waits for none."""
    for wanted in (name, None):
        if wanted in waiting:
            return waiting.index(wanted)
    waiting.append(None)
    return len(waiting) - 1


def svg(knots: Sequence[Knot], title: str) -> str:
    """The drawing, as high as `ROW_EM` for each commit; colours come from `STYLE`."""
    found = lanes(knots)
    width = 2 * _EDGE + _LANE * (found.width - 1)
    height = _ROW * len(knots)
    size = f'width="{width / _EM:.3f}em" height="{height / _EM:.3f}em" viewBox="0 0 {width} {height:.0f}"'
    words = escape(printable(title), quote=True)
    parts = [f'<svg class="lanes" {size} role="img" aria-label="{words}">']
    parts += [_line(*line) for line in found.lines]
    parts += [
        _mark(knot.mark, column, row)
        for row, (knot, column) in enumerate(zip(knots, found.columns, strict=True))
    ]
    return "\n".join([*parts, "</svg>"])


def _place(lane: int, row: int) -> tuple[float, float]:
    return _EDGE + _LANE * lane, _ROW * (row + 0.5)


def _line(row: int, lane: int, below: int) -> str:
    (x, y), (to, end) = _place(lane, row), _place(below, row + 1)
    middle = (y + end) / 2
    way = f"V{end:g}" if x == to else f"C{x:g} {middle:g} {to:g} {middle:g} {to:g} {end:g}"
    return f'<path class="l{max(lane, below) % _COLOURS}" d="M{x:g} {y:g}{way}"/>'


def _mark(mark: str, lane: int, row: int) -> str:
    x, y = _place(lane, row)
    kind = f"{mark} m{lane % _COLOURS}"
    if mark == "diamond":
        return f'<path class="{kind}" d="M{x:g} {y - 7:g}l7 7l-7 7l-7 -7z"/>'
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="5.5"/>'


_LIGHT = ("#a8341a", "#1d6bba", "#3f7d20", "#8a3ffc", "#9a6700", "#0b7285")
_DARK = ("#ff9a70", "#58a6fb", "#8fce6b", "#c297ff", "#e3b341", "#5fd0e0")


def _style() -> str:
    def colours(values: Sequence[str]) -> str:
        return "".join(
            f".lanes .l{i}{{stroke:{c}}}.lanes .m{i}{{stroke:{c};fill:{c}}}\n"
            for i, c in enumerate(values)
        )

    return (
        ".lanes path,.lanes circle{fill:none;stroke-width:2}\n"
        + colours(_LIGHT)
        + "@media (prefers-color-scheme:dark){\n"
        + colours(_DARK)
        + "}\n.lanes .ring{fill:Canvas}\n"
    )


STYLE = _style()
