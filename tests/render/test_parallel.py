from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from soup_git.render.parallel import Axis, ParallelCoordinates, svg

FOUND = ParallelCoordinates(
    "A <sweep>",
    ["one", "<b>two</b>", "three"],
    [
        Axis("lr", [1e-5, 1e-4, 1e-3]),
        Axis("init", ["random", "pissa", None]),
        Axis("loss", [3.0, 2.0, 1.0]),
    ],
)


def test_a_line_per_experiment_an_axis_per_quantity() -> None:
    figure = ET.fromstring(svg(FOUND))
    groups = list(figure.iter("g"))
    assert [len(list(g.iter("circle"))) for g in groups] == [3, 3, 2]
    titles = [title.text for g in groups for title in g.iter("title")]
    assert titles[0] == "one: lr 1e-05, init random, loss 3"
    assert titles[1].startswith("<b>two</b>: ")  # as text
    assert [name.text for name in figure.iter("text") if name.get("class") == "name"] == [
        "lr (log)", "init", "loss",
    ]  # fmt: skip
    assert {g.get("class") for g in groups} == {"s0", "s2", "s4"}


def test_decades_are_equally_far_apart() -> None:
    heights = [float(y) for y in re.findall(r'points="\S+?,(\S+) ', svg(FOUND))]
    assert heights[0] - heights[1] == heights[1] - heights[2] > 0


def test_nothing_to_compare_is_no_picture() -> None:
    assert svg(ParallelCoordinates("x", ["one"], [Axis("loss", [1.0])])) == ""
    assert svg(ParallelCoordinates("x", [], [Axis("a", []), Axis("b", [])])) == ""
    level = svg(ParallelCoordinates("x", ["one"], [Axis("a", [1.0]), Axis("b", ["y"])]))
    assert level.count("<circle") == 2
