"""Values compared leaf by leaf, and how a leaf is written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.excerpt import excerpts
from soup_git.core.valuediff import value_changes

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
MAPPING = st.dictionaries(st.text(max_size=3), VALUE, max_size=3)


@settings(max_examples=80, deadline=None)
@given(MAPPING, MAPPING)
def test_nothing_is_told_of_equals_and_something_of_what_differs(old, new):
    assert value_changes(old, old) == []
    assert bool(value_changes(old, new)) == (repr_of(old) != repr_of(new))
    back = {(change.key, change.new, change.old) for change in value_changes(new, old)}
    assert back == {(change.key, change.old, change.new) for change in value_changes(old, new)}


def repr_of(value):
    """True is not 1, and the order of keys does not matter."""
    if isinstance(value, dict):
        return {key: repr_of(inner) for key, inner in value.items()}
    return [repr_of(item) for item in value] if isinstance(value, list) else repr(value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ({"lr": 2e-5}, {"lr": 0.0002}, "lr: 2e-05 -> 0.0002"),
        ({"lora": {"r": 8}}, {"lora": {}}, "lora.r: 8 -> (not set)"),
        ({"t": ["q", "v"]}, {"t": ["q"]}, 't: ["q", "v"] -> ["q"]'),
        ({"s": [{"n": 1}]}, {"s": [{"n": 2}]}, "s[0].n: 1 -> 2"),
        ({"a": "null"}, {"a": None}, 'a: "null" -> null'),
        ({"a": "8"}, {"a": 8}, 'a: "8" -> 8'),
        ({"a.b": 1}, {"a.b": 2}, '"a.b": 1 -> 2'),
        ({"a": "x\x1b[31m"}, {"a": "\u202ey"}, 'a: "x\\u001b[31m" -> "\\u202ey"'),
    ],
)
def test_a_change_reads_as_the_config_would(old, new, line):
    assert value_changes(old, new)[0].line() == line


def test_a_megabyte_is_cut_around_what_differs():
    common = "a" * 1_000_000
    old, new = excerpts(f"{common} old end", f"{common} new end", 40)
    assert max(len(old), len(new)) <= 42
    assert "old end" in old
    assert "new end" in new
    assert old.startswith("…a")
