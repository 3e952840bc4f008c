"""Which rows two datasets share, told from digests: a difference of multisets, in flat arrays.

Millions of rows are matched in modest memory because a row is a number here: equal digests
have equal numbers on both sides.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Numbers: TypeAlias = "array[int]"
DIGEST_SIZE = 15
"""Bytes of a digest that are kept: 120 bits, and a fifth less memory than 128 take in Python."""
_NONE = -1
_ABSENT = bytes(DIGEST_SIZE)


class Digests:
    """A sequence of digests end to end; an empty one means "none" and equals nothing."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def append(self, digest: bytes) -> None:
        self._bytes += digest or _ABSENT

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self._bytes), DIGEST_SIZE):
            digest = bytes(self._bytes[at : at + DIGEST_SIZE])
            yield b"" if digest == _ABSENT else digest


class Numbering:
    """Gives equal digests equal numbers, from 0, in the order they come."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def number(self, digests: Iterable[bytes]) -> Numbers:
        """One number for each digest; -1 for an empty one."""
        numbers = self._numbers
        # setdefault is given the next number before the digest is in.
        return array("i", (numbers.setdefault(d, len(numbers)) if d else _NONE for d in digests))


@dataclass(frozen=True)
class Matching:
    """Which of two sequences equal each other, as indices into them."""

    partner: Numbers
    """For each of b: the one of a that it is paired with, or -1. Equals pair in their order."""
    only_a: Numbers
    only_b: Numbers


def match(a: Numbers, b: Numbers) -> Matching:
    """Pair equal numbers of two sequences; -1 equals nothing."""
    first = array("i", [_NONE]) * (max(max(a, default=0), max(b, default=0)) + 1)
    later = array("i", [_NONE]) * len(a)
    for at in range(len(a) - 1, -1, -1):
        number = a[at]
        if number >= 0:
            later[at], first[number] = first[number], at
    partner, only_b, is_paired = array("i"), array("i"), bytearray(len(a))
    for at, number in enumerate(b):
        found = first[number] if number >= 0 else _NONE
        partner.append(found)
        if found >= 0:
            first[number] = later[found]
            is_paired[found] = 1
        else:
            only_b.append(at)
    only_a = array("i", (at for at, paired in enumerate(is_paired) if not paired))
    return Matching(partner, only_a, only_b)


def match_digests(a: Iterable[bytes], b: Iterable[bytes]) -> Matching:
    numbering = Numbering()
    return match(numbering.number(a), numbering.number(b))


def repeats(numbers: Numbers) -> bytearray:
    """1 for each that repeats an earlier one, else 0."""
    seen = bytearray(max(numbers, default=0) + 1)
    found = bytearray(len(numbers))
    for at, number in enumerate(numbers):
        found[at] = seen[number]
        seen[number] = 1
    return found


def moved(partner: Sequence[int]) -> int:
    """The fewest of the paired ones that have to move for both sides to have one order.

    That is all but the longest increasing run of partners (patience sorting, n log n).
    """
    ends, last, paired = array("i"), _NONE, 0
    for at in partner:
        if at < 0:
            continue
        paired += 1
        if at > last:
            ends.append(at)
        else:
            ends[bisect_left(ends, at)] = at
        last = ends[-1]
    return paired - len(ends)


# -- rows that are not byte for byte on both sides ----------------------------------------------


@dataclass(frozen=True)
class Remainder:
    """What is known of the rows of one side that the other does not have byte for byte."""

    rows: Numbers
    """Their indices in the side."""
    content: Digests = field(default_factory=Digests)
    """Of the canonical JSON; of the bytes where a row cannot be read."""
    ids: Digests = field(default_factory=Digests)
    prompts: Digests = field(default_factory=Digests)


@dataclass(frozen=True)
class Settled:
    """What became of the rows of both remainders, as indices into the sides."""

    same: list[tuple[int, int]]
    """Equal in content, written differently."""
    changed: list[tuple[int, int, str]]
    """(of a, of b, what they share: `id` or `prompt`), in the order of b."""
    removed: Numbers
    added: Numbers


def settle(a: Remainder, b: Remainder) -> Settled:
    """Pair rows of equal content, then of equal id, then of equal prompt."""
    left_a, left_b = array("i", range(len(a.rows))), array("i", range(len(b.rows)))
    same: list[tuple[int, int]] = []
    changed: list[tuple[int, int, str]] = []
    for by, of_a, of_b in (
        ("", a.content, b.content),
        ("id", a.ids, b.ids),
        ("prompt", a.prompts, b.prompts),
    ):
        found = match_digests(_those(of_a, left_a), _those(of_b, left_b))
        for at, other in enumerate(found.partner):
            if other >= 0:
                one, two = a.rows[left_a[other]], b.rows[left_b[at]]
                if by:
                    changed.append((one, two, by))
                else:
                    same.append((one, two))
        left_a = array("i", (left_a[at] for at in found.only_a))
        left_b = array("i", (left_b[at] for at in found.only_b))
    return Settled(
        same,
        sorted(changed, key=lambda pair: pair[1]),
        removed=array("i", (a.rows[at] for at in left_a)),
        added=array("i", (b.rows[at] for at in left_b)),
    )


def _those(digests: Digests, wanted: Numbers) -> Iterator[bytes]:
    """The digests at some indices, which ascend."""
    indices = iter(wanted)
    following = next(indices, _NONE)
    for at, digest in enumerate(digests):
        if at == following:
            yield digest
            following = next(indices, _NONE)
