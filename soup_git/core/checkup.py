"""One line of `git soup doctor`: what was found, what it means, and the command that helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    area: str
    """machine, packages, workspace or training."""
    name: str
    state: State
    found: str
    means: str = ""
    fix: str = ""
    """A command to type, or a line to set; empty where nothing is to be done."""


def worst(wanted: bool, state: State) -> State:
    """`state` where it matters here, else ok."""
    return state if wanted else "ok"
