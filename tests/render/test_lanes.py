"""Lanes of a history: every line arrives at its parent, and no more lanes than needed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.render.lanes import Knot, lanes, svg


def commits(*rows: str) -> list[Knot]:
    """`"c a b"` is commit c with the parents a and b."""
    return [Knot(name, parents, "dot") for name, *parents in (row.split() for row in rows)]


def arrivals(knots: list[Knot]) -> set[tuple[str, str]]:
    """(child, parent) for each line, followed down from its child."""
    drawn = lanes(knots)
    column = {knot.name: (row, drawn.columns[row]) for row, knot in enumerate(knots)}
    at = {place: name for name, place in column.items()}
    found = set()
    for child, (row, lane) in column.items():
        ends = [(row, lane)]
        while ends:
            here, there = ends.pop()
            for line, start, below in drawn.lines:
                if (line, start) != (here, there):
                    continue
                place = (here + 1, below)
                if place in at:
                    found.add((child, at[place]))
                else:
                    ends.append(place)
    return found


@st.composite
def histories(draw: st.DrawFn) -> list[Knot]:
    size = draw(st.integers(1, 9))
    knots = []
    for number in range(size):
        later = st.lists(st.integers(number + 1, size), max_size=3, unique=True)
        knots.append(Knot(str(number), [str(p) for p in draw(later)], "dot"))  # `size` is not drawn
    return knots


@settings(max_examples=150, deadline=None)
@given(histories())
def test_every_parent_is_reached_and_nothing_crosses_a_commit(knots: list[Knot]) -> None:
    known = {knot.name for knot in knots}
    assert arrivals(knots) >= {(k.name, p) for k in knots for p in k.parents if p in known}
    drawn = lanes(knots)
    assert max(drawn.columns) < drawn.width <= len(knots)


def test_branches_of_one_commit_share_a_lane() -> None:
    knots = [Knot(f"tip{number}", ["root"], "ring") for number in range(500)]
    drawn = lanes([*knots, Knot("root", [], "dot")])
    assert drawn.width == 2
    assert drawn.columns[-1] == 0


def test_the_first_parent_goes_straight_on() -> None:
    drawn = lanes(commits("merge a b", "b root", "a root", "root"))
    assert list(drawn.columns) == [0, 1, 0, 0]


def test_the_title_is_text() -> None:
    assert "<b>" not in svg(commits("a"), "<b>\u202e")
