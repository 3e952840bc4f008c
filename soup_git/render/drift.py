"""A drift report's rows and heat map: drawn by `git soup diff`, and on a pull request's page."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.core.drift import (
    DriftSummary,
    LayerDrift,
    bar,
    common_prefix,
    natural,
    number,
    percent,
    place,
)
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table


def moved(layers: Sequence[LayerDrift]) -> list[LayerDrift]:
    """A table is read for what changed; how many did not is in its first line."""
    return [layer for layer in layers if layer.status != "same"]


def drift_table(layers: Sequence[LayerDrift], summary: DriftSummary, more: str = "") -> Table:
    """A row per module that differs, and the total; `more` says below what is left out."""
    s = summary
    total = ("total", percent(s.relative_drift), number(s.frobenius), _cosine(s.cosine), "", "")
    header = ("module", "drift>", "‖Δ‖>", "cos>", "rank used", "")
    return Table(header, [*_rows(layers), total], after=more)


def _rows(layers: Sequence[LayerDrift]) -> list[tuple[str, ...]]:
    prefix = common_prefix([layer.module for layer in layers])
    worst = max((layer.relative_drift or 0.0 for layer in layers), default=0.0)
    return [
        (
            layer.module.removeprefix(prefix),
            _in_cell(layer),
            number(layer.frobenius),
            _cosine(layer.cosine),
            _rank_used(layer),
            bar((layer.relative_drift or 0.0) / worst if worst else 0.0),
        )
        for layer in moved(layers)
    ]


def drift_map(layers: Sequence[LayerDrift]) -> HeatMap:
    """Layers down, modules across, drift as colour."""
    cells = {place(x.module): (x.relative_drift, _in_cell(x)) for x in layers}
    rows = sorted({row for row, _ in cells}, key=natural)
    columns = sorted({column for _, column in cells})
    return HeatMap("relative drift, ‖ΔW_b − ΔW_a‖ / ‖ΔW_a‖", rows, columns, cells)


def _in_cell(layer: LayerDrift) -> str:
    is_here = layer.status not in {"added", "removed", "reshaped"}
    return percent(layer.relative_drift) if is_here else layer.status


def _cosine(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _rank_used(layer: LayerDrift) -> str:
    if layer.effective_rank_delta is None:
        return ""
    # D is a sum of two updates: its rank can be the sum of theirs.
    return f"{layer.effective_rank_delta:.1f} of {(layer.rank_a or 0) + (layer.rank_b or 0)}"
