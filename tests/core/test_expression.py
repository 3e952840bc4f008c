"""Expressions over adapters: linear combinations, and a reason for everything else."""

from __future__ import annotations

import pytest

from soup_git.core.expression import coefficients


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a", {"a": 1}),
        ("a + 0.5*b - c", {"a": 1, "b": 0.5, "c": -1}),
        ("2*(a - b)/4 + b*1e-1", {"a": 0.5, "b": -0.4}),
        ("-a + +b", {"a": -1, "b": 1}),
        ("a - a + b", {"a": 0, "b": 1}),
    ],
)
def test_expressions_are_linear_combinations(text, wanted):
    assert coefficients(text) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text", ["", "a +", "a*b", "a + 1", "(a", "a)", "a / b", "a / 0", "a b", "a; b", "__import__('os')", "a"*2000 + "+"]
)  # fmt: skip
def test_what_is_no_linear_expression_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        coefficients(text)
