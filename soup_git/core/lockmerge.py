"""`soup.lock` merged pin by pin.

A pin that several sides changed differently pins nothing any more: it becomes null, and the
closure with it. `adapters` is the result, and follows the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from soup_git.core.lock import Lock
from soup_git.core.threeway import pick

# What moves together; the names of what is pinned are merged by themselves.
_PINS = {
    "base_model": ("base_model_sha",),
    "dataset": ("dataset_sha", "dataset_md5"),
    "env": ("env_hash", "env"),
    "config": ("config_sha",),
}
_ABSENT = ""
_NAMES = ("base_model", "dataset_path", "config_path", "seed")

MergedWeights = Callable[[str | None, Sequence[str | None]], str | None]
"""(the origin's md5, the sides' md5s) -> the merged md5; None where it is deleted."""


def merge_locks(
    origin: Lock | None, sides: Sequence[Lock], merged_weights: MergedWeights
) -> tuple[Lock, list[str]]:
    """The merged lock, and the pins that became null. Adapters in conflict raise."""
    before: dict[str, Any] = dict(origin.__dict__) if origin is not None else {}
    fields: dict[str, Any] = {}
    nulled = []
    for name in _NAMES:
        agreed, value = pick(before.get(name), [getattr(side, name) for side in sides])
        fields[name] = value if agreed else None
    for pin, keys in _PINS.items():
        values = [tuple(getattr(side, key) for key in keys) for side in sides]
        agreed, value = pick(tuple(before.get(key) for key in keys), values)
        fields.update(zip(keys, value if agreed else (None,) * len(keys), strict=True))
        if not agreed:
            nulled.append(pin)
    fields["inputs"], moved = _merged_inputs(origin, sides)
    nulled += moved
    newest = max(sides, key=lambda side: side.created_at)
    adapters = {}
    known = {} if origin is None else origin.adapters
    for path in sorted({path for side in sides for path in side.adapters}):
        md5 = merged_weights(known.get(path), [side.adapters.get(path) for side in sides])
        if md5 is not None:
            adapters[path] = md5
    return (
        Lock(
            soup_version=newest.soup_version,
            created_at=newest.created_at,
            adapters=adapters,
            **fields,
        ),
        nulled,
    )


def _merged_inputs(
    origin: Lock | None, sides: Sequence[Lock]
) -> tuple[dict[str, str | None], list[str]]:
    """Path -> digest, each path by itself, and the paths whose digest became null."""
    before = {} if origin is None else origin.inputs
    inputs: dict[str, str | None] = {}
    nulled = []
    for path in sorted({path for side in sides for path in side.inputs}):
        # Not named at all is another thing than named, and pinned to nothing.
        agreed, value = pick(
            before.get(path, _ABSENT), [side.inputs.get(path, _ABSENT) for side in sides]
        )
        if not agreed:
            nulled.append(path)
        if value != _ABSENT or not agreed:
            inputs[path] = value if agreed else None
    return inputs, nulled
