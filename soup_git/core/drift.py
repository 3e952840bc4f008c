"""How far two adapters are apart, as values, and how such numbers are spelled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

_LAYER = re.compile(r"(?P<layer>(?:.*?\.)?\d+)\.(?P<module>.+)")


@dataclass(frozen=True)
class LayerDrift:
    """One module: D is ΔW_b − ΔW_a. None where a number is not defined."""

    module: str
    status: str
    """`changed`, `same`, `added` (only in b), `removed` (only in a), or `reshaped`: of another
    shape in each, as a head for more classes, so that there is no difference."""
    frobenius: float | None
    relative_drift: float | None
    cosine: float | None
    rank_a: int | None
    rank_b: int | None
    effective_rank_a: float | None
    effective_rank_b: float | None
    effective_rank_delta: float | None


@dataclass(frozen=True)
class DriftSummary:
    a: str
    b: str
    base_a: str | None
    base_b: str | None
    equal: bool
    modules: int
    changed: int
    same: int
    added: int
    removed: int
    norm_a: float | None
    norm_b: float | None
    frobenius: float
    relative_drift: float | None
    cosine: float | None
    notes: list[str]
    reshaped: int = 0
    """Modules of another shape in each; no total counts them."""

    @property
    def counts(self) -> str:
        """`196 modules, 31 changed`, and how many are on one side only."""
        words = [f"{self.modules} module{'s' if self.modules != 1 else ''}"]
        words.append(f"{self.changed} changed")
        sides = (
            (self.added, "added"), (self.removed, "removed"), (self.reshaped, "reshaped"),
        )  # fmt: skip
        return ", ".join([*words, *(f"{count} {word}" for count, word in sides if count)])


def ratio(difference: float, norm: float) -> float | None:
    """‖D‖/‖ΔW_a‖: 0 where both are zero, None where only ΔW_a is."""
    if norm > 0.0:
        return difference / norm
    return 0.0 if difference == 0.0 else None


def cosine_of(inner: float, norm_a: float, norm_b: float) -> float | None:
    if not norm_a or not norm_b:
        return None
    return max(-1.0, min(1.0, inner / norm_a / norm_b))


def percent(value: float | None) -> str:
    """A share of 1 with three digits: `41.2 %`, `0.00031 %`, `–` where undefined."""
    return "–" if value is None else f"{number(100 * value)} %"


def number(value: float | None) -> str:
    """Three to four digits, however small: a drift of 1e-7 does not print as 0."""
    if value is None:
        return "–"
    if value == 0.0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}" if 0.0 < abs(value) < 10 else f"{value:.1f}" if value else "0"
    return f"{value:.2e}"


def bar(share: float) -> str:
    """A bar of up to 8 cells, an eighth of a cell fine."""
    eighths = round(max(0.0, min(1.0, share)) * 64)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def common_prefix(names: Sequence[str]) -> str:
    """What all names share before the list of layers: a table may drop it, never a layer."""
    first, last = (min(names), max(names)) if len(names) > 1 else ("", "")
    shared = "".join(
        x for x, _ in takewhile(lambda p: p[0] == p[1], zip(first, last, strict=False))
    )
    parts = shared[: shared.rfind(".") + 1].split(".")
    numbered = next((i for i, part in enumerate(first.split(".")) if part.isdigit()), len(parts))
    return "".join(f"{part}." for part in parts[: min(len(parts) - 1, max(numbered - 1, 0))])


def place(module: str) -> tuple[str, str]:
    """(row, column) of a module in the heat map: its layer, and what it is in there."""
    found = _LAYER.fullmatch(module)
    return (found["layer"], found["module"]) if found else ("", module)


def natural(row: str) -> list[tuple[int, int | str]]:
    """Layer 10 after layer 9."""
    return [(0, int(p)) if p.isdigit() else (1, p) for p in re.split(r"(\d+)", row) if p]
