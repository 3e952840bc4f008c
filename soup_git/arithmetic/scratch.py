"""Memory that a thread uses again, because new memory is the dear part of cheap work.

The kernel takes longer to hand out and clear a page than numpy to fill it with sums: merging
an 8B adapter through fresh arrays spent a third of its time in page faults.
"""

from __future__ import annotations

import math
from threading import local
from typing import Any

import numpy as np

from soup_git.arithmetic.floats import Array

# What one thread keeps under one name; larger arrays are handed out new and given back.
_KEPT_BYTES = 1 << 25


class _Held(local):
    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}


_held = _Held()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of this shape with anything in it, valid until the thread asks for `name` again.

    A name belongs to one module, and no result ever depends on what was there before.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > _KEPT_BYTES:
        return np.empty(shape, dtype)
    found = _held.arrays.get(name)
    if found is None or found.size < size:
        found = _held.arrays[name] = np.empty(size, np.uint8)
    out: Array = found[:size].view(dtype).reshape(shape)
    return out
