"""A heat map in block characters, for pages that can show no picture."""

from __future__ import annotations

from soup_git.core.text import printable
from soup_git.render.heatmap import HeatMap
from soup_git.render.html import STEPS, Scale, scale_of

_BLOCKS = "▁▂▃▄▅▆▇█"
_MOST_ACROSS = 96
_MOST_WIDE = 36


def block_map(found: HeatMap) -> list[str]:
    """A line for each module, a block for each layer; `·` did not change, `×` is on one side only."""
    scale, layers = scale_of(found), found.rows[:_MOST_ACROSS]
    labels = [printable(module)[-32:] for module in found.columns]
    width = max(map(len, labels), default=0)
    wide = 1 if len(layers) > _MOST_WIDE else 2
    lines = []
    numbers = [layer.rpartition(".")[2] or "–" for layer in layers]
    if len(numbers) > 1:
        lines.append(f"{'layer':<{width}}  {_ends(numbers, wide)}")
    for module, label in zip(found.columns, labels, strict=True):
        cells = "".join(_block(found, layer, module, scale) * wide for layer in layers)
        lines.append(f"{label:<{width}}  {cells}".rstrip())
    first = scale.least if scale.logarithmic else 0.0
    kind = ", logarithmic" if scale.logarithmic else ""
    more = f"; {len(found.rows) - len(layers)} layers more" if len(found.rows) > len(layers) else ""
    lines.append(f"{scale.written(first)} {_BLOCKS} {scale.written(scale.most)}{kind}{more}")
    return lines


def _ends(numbers: list[str], wide: int) -> str:
    """The first and the last number, over their columns."""
    first, last = numbers[0], numbers[-1]
    gap = len(numbers) * wide - len(first) - len(last)
    return f"{first}{' ' * gap}{last}" if gap > 0 else first


def _block(found: HeatMap, layer: str, module: str, scale: Scale) -> str:
    if (layer, module) not in found.cells:
        return " "
    value, _ = found.cells[layer, module]
    if value is None:
        return "×"
    if value == 0:
        return "·"
    return _BLOCKS[min(len(_BLOCKS) - 1, scale.step(value) * len(_BLOCKS) // STEPS)]
