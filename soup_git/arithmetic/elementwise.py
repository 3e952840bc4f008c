"""Merges that are defined entry by entry: which entries to keep, and how to join them.

A method is a row of two choices, as in mergekit: a sparsifier per adapter, and a plain
weighted sum or a mean over the entries that agree with an elected sign. Entries are read
block by block, so the same code works on factors, on shared coordinates and on dense ΔW.

Masks are applied to the bits of the numbers: `np.where` and masked copies mispredict on
random masks (4.5–7 ns an entry), an `and` of integers costs 0.2.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from soup_git.arithmetic.floats import Array

_BLOCK_VALUES = 1 << 15
_OUTLIERS = 0.01  # breadcrumbs' share of largest entries; della's window of probabilities
_WINDOW = 0.1
_INTEGER: dict[Any, Any] = {np.float32: np.int32, np.float64: np.int64}
_SAMPLE = 4096


class Coordinates(Protocol):
    """A matrix that can be read by rows: one adapter's coordinates."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, start: int, stop: int, out: Array) -> None:
        """Write the rows `start`..`stop` into `out`."""


@dataclass(frozen=True)
class Settings:
    """What an element-wise merge depends on besides the values and the weights."""

    density: float = 0.5
    seed: int = 0
    peft: bool = False
    """PEFT's numbers where they differ from the papers': ⌊density·n⌋ entries are kept, the
    sign is elected by unweighted values, the mean divides by the count."""


Keep = Callable[[Array, int], None]
"""Zero, in place, what is not kept of a block of rows whose first row has that number."""
Sparsifier = Callable[[Coordinates, Any, Settings, bytes], Keep]


@dataclass(frozen=True)
class Elementwise:
    sparsify: Sparsifier
    elect: bool


