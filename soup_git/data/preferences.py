"""Rows that say which answer is better, or how good one is."""

from __future__ import annotations

from typing import Any

from soup_git.data.rows import BadRowError, Row, in_short
from soup_git.data.turns import checked_text, checked_turns, with_tools


def pair(row: Row) -> Row:
    """`{"prompt", "chosen", "rejected"}`: three texts, or turns and two lists of one turn."""
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise BadRowError("chosen and rejected should both be text, or both lists of turns")
    if isinstance(chosen, list):
        converted = _conversations(row.get("prompt"), chosen, rejected)
    else:
        if "prompt" not in row:
            raise BadRowError("without a prompt, chosen and rejected should be conversations")
        prompt = asked(row["prompt"])
        answers = {key: answer(row[key], key, prompt) for key in ("chosen", "rejected")}
        converted = {"prompt": prompt, **answers}
    if converted["chosen"] == converted["rejected"]:
        raise BadRowError("chosen and rejected are the same, so neither is better")
    return with_tools(row, converted)


def judged(row: Row) -> Row:
    """`{"prompt", "completion", "label"}`: an answer that is good (true) or bad (false)."""
    label = row["label"]
    if not isinstance(label, bool):
        raise BadRowError(f"label should be true or false, it is {in_short(label)}")
    prompt, completion = asked(row["prompt"]), row["completion"]
    if isinstance(completion, list):
        completion = _one_answer(completion, "completion", prompt)
    else:
        completion = answer(completion, "completion", prompt)
    return with_tools(row, {"prompt": prompt, "completion": completion, "label": label})


def steps(row: Row) -> Row:
    """`{"prompt", "completions", "labels"}`: the steps of an answer, each right or wrong."""
    prompt = checked_text(row["prompt"], "prompt")
    written, labels = row["completions"], row["labels"]
    for key, value in (("completions", written), ("labels", labels)):
        if not isinstance(value, list) or not value:
            raise BadRowError(f"{key} should be a list with one entry per step")
    if len(written) != len(labels):
        raise BadRowError(f"{len(written)} completions, but {len(labels)} labels")
    for i, label in enumerate(labels):
        if not isinstance(label, bool):
            raise BadRowError(f"labels[{i}] should be true or false, it is {in_short(label)}")
    texts = [checked_text(step, f"completions[{i}]") for i, step in enumerate(written)]
    return {"prompt": prompt, "completions": texts, "labels": list(labels)}


def question(row: Row) -> Row:
    """`{"prompt", …}`: what to answer; every other column is for the reward function."""
    taken = sorted({"prompts", "completions", "completion_ids", "trainer_state"} & set(row))
    if taken:
        raise BadRowError(f"the column {taken[0]!r} is the name of what a reward function is given")
    return with_tools(row, {**row, "prompt": asked(row["prompt"])})


def asked(prompt: Any) -> Any:
    """A prompt: text, or turns up to where the assistant speaks."""
    if not isinstance(prompt, list):
        return checked_text(prompt, "prompt")
    turns = checked_turns(prompt, "prompt")
    if turns[-1]["role"] == "assistant":
        raise BadRowError("prompt ends with the assistant's turn, so there is nothing to answer")
    return turns


def answer(value: Any, key: str, prompt: Any) -> Any:
    """A text as the answer to `prompt`: text, or one turn where the prompt is turns."""
    text = checked_text(value, key)
    return [{"role": "assistant", "content": text}] if isinstance(prompt, list) else text


def _one_answer(turns: list[Row], key: str, prompt: Any) -> list[Row]:
    if not isinstance(prompt, list):
        raise BadRowError(f"{key} is turns, while prompt is text")
    checked_turns(prompt + turns, f"prompt + {key}")
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise BadRowError(f"{key} should be one turn, the assistant's")
    return turns


def _conversations(prompt: Any, chosen: list[Row], rejected: list[Row]) -> Row:
    if isinstance(prompt, list):
        before = asked(prompt)
        answers = {"chosen": chosen, "rejected": rejected}
    else:
        before, answers = _shared(chosen, rejected)
        if prompt is not None and before[-1].get("content") != prompt:
            raise BadRowError("prompt is text that the turns of chosen do not start with")
    return {"prompt": before, **{k: _one_answer(v, k, before) for k, v in answers.items()}}


def _shared(chosen: list[Row], rejected: list[Row]) -> tuple[list[Row], Row]:
    """What two whole conversations have in common, and their last turns."""
    checked_turns(chosen, "chosen")
    checked_turns(rejected, "rejected")
    before = chosen[:-1]
    if not before or before != rejected[:-1]:
        raise BadRowError("chosen and rejected should differ in their last turn, and only there")
    return asked(before), {"chosen": chosen[-1:], "rejected": rejected[-1:]}
