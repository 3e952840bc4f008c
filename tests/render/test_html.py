"""Colours of pictures: what is written on them can be read, in light and in dark."""

from __future__ import annotations

import re

from soup_git.render.chart import Chart, spark
from soup_git.render.chart import svg as chart_svg
from soup_git.render.html import picture_style


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_step_of_the_heat_map_can_be_read() -> None:
    found = re.findall(r"\.[hb]\d\{background:(#\w+);color:(#\w+)\}", picture_style())
    assert len(found) == 4 * 9
    assert min(contrast(*pair) for pair in found) >= 4.5


def test_points_stand_where_they_belong() -> None:
    drawn = chart_svg(
        Chart("t", "step", "loss", [2.0], [4.0, 1.0], [], dots_at=[15], line_at=[10, 20])
    )
    (x, dot), ends = (
        re.search(r'cx="([\d.]+)" cy="([\d.]+)"', drawn).groups(),
        re.search(r'points="(\S+) (\S+)"', drawn).groups(),
    )
    left, right = (float(end.split(",")[0]) for end in ends)
    assert abs(float(x) - (left + right) / 2) < 0.2
    assert float(ends[0].split(",")[1]) < float(dot) < float(ends[1].split(",")[1])
    assert ">10<" in drawn
    assert ">20<" in drawn


def test_a_line_as_small_as_a_word() -> None:
    assert spark([1.0], "one point is no line") == ""
    assert spark([1.0, float("nan"), 0.5], "two").count(",") == 2
