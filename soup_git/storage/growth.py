"""Ranks of a merge that keeps all of the steps, and the config that says so to PEFT."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from soup_git.core.adapter import config_object, parse_adapter_config
from soup_git.core.manifest import Manifest, Tensor, config_bytes
from soup_git.core.targets import rank_axis, targets_of
from soup_git.storage.patterns import patterns


def with_rank(tensor: Tensor, rank: int) -> tuple[int, ...]:
    """The shape of a factor at another rank; that of what has none as it is."""
    axis = rank_axis(tensor.name)
    if axis is None:
        return tensor.shape
    return (*tensor.shape[:axis], rank, *tensor.shape[axis + 1 :])


def largest_rank(group: Iterable[Tensor]) -> int:
    """min(d_out, d_in) of a module's update: no matrix of its shape has a higher rank."""
    sides = [
        math.prod(tensor.shape) // tensor.shape[axis]
        for tensor in group
        if (axis := rank_axis(tensor.name)) is not None
    ]
    return min(sides)


def grown_config(config: bytes, tensors: Iterable[Tensor], ranks: Mapping[str, int]) -> bytes:
    """A config in which the modules of `ranks` have another rank, and every scaling is as before.

    Raises `FatalError` where no patterns say so.
    """
    parsed = parse_adapter_config(config, "the merged header")
    values: dict[str, tuple[int, float]] = {}
    for module, target in targets_of(parsed, tensors).items():
        rank = ranks.get(module, target.rank)
        share = rank / target.rank
        values[module] = rank, target.alpha * (math.sqrt(share) if parsed.rslora else share)
    usual = Counter(values.values()).most_common(1)[0][0]
    others = sorted(set(values.values()) - {usual})
    found = patterns({m: others.index(v) for m, v in values.items() if v != usual}, values)
    raw = config_object(config, "the merged header")
    raw.update(
        r=usual[0],
        lora_alpha=_number(usual[1]),
        rank_pattern={key: others[place][0] for key, place in found.items()},
        alpha_pattern={key: _number(others[place][1]) for key, place in found.items()},
    )
    return json.dumps(raw).encode()


def with_ranks_of(config: bytes, manifest: Manifest, where: str) -> bytes:
    """An `adapter_config.json` that has rank and alpha of a manifest; the same bytes if it has them.

    Raises `FatalError` where `config` is none.
    """
    parsed = parse_adapter_config(config, where)
    header = parse_adapter_config(config_bytes(manifest.header), where)
    same = [parsed.rank, parsed.alpha, parsed.rank_pattern, parsed.alpha_pattern] == [
        header.rank, header.alpha, header.rank_pattern, header.alpha_pattern,
    ]  # fmt: skip
    if same or not header.is_lora:
        return config
    raw = config_object(config, where)
    raw.update(
        r=header.rank,
        lora_alpha=_number(header.alpha or 0.0),
        rank_pattern=dict(header.rank_pattern),
        alpha_pattern=dict(header.alpha_pattern),
    )
    text = json.dumps(dict(sorted(raw.items())), indent=2)
    return (text + ("\n" if config.endswith(b"\n") else "")).encode()


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value
