"""A heat map as data: what a report offers to the html page, and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeatMap:
    """Rows × columns of values, by size and sign; None is drawn apart. The text is for people."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], tuple[float | None, str]]
    unit: str = "%"
    """`%` for shares of 1; else the values are written as they are, with this after them."""
    none: str = "only in one of the two"
    """What None means."""
    below: str = "below 0"
    """What a value below 0 means: it gets a colour of its own."""
