"""Patterns for sets of modules: short, and never more than they stand for."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from soup_git.core.modulegroups import grouped

PARTS = ["self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
MODULES = [f"model.layers.{n}.{part}" for n in range(28) for part in PARTS] + ["lm_head"]


def patterns(modules):
    return [(pattern, len(names)) for pattern, names in grouped(modules, MODULES)]


def test_the_words_of_the_screen():
    mlp = [m for m in MODULES if ".mlp." in m and int(m.split(".")[2]) >= 20]
    assert patterns(mlp) == [("model.layers.20–27.mlp.*", 24)]
    q = [m for m in MODULES if m.endswith("q_proj")]
    assert patterns(q) == [("model.layers.*.self_attn.q_proj", 28)]
    assert patterns(MODULES) == [("model.layers.*.*", 140), ("lm_head", 1)]
    one = ["model.layers.3.mlp.up_proj", "model.layers.7.mlp.up_proj", "lm_head"]
    assert patterns(one) == [("model.layers.3,7.mlp.up_proj", 2), ("lm_head", 1)]


def meant(pattern):
    """The names that a pattern stands for, read as a person reads it."""
    if "layers" not in pattern:
        return {pattern}
    layers, part = re.fullmatch(r"model\.layers\.([^.]+)\.(.+)", pattern).groups()
    numbers = set()
    for run in layers.split(","):
        first, _, last = run.partition("–")
        numbers |= set(range(28)) if run == "*" else set(range(int(first), int(last or first) + 1))
    some = {p for p in PARTS if part in {"*", p} or (part.endswith(".*") and p.startswith(part[:-1]))}  # fmt: skip
    return {f"model.layers.{n}.{p}" for n in numbers for p in some}


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(MODULES), min_size=1))
def test_patterns_stand_for_exactly_the_modules(modules):
    groups = grouped(modules, MODULES)
    assert sorted(name for _, names in groups for name in names) == sorted(modules)
    for pattern, names in groups:
        assert meant(pattern) == set(names)
