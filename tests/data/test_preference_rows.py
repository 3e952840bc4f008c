"""Rows that compare, judge or label: what fits, and what each misfit is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soup_git.data import formats
from soup_git.errors import FatalError

ASK = [{"role": "user", "content": "hi"}]
GOOD = [{"role": "assistant", "content": "hello"}]
BAD = [{"role": "assistant", "content": "no"}]
PAIR = {"prompt": ASK, "chosen": GOOD, "rejected": BAD}


def load(folder: Path, *rows: Any, **options: Any) -> formats.Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shapes = tuple({f.shape for f in formats.FORMATS.values()})
    return formats.load_dataset(path, name="rows", **{"shapes": shapes, **options})


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": ASK, "chosen": "hello", "rejected": "no"},
        {"chosen": ASK + GOOD, "rejected": ASK + BAD},
        {"prompt": "hi", "chosen": ASK + GOOD, "rejected": ASK + BAD},
    ],
)
def test_four_ways_to_write_one_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    dataset = load(tmp_path, row)
    assert dataset.rows[0].values == PAIR
    assert dataset.conversational


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": GOOD}, "both be text, or both lists of turns"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "rejected is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "rejected should be text"),
        ({"chosen": "b", "rejected": "c"}, "without a prompt"),
        ({"prompt": GOOD, "chosen": "b", "rejected": "c"}, "ends with the assistant's turn"),
        ({"prompt": "other", "chosen": ASK + GOOD, "rejected": ASK + BAD}, "do not start with"),
        ({"chosen": ASK + GOOD, "rejected": BAD}, "differ in their last turn"),
        ({**PAIR, "chosen": GOOD + ASK + GOOD}, "chosen should be one turn"),
        ({**PAIR, "chosen": []}, "chosen should be one turn"),
        ({**PAIR, "rejected": [{"role": "assistant", "content": ""}]}, "content is empty"),
        ({**PAIR, "rejected": ["no"]}, "should be an object with role and content"),
        ({"prompt": "a", "completion": "b", "label": 1}, "label should be true or false, it is 1"),
        ({"prompt": "a", "completion": GOOD, "label": True}, "turns, while prompt is text"),
        ({"prompt": ASK, "completion": ASK, "label": True}, "a second user turn in a row"),
        ({"prompt": "a", "completions": ["b"], "labels": [True, True]}, "1 completions, but 2"),
        ({"prompt": "a", "completions": [], "labels": []}, "one entry per step"),
        ({"prompt": "a", "completions": ["b"], "labels": ["+"]}, "labels[0] should be true or"),
        ({"prompt": "a", "completions": [""], "labels": [True]}, "completions[0] is empty"),
        ({"prompt": "a", "completions": ["b"]}, "'completions' is the name of what"),
        ({"prompt": "a", "prompts": "b"}, "the name of what a reward function is given"),
        ({"prompt": [], "answer": "b"}, "prompt is empty"),
        ({"text": "a", "label": True}, "label should be a name or a number"),
        ({"text": "a", "label": [["b"]]}, "a list of lists"),
        ({"text": "a", "label": ["b"] * 1025}, "more than 1024"),
        ({"text": "a", "label": "b\0"}, "a null character"),
        ({"text": "", "label": 1}, "text is empty"),
        ({"text": "a", "text_pair": None, "label": 1}, "text_pair should be text, it is null"),
        ({"query": "a", "document": "", "label": 1}, "document is empty"),
        ({"query": "a", "positive": "b", "negatives": ["b"]}, "positive is among the negatives"),
        ({"query": "a", "positive": "b", "negatives": []}, "negatives should be a list"),
        ({"query": "a", "positive": "b", "negatives": [1]}, "negatives[0] should be text"),
        ({"anchor": "a", "positive": ""}, "positive is empty"),
        ({"anchor": "a", "positive": "b", "negative": 1}, "negative should be text"),
    ],
)
def test_a_row_that_does_not_fit_is_told_why(tmp_path: Path, row: Any, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        load(tmp_path, row)
    assert what in f"{caught.value} {caught.value.hint}"
    assert "rows:1: " in str(caught.value)


def test_the_format_that_asks_for_most_columns_is_the_one(tmp_path: Path) -> None:
    """So that a dataset of good and bad answers is not learnt by imitation, bad ones and all."""
    judged = {"prompt": "a", "completion": "b", "label": False}
    assert load(tmp_path, judged).format.name == "kto"
    sft = ("messages", "prompt_completion", "text")
    with pytest.raises(FatalError, match="kto rows, which this task does not read"):
        load(tmp_path, judged, shapes=sft)
    assert load(tmp_path, judged, shapes=sft, format_name="prompt_completion").unread == ("label",)


def test_every_column_beside_a_prompt_is_for_the_reward(tmp_path: Path) -> None:
    dataset = load(tmp_path, {"prompt": "2+2", "answer": 4, "level": [1]})
    assert dataset.unread == ()
    assert dataset.rows[0].values == {"prompt": "2+2", "answer": 4, "level": [1]}