def merge_rows(
    method: Elementwise,
    coordinates: Sequence[Coordinates],
    weights: Sequence[float],
    keys: Sequence[bytes],
    settings: Settings,
    work: Any = np.float32,
) -> Iterator[tuple[int, Array]]:
    """(first row, rows) of the merged matrix, in order; a block is valid until the next one.

    `keys` are what the random masks depend on: one text per adapter, of the seed, the
    tensor's name and the adapter's digest.
    """
    count, width = coordinates[0].shape
    keeps = [
        method.sparsify(c, work, settings, key) for c, key in zip(coordinates, keys, strict=True)
    ]
    step = max(1, _BLOCK_VALUES // max(width, 1))
    blocks = [np.empty((min(step, count), width), work) for _ in coordinates]
    join: Callable[[Sequence[Array]], Array] = (
        _Consensus(weights, settings, blocks[0]) if method.elect else _Sum(weights, blocks[0])
    )
    for start in range(0, count, step):
        stop = min(count, start + step)
        views = [block[: stop - start] for block in blocks]
        for view, found, keep in zip(views, coordinates, keeps, strict=True):
            found.rows(start, stop, view)
            keep(view, start)
        yield start, join(views)


class _Sum:
    """Σ w·x"""

    def __init__(self, weights: Sequence[float], like: Array) -> None:
        self._weights = [like.dtype.type(w) for w in weights]
        self._out = np.empty_like(like)

    def __call__(self, blocks: Sequence[Array]) -> Array:
        out = self._out[: len(blocks[0])]
        np.multiply(blocks[0], self._weights[0], out=out)
        for block, weight in zip(blocks[1:], self._weights[1:], strict=True):
            block *= weight  # noqa: PLW2901 - the block is ours until the next one
            out += block
        return out


class _Consensus:
    """Elect a sign per entry by Σ w·x (a tie is +1), then the weighted mean over those that agree."""

    def __init__(self, weights: Sequence[float], settings: Settings, like: Array) -> None:
        kind = like.dtype.type
        self._weights = [kind(w) for w in weights]
        self._peft = settings.peft
        # Divisors: the weight that each adapter brings to the mean, or 1 to count.
        shares = [1.0] * len(weights) if settings.peft else [abs(w) for w in weights]
        self._shares = [kind(share) for share in shares]
        self._equal = len(set(shares)) == 1 and shares[0] > 0
        self._integer = _INTEGER[kind]
        self._shift = like.dtype.itemsize * 8 - 1
        self._out, self._elected = np.empty_like(like), np.empty_like(like)
        self._mask = np.empty(like.shape, self._integer)
        self._agrees = np.empty(like.shape, bool)
        self._count = np.empty(like.shape, np.int8)
        self._total = np.empty_like(like)

    def __call__(self, blocks: Sequence[Array]) -> Array:
        rows = len(blocks[0])
        out, mask, agrees = self._out[:rows], self._mask[:rows], self._agrees[:rows]
        not_elected = self._elect(blocks)
        divisor = self._count[:rows] if self._equal else self._total[:rows]
        divisor[:] = 0
        out[:] = 0
        for block, weight, share in zip(blocks, self._weights, self._shares, strict=True):
            bits = block.view(self._integer)
            np.bitwise_xor(bits, not_elected, out=mask)
            np.right_shift(mask, self._shift, out=mask)  # all ones where the signs agree
            np.bitwise_and(bits, mask, out=bits)
            np.not_equal(block, 0, out=agrees)
            if self._equal:
                divisor += agrees.view(np.int8)
            else:
                divisor += np.multiply(agrees, share, out=self._elected[:rows])
            if self._peft:
                block *= weight  # noqa: PLW2901 - the block is ours until the next one
            out += block
        return self._divide(out, divisor)

    def _elect(self, blocks: Sequence[Array]) -> Array:
        """Integers whose sign bit is set where + is elected; weighs the blocks, but not for PEFT."""
        elected = self._elected[: len(blocks[0])]
        elected[:] = 0
        for block, weight in zip(blocks, self._weights, strict=True):
            if not self._peft:
                block *= weight  # noqa: PLW2901 - the block is ours until the next one
            elected += block
        # −0.0 has a sign bit and is a tie.
        elected += 0.0
        bits: Array = elected.view(self._integer)
        np.invert(bits, out=bits)
        return bits if self._equal else bits.copy()

    def _divide(self, out: Array, divisor: Array) -> Array:
        if self._equal:
            np.maximum(divisor, 1, out=divisor)
            np.divide(out, divisor, out=out)
            if self._shares[0] != 1.0:
                np.divide(out, self._shares[0], out=out)
            return out
        divisor[divisor == 0] = 1
        return np.divide(out, divisor, out=out)


# -- what is kept -----------------------------------------------------------------------------


def keep_all(_c: Coordinates, _work: Any, _settings: Settings, _key: bytes) -> Keep:
    return lambda _block, _start: None


def keep_largest(c: Coordinates, work: Any, settings: Settings, _key: bytes) -> Keep:
    """The ⌈density·n⌉ largest magnitudes; of equal ones at the threshold, the first."""
    keys = _magnitudes(c, work)
    floor = _threshold(keys, _kept(settings, keys.size))
    return lambda block, start: floor.keep_above(block, start * block.shape[1])


def keep_middle(c: Coordinates, work: Any, settings: Settings, _key: bytes) -> Keep:
    """The largest density·n magnitudes below the largest hundredth (outliers go too)."""
    keys = _magnitudes(c, work)
    outliers = int(_OUTLIERS * keys.size)
    floor = _threshold(keys, min(keys.size, _kept(settings, keys.size) + outliers))
    ceiling = _threshold(keys, outliers)

    def keep(block: Array, start: int) -> None:
        at = start * block.shape[1]
        floor.keep_above(block, at)
        ceiling.keep_below(block, at)

    return keep


def keep_random(_c: Coordinates, work: Any, settings: Settings, key: bytes) -> Keep:
    """Each entry with probability density, divided by it. The stream is raw SFC64 words."""
    lanes = min(65536, max(1, round(settings.density * 65536)))
    rescale = work(65536.0 / lanes)
    stream = _stream(key)

    def keep(block: Array, _start: int) -> None:
        if lanes == 65536:
            return
        words = stream.random_raw((block.size + 3) // 4)
        drawn = np.asarray(words).view(np.uint16)[: block.size].reshape(block.shape)
        block *= drawn < lanes
        block *= rescale

    return keep


def keep_by_magnitude(_c: Coordinates, _work: Any, settings: Settings, key: bytes) -> Keep:
    """At random, the larger of a row more often: density ± half the window by rank; rescaled."""
    window = min(_WINDOW, 2 * settings.density, 2 * (1 - settings.density))
    stream = np.random.Generator(_stream(key))

    def keep(block: Array, _start: int) -> None:
        ranks = np.argsort(np.argsort(np.abs(block), axis=1, kind="stable"), axis=1)
        places = ranks / max(block.shape[1] - 1, 1) - 0.5
        chance = settings.density + window * places
        kept = stream.random(block.shape) < chance
        block *= np.divide(kept, chance, out=np.zeros_like(chance), where=chance > 0)

    return keep


def _stream(key: bytes) -> np.random.SFC64:
    digest = hashlib.blake2b(key, digest_size=32).digest()
    return np.random.SFC64(np.random.SeedSequence(np.frombuffer(digest, "<u4").tolist()))


def _kept(settings: Settings, count: int) -> int:
    exact = settings.density * count
    # A product like 0.1·30 may lie a rounding above the whole number that is meant.
    return math.floor(exact) if settings.peft else math.ceil(exact - 1e-9 * count)


def _magnitudes(c: Coordinates, work: Any) -> Array:
    """The bits of |x|, flat: integers that sort as the magnitudes do."""
    values = np.empty(c.shape, work)
    c.rows(0, c.shape[0], values)
    bits: Array = values.view(_INTEGER[work]).reshape(-1)
    np.bitwise_and(bits, np.iinfo(bits.dtype).max, out=bits)
    return bits


@dataclass(frozen=True)
class _Threshold:
    """Magnitude bits from which entries count as large, less the last of those equal to it."""

    bits: int
    excluded: Array
    """Flat indices, sorted, of entries at the threshold that are too many."""

    def keep_above(self, block: Array, at: int) -> None:
        """Zero what is not large in a block whose first entry is number `at`."""
        large = self._large(block)
        bits = block.view(large.dtype)
        np.bitwise_and(bits, large, out=bits)
        block.reshape(-1)[self._within(block, at)] = 0

    def keep_below(self, block: Array, at: int) -> None:
        large = self._large(block)
        large.reshape(-1)[self._within(block, at)] = 0
        np.invert(large, out=large)
        bits = block.view(large.dtype)
        np.bitwise_and(bits, large, out=bits)

    def _large(self, block: Array) -> Array:
        """All ones where an entry is large."""
        kind = _INTEGER[block.dtype.type]
        mask: Array = np.bitwise_and(block.view(kind), np.iinfo(kind).max)
        np.subtract(kind(self.bits - 1), mask, out=mask)
        return np.right_shift(mask, block.dtype.itemsize * 8 - 1, out=mask)

    def _within(self, block: Array, at: int) -> Array:
        first, last = np.searchsorted(self.excluded, (at, at + block.size))
        return self.excluded[first:last] - at


def _threshold(keys: Array, count: int) -> _Threshold:
    """Where the `count` largest of `keys` begin."""
    none = np.empty(0, np.int64)
    if count >= keys.size:
        return _Threshold(0, none)
    if count <= 0:
        return _Threshold(int(np.iinfo(keys.dtype).max), none)
    bits = max(int(_kth_largest(keys, count)), 1)
    extra = int(np.count_nonzero(keys >= bits)) - count
    if extra <= 0:
        return _Threshold(bits, none)
    return _Threshold(bits, np.flatnonzero(keys == bits)[-extra:])


def _kth_largest(keys: Array, k: int) -> Any:
    """The k-th largest of a flat array: a sample brackets it, so that little is partitioned."""
    n = keys.size
    if n >= 16 * _SAMPLE:
        sample = np.sort(keys[:: n // _SAMPLE])
        quantile = 1 - k / n
        margin = 4 * math.sqrt(quantile * (1 - quantile) / sample.size) + 2 / sample.size
        low = sample[max(0, int((quantile - margin) * sample.size))]
        high = sample[min(sample.size - 1, int((quantile + margin) * sample.size) + 1)]
        above = int(np.count_nonzero(keys > high))
        inside = keys >= low
        if above < k <= int(np.count_nonzero(inside)):
            inside &= keys <= high
            keys, k = keys[inside], k - above
    return np.partition(keys, keys.size - k)[keys.size - k]
