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
from soup_git.arithmetic.scratch import scratch

_BLOCK_VALUES = 1 << 15
_OUTLIERS = 0.01  # breadcrumbs' share of largest entries; della's window of probabilities
_WINDOW = 0.1
_INTEGER: dict[Any, Any] = {np.float32: np.int32, np.float64: np.int64}


class Coordinates(Protocol):
    """A matrix that can be read by rows: one adapter's coordinates."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def rows(self, start: int, stop: int, out: Array) -> Array:
        """The rows `start`..`stop`, to be read only: `out`, filled, or a view of what is there."""


@dataclass(frozen=True)
class Settings:
    """What an element-wise merge depends on besides the values and the weights."""

    density: float = 0.5
    seed: int = 0
    peft: bool = False
    """PEFT's numbers where they differ from the papers': ⌊density·n⌋ entries are kept, the
    sign is elected by unweighted values, the mean divides by the count."""


Keep = Callable[[Array, Array, int], Array]
"""(values, out, first row) -> what is kept of these rows: in `out`, or the values as they are."""
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
    tensor's name and the adapter's digest. One merge at a time in a thread: they share memory.
    """
    count, width = coordinates[0].shape
    keeps = [
        method.sparsify(c, work, settings, key) for c, key in zip(coordinates, keys, strict=True)
    ]
    step = max(1, _BLOCK_VALUES // max(width, 1))
    own = scratch("blocks", (len(coordinates), min(step, count), width), work)
    join = _Consensus(weights, settings) if method.elect else _Sum(weights)
    for start in range(0, count, step):
        stop = min(count, start + step)
        kept = []
        for block, found, keep in zip(own, coordinates, keeps, strict=True):
            block = block[: stop - start]  # noqa: PLW2901 - the last block is shorter
            kept.append(keep(found.rows(start, stop, block), block, start))
        yield start, join(kept)


class _Sum:
    """Σ w·x"""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights

    def __call__(self, blocks: Sequence[Array]) -> Array:
        like = blocks[0]
        weights = [like.dtype.type(w) for w in self._weights]
        out = scratch("joined", like.shape, like.dtype)
        np.multiply(like, weights[0], out=out)
        weighted = scratch("weighted", like.shape, like.dtype)
        for block, weight in zip(blocks[1:], weights[1:], strict=True):
            out += np.multiply(block, weight, out=weighted)
        return out


class _Consensus:
    """Elect a sign per entry by Σ w·x (a tie is +1), then the weighted mean over those that agree.

    Equal positive weights drop out of the election and of the mean; only PEFT's mean, which
    divides by the number that agree, keeps them as a factor. The blocks are overwritten.
    """

    def __init__(self, weights: Sequence[float], settings: Settings) -> None:
        self._weights = weights
        self._peft = settings.peft
        self._equal = len(set(weights)) == 1 and weights[0] > 0

    def __call__(self, blocks: Sequence[Array]) -> Array:
        like = blocks[0]
        weights = [like.dtype.type(w) for w in self._weights]
        if not self._equal and not self._peft:
            _weigh(blocks, weights)
        self._zero_what_disagrees(blocks)
        divisor = (
            _counted(blocks) if self._equal or self._peft else _weight_present(blocks, weights)
        )
        if not self._equal and self._peft:
            _weigh(blocks, weights)
        out = _added(blocks, scratch("joined", like.shape, like.dtype))
        np.divide(out, divisor, out=out)
        if self._equal and self._peft:
            np.multiply(out, weights[0], out=out)
        return out

    @staticmethod
    def _zero_what_disagrees(blocks: Sequence[Array]) -> None:
        like = blocks[0]
        integer = _INTEGER[like.dtype.type]
        elected = _added(blocks, scratch("elected", like.shape, like.dtype)).view(integer)
        np.invert(elected, out=elected)  # the sign bit is set where + is elected
        mask = scratch("mask", like.shape, integer)
        for block in blocks:
            bits = block.view(integer)
            np.bitwise_xor(bits, elected, out=mask)
            np.right_shift(mask, like.dtype.itemsize * 8 - 1, out=mask)  # all ones: they agree
            np.bitwise_and(bits, mask, out=bits)


def _weigh(blocks: Sequence[Array], weights: Sequence[Any]) -> None:
    for block, weight in zip(blocks, weights, strict=True):
        np.multiply(block, weight, out=block)


def _added(blocks: Sequence[Array], out: Array) -> Array:
    """The sum in the order given."""
    np.add(blocks[0], blocks[1] if len(blocks) > 1 else 0, out=out)
    for block in blocks[2:]:
        out += block
    return out


def _counted(blocks: Sequence[Array]) -> Array:
    """How many blocks have an entry, at least 1; int8, of at most 16."""
    count = scratch("count", blocks[0].shape, np.int8)
    count[:] = 0
    there = scratch("there", blocks[0].shape, bool)
    for block in blocks:
        count += np.not_equal(block, 0, out=there).view(np.int8)
    return np.maximum(count, 1, out=count)


def _weight_present(blocks: Sequence[Array], weights: Sequence[Any]) -> Array:
    """Σ |w| over the blocks that have an entry; 1 where none has."""
    like = blocks[0]
    total = scratch("total", like.shape, like.dtype)
    total[:] = 0
    share = scratch("mask", like.shape, like.dtype)
    there = scratch("there", like.shape, bool)
    for block, weight in zip(blocks, weights, strict=True):
        np.not_equal(block, 0, out=there)
        total += np.multiply(there, abs(weight), out=share)
    total[total == 0] = 1
    return total


# -- what is kept -----------------------------------------------------------------------------


def keep_all(_c: Coordinates, _work: Any, _settings: Settings, _key: bytes) -> Keep:
    return lambda values, _out, _start: values


def keep_largest(c: Coordinates, work: Any, settings: Settings, _key: bytes) -> Keep:
    """The ⌈density·n⌉ largest magnitudes; of equal ones at the threshold, the first."""
    floor = _threshold(c, work, _kept(settings, math.prod(c.shape)))
    return lambda values, out, start: floor.keep_above(values, out, start * values.shape[1])


def keep_middle(c: Coordinates, work: Any, settings: Settings, _key: bytes) -> Keep:
    """The largest density·n magnitudes below the largest hundredth (outliers go too)."""
    size = math.prod(c.shape)
    outliers = int(_OUTLIERS * size)
    floor = _threshold(c, work, min(size, _kept(settings, size) + outliers))
    ceiling = _threshold(c, work, outliers)

    def keep(values: Array, out: Array, start: int) -> Array:
        at = start * values.shape[1]
        return ceiling.keep_below(floor.keep_above(values, out, at), out, at)

    return keep


def keep_random(_c: Coordinates, work: Any, settings: Settings, key: bytes) -> Keep:
    """Each entry with probability density, divided by it. The stream is raw SFC64 words."""
    lanes = min(65536, max(1, round(settings.density * 65536)))
    rescale = work(65536.0 / lanes)
    stream = _stream(key)

    def keep(values: Array, out: Array, _start: int) -> Array:
        if lanes == 65536:
            np.copyto(out, values)
            return out
        words = stream.random_raw((values.size + 3) // 4)
        drawn = np.asarray(words).view(np.uint16)[: values.size].reshape(values.shape)
        np.multiply(values, drawn < lanes, out=out)
        np.multiply(out, rescale, out=out)
        return out

    return keep


def keep_by_magnitude(_c: Coordinates, _work: Any, settings: Settings, key: bytes) -> Keep:
    """At random, the larger of a row more often: density ± half the window by rank; rescaled."""
    window = min(_WINDOW, 2 * settings.density, 2 * (1 - settings.density))
    stream = np.random.Generator(_stream(key))

    def keep(values: Array, out: Array, _start: int) -> Array:
        ranks = np.argsort(np.argsort(np.abs(values), axis=1, kind="stable"), axis=1)
        places = ranks / max(values.shape[1] - 1, 1) - 0.5
        chance = settings.density + window * places
        kept = stream.random(values.shape) < chance
        factor = np.divide(kept, chance, out=np.zeros_like(chance), where=chance > 0)
        np.multiply(values, factor, out=out, casting="same_kind")
        return out

    return keep


def _stream(key: bytes) -> np.random.SFC64:
    digest = hashlib.blake2b(key, digest_size=32).digest()
    return np.random.SFC64(np.random.SeedSequence(np.frombuffer(digest, "<u4").tolist()))


def _kept(settings: Settings, count: int) -> int:
    exact = settings.density * count
    # A product like 0.1·30 may lie a rounding above the whole number that is meant.
    return math.floor(exact) if settings.peft else math.ceil(exact - 1e-9 * count)


def _magnitudes(c: Coordinates, work: Any) -> Array:
    """The bits of |x|, row-major, flat: integers that sort as the magnitudes do."""
    out = scratch("magnitudes", c.shape, work)
    bits: Array = out.view(_INTEGER[work])
    values = c.rows(0, c.shape[0], out)
    np.bitwise_and(values.view(bits.dtype), np.iinfo(bits.dtype).max, out=bits)
    return bits.reshape(-1)


@dataclass(frozen=True)
class _Threshold:
    """Magnitude bits from which entries count as large, less the last of those equal to it."""

    bits: int
    excluded: Array
    """Flat indices, sorted, of entries at the threshold that are too many."""

    def keep_above(self, values: Array, out: Array, at: int) -> Array:
        """`out`: the values, 0 where one is not large; the first value is number `at`."""
        large = self._large(values)
        np.bitwise_and(values.view(large.dtype), large, out=out.view(large.dtype))
        if self.excluded.size:
            out.reshape(-1)[self._within(values, at)] = 0
        return out

    def keep_below(self, values: Array, out: Array, at: int) -> Array:
        large = self._large(values)
        if self.excluded.size:
            large.reshape(-1)[self._within(values, at)] = 0
        np.invert(large, out=large)
        np.bitwise_and(values.view(large.dtype), large, out=out.view(large.dtype))
        return out

    def _large(self, values: Array) -> Array:
        """All ones where an entry is large."""
        kind = _INTEGER[values.dtype.type]
        mask = scratch("mask", values.shape, kind)
        np.bitwise_and(values.view(kind), np.iinfo(kind).max, out=mask)
        np.subtract(kind(self.bits - 1), mask, out=mask)
        return np.right_shift(mask, values.dtype.itemsize * 8 - 1, out=mask)

    def _within(self, values: Array, at: int) -> Array:
        first, last = np.searchsorted(self.excluded, (at, at + values.size))
        return self.excluded[first:last] - at


def _threshold(c: Coordinates, work: Any, count: int) -> _Threshold:
    """Where the `count` largest magnitudes begin.

    Integers are partitioned whole: numpy's vectorised selection (0.4 ns an entry with
    AVX-512) is faster than any bracket from a sample.
    """
    none = np.empty(0, np.int64)
    if count >= math.prod(c.shape):
        return _Threshold(0, none)
    if count <= 0:
        return _Threshold(int(np.iinfo(_INTEGER[work]).max), none)
    magnitudes = _magnitudes(c, work)
    place = magnitudes.size - count
    magnitudes.partition(place)
    bits = max(int(magnitudes[place]), 1)
    extra = int(np.count_nonzero(magnitudes[:place] == bits))
    if extra <= 0:
        return _Threshold(bits, none)
    return _Threshold(bits, np.flatnonzero(_magnitudes(c, work) == bits)[-extra:])
