"""rank_pattern and alpha_pattern: matched as PEFT matches them, in time that is bounded."""

from __future__ import annotations

import json
import time

import pytest

from soup_git.core.adapter import is_safe_pattern, parse_adapter_config
from soup_git.errors import FatalError

MODULES = [
    "model.layers.3.self_attn.v_proj", "vision.layers.3.v_proj", "model.layers.13.mlp.up_proj",
    "model.layers.3.self_attn.q_proj", "v_proj", "model.xv_proj",
]  # fmt: skip
PATTERNS = [
    r"^(?!.*vision).*v_proj", r"(?!vision\.).*v_proj", r"(?:(?!vision).)*v_proj", r"v_proj",
    r"layers.3.self_attn.v_proj", r".*layers\.(?:[0-9]|1[0-9])\..*_proj", r"(q|v)_proj",
    r"(?<=\.)v_proj", r"self_attn.[qv]_proj", r"model.*(?=up)up_proj",
]  # fmt: skip


def config(patterns: dict[str, int], key: str = "rank_pattern"):
    raw = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, key: patterns}
    return parse_adapter_config(json.dumps(raw).encode(), "c.json")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_peft_matches(pattern):
    from peft.utils.other import get_pattern_key

    found = config({pattern: 2, "q_proj": 3})
    for module in MODULES:
        key = get_pattern_key([pattern, "q_proj"], module)
        assert found.rank_of(module) == {pattern: 2, "q_proj": 3}.get(key, 8), module


def test_a_rank_for_every_module_of_a_large_model():
    names = [
        f"model.layers.{i}.{m}_proj" for i in range(80) for m in ("q", "k", "v", "o", "up", "down")
    ]
    began = time.process_time()
    found = config({name: 1 + i % 7 for i, name in enumerate(names)})
    assert [found.rank_of(name) for name in names] == [1 + i % 7 for i in range(len(names))]
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"((?=a+)a)*b", r"(?!(a*)*b)c", r"(a)\1", "(?>a)", "(", "a" * 257, "(.*)*x"]
)  # fmt: skip
def test_patterns_of_unbounded_time_are_refused(pattern):
    assert not is_safe_pattern(pattern)
    with pytest.raises(FatalError, match="not a pattern that can be matched safely"):
        config({pattern: 4})


def test_many_regular_expressions_are_refused_by_their_number():
    with pytest.raises(FatalError, match="257 regular expressions"):
        config({f"v{i}.*": 4 for i in range(257)})
