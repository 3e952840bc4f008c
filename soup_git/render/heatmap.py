"""A heat map as data: what a report offers to the html page, and to nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeatMap:
    """Rows × columns of values from 0 up; None is drawn apart. The text is for people."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], tuple[float | None, str]]
