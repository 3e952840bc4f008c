"""Rows matched by number: a multiset difference, told against one that is computed plainly."""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.rowmatching import Digests, Numbering, Remainder, match, moved, repeats, settle

NUMBERS = st.lists(st.integers(-1, 5), max_size=12)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, NUMBERS)
def test_what_is_left_is_the_difference_of_multisets(a: list[int], b: list[int]) -> None:
    found = match(array("i", a), array("i", b))
    real_a, real_b = (Counter(n for n in side if n >= 0) for side in (a, b))
    none_a, none_b = (Counter(n for n in side if n < 0) for side in (a, b))
    assert Counter(a[at] for at in found.only_a) == real_a - real_b + none_a
    assert Counter(b[at] for at in found.only_b) == real_b - real_a + none_b
    pairs = [(one, at) for at, one in enumerate(found.partner) if one >= 0]
    assert all(a[one] == b[at] for one, at in pairs)
    assert len({one for one, _ in pairs}) == len(pairs)


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(7)), st.sets(st.integers(0, 6)))
def test_moved_is_the_fewest_that_have_to_move(order: list[int], gone: set[int]) -> None:
    partner = [-1 if one in gone else one for one in order]
    kept = [one for one in order if one not in gone]
    longest = next(
        size
        for size in range(len(kept), -1, -1)
        if any(list(some) == sorted(some) for some in combinations(kept, size))
    )
    assert moved(partner) == len(kept) - longest


def test_a_repeat_is_every_one_but_the_first() -> None:
    assert list(repeats(array("i", [3, 1, 3, 3, 0, 1]))) == [0, 0, 1, 1, 0, 1]
    assert list(repeats(array("i"))) == []


def test_none_has_no_number_and_equal_digests_have_one() -> None:
    digests = Digests()
    for digest in (b"a" * 15, b"", b"b" * 15, b"a" * 15):
        digests.append(digest)
    numbering = Numbering()
    assert list(numbering.number(digests)) == [0, -1, 1, 0]
    assert list(numbering.number([b"b" * 15])) == [1]


def remainder(*rows: tuple[str, str, str]) -> Remainder:
    found = Remainder(array("i", range(10, 10 + len(rows))))
    for row in rows:
        for digests, text in zip((found.content, found.ids, found.prompts), row, strict=True):
            digests.append(text.encode().ljust(15, b".") if text else b"")
    return found


def test_content_goes_before_id_and_id_before_prompt() -> None:
    a = remainder(("one", "1", "p"), ("two", "2", "p"), ("three", "3", "q"), ("four", "", ""))
    b = remainder(("new", "9", "q"), ("changed", "2", "p"), ("one", "7", "z"), ("five", "", ""))
    found = settle(a, b)
    assert found.same == [(10, 12)]
    assert found.changed == [(12, 10, "prompt"), (11, 11, "id")]
    assert (list(found.removed), list(found.added)) == ([13], [13])
