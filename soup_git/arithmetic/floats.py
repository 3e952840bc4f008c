"""Numbers as safetensors stores them: float16, bfloat16, float32, float64, in and out.

numpy has no bfloat16; its bits are the upper half of a float32's, so a `uint16` view and
a shift are all that is needed. Writing rounds to nearest, ties to even, as hardware does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# what the bits are held as; the order is by how much they hold
STORAGE: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "BF16": np.dtype("<u2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8")}  # fmt: skip
_WIDEST = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file: `bits` of `dtype` (a key of STORAGE; BF16 as uint16)."""

    bits: Array
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    def matrix(self) -> Stored:
        """2-D: what lies behind the first axis is one row (convolutions)."""
        return (
            self
            if self.bits.ndim == 2
            else Stored(self.bits.reshape(len(self.bits), -1), self.dtype)
        )

    def read(self, index: Any = (), work: Any = np.float32, scratch: Array | None = None) -> Array:
        """The values at `index` in the `work` dtype; a view where nothing has to change.

        `scratch` (1-D, `work`) takes what has to be converted: a new page costs the kernel
        as long to hand out as its numbers take to compute.
        """
        bits: Array = self.bits[index]
        if bits.dtype == work:
            return bits
        out = np.empty(bits.shape, work) if scratch is None else _shaped(scratch, bits.shape)
        if self.dtype != "BF16":
            np.copyto(out, bits)
        elif work is np.float32:
            np.left_shift(bits, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
        else:
            np.copyto(
                out, np.left_shift(bits, 16, dtype=np.uint32, casting="unsafe").view(np.float32)
            )
        return out


def _shaped(scratch: Array, shape: tuple[int, ...]) -> Array:
    return scratch[: math.prod(shape)].reshape(shape)


def work_dtype(*dtypes: str) -> Any:
    """What to compute in: float64 when an input is, else float32."""
    return np.float64 if "F64" in dtypes else np.float32


def widest(dtypes: set[str]) -> str:
    """The dtype that holds all: BF16 and F16 together need F32."""
    if dtypes == {"F16", "BF16"}:
        return "F32"
    return max(dtypes, key=_WIDEST.index)


def to_bits(values: Array, dtype: str) -> Array:
    """`values` (float32 or float64) as `dtype` is stored, rounded to nearest even.

    Raises OverflowError when a finite value is too large for `dtype`.
    """
    if dtype != "BF16":
        with np.errstate(over="ignore"):
            stored: Array = values.astype(STORAGE[dtype], copy=False)
        if dtype != "F64" and values.dtype != stored.dtype and not np.isfinite(stored).all():
            raise OverflowError(f"a value is too large for {dtype}")
        return stored
    return _bfloat16(values)


def _bfloat16(values: Array) -> Array:
    if values.dtype == np.float64:
        values = _round_to_odd(values)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    stored = rounded.astype(np.uint16)
    if stored.size and int((stored & np.uint16(0x7FFF)).max()) >= 0x7F80:
        raise OverflowError("a value is too large for BF16")
    return stored


def _round_to_odd(values: Array) -> Array:
    """float64 -> float32 whose last bit says "inexact", so that rounding again is exact."""
    with np.errstate(over="ignore"):
        near = values.astype(np.float32)
    bits = near.view(np.uint32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(values)
    inexact = near.astype(np.float64) != values
    truncated = np.where(beyond & np.isfinite(near), bits - np.uint32(1), bits)
    return np.where(inexact, truncated | np.uint32(1), bits).astype(np.uint32).view(np.float32)
