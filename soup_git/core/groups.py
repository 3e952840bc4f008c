"""Groups of a model's modules that a merge may weigh differently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?:\.|$)")
_ATTENTION = re.compile(
    r"(?:^|\.)(?:(?:self_|cross|linear_|encoder_)?(?:attn|attention)|[qkvo]_proj|qkv_proj|out_proj|"
    r"query|key|value|c_attn|query_key_value)(?:\.|$)",
    re.IGNORECASE,
)
_MLP = re.compile(
    r"(?:^|\.)(?:mlp|ffn|feed_forward|block_sparse_moe|experts?|(?:gate|up|down|gate_up)_proj|"
    r"fc[12]|c_fc)(?:\.|$)",
    re.IGNORECASE,
)
REST = "rest"
"""Modules that are in no group: embeddings, heads."""
_BLOCKS, _THIRDS = ("attention", "mlp", REST), ("early", "middle", "late", REST)

SCHEMES: Mapping[str, tuple[str, ...]] = {"blocks": _BLOCKS, "thirds": _THIRDS}
"""How modules are grouped -> the groups, in their order."""


@dataclass(frozen=True)
class Grouping:
    """A scheme, for a model with so many layers."""

    scheme: str
    layers: int

    def of(self, module: str) -> str:
        """The group of a module, by its name."""
        if self.scheme == "blocks":
            if _ATTENTION.search(module):
                return "attention"
            return "mlp" if _MLP.search(module) else REST
        found = _LAYER.search(module)
        return _THIRDS[3 * int(found[1]) // self.layers] if found else REST

    def present(self, modules: Iterable[str]) -> tuple[str, ...]:
        """The groups that have a module, in their order."""
        found = {self.of(module) for module in modules}
        return tuple(group for group in SCHEMES[self.scheme] if group in found)


def grouping(scheme: str, modules: Iterable[str]) -> Grouping:
    """The grouping of a model that has these modules. Raises KeyError for an unknown scheme."""
    if scheme not in SCHEMES:
        raise KeyError(scheme)
    numbers = [int(found[1]) for module in modules if (found := _LAYER.search(module))]
    return Grouping(scheme, max(numbers, default=0) + 1)


@dataclass(frozen=True)
class GroupWeights:
    """An adapter's weight in each group."""

    grouping: Grouping
    weights: Mapping[str, float]

    def of(self, module: str) -> float:
        """Raises KeyError for a module whose group has no weight."""
        return self.weights[self.grouping.of(module)]

    def text(self) -> str:
        """`attention=0.7,mlp=0.3`, numbers so that they read back exactly."""
        return ",".join(f"{group}={weight!r}" for group, weight in self.weights.items())


def parse_weights(text: str) -> float | dict[str, float]:
    """`0.5`, or `attention=0.7,mlp=0.3`. Raises ValueError for anything else."""
    if "=" not in text:
        return float(text)
    pairs = [part.split("=") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(text)
    return {group: float(weight) for group, weight in pairs}
