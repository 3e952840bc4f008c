"""Rows to learn from by imitation: conversations, prompts with completions, and text."""

from __future__ import annotations

from soup_git.data.rows import BadRowError, Row, in_short
from soup_git.data.turns import checked_text, checked_turns, conversation, with_tools

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}


def messages(row: Row) -> Row:
    turns = conversation(checked_turns(row["messages"], "messages"), "messages")
    return with_tools(row, {"messages": turns})


def sharegpt(row: Row) -> Row:
    conversations = row["conversations"]
    if not isinstance(conversations, list):
        raise BadRowError("conversations should be a list of turns")
    turns = []
    for i, turn in enumerate(conversations):
        where = f"conversations[{i}]"
        if not isinstance(turn, dict) or set(turn) != {"from", "value"}:
            raise BadRowError(f"{where} should be an object with from and value, and no more")
        speaker = turn["from"]
        if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise BadRowError(f"{where} is from {in_short(speaker)}, not one of {known}")
        content = checked_text(turn["value"], f"{where}.value")
        turns.append({"role": SHAREGPT_ROLES[speaker], "content": content})
    turns = conversation(checked_turns(turns, "conversations"), "conversations")
    return with_tools(row, {"messages": turns})


def alpaca(row: Row) -> Row:
    instruction = checked_text(row["instruction"], "instruction")
    given = row.get("input")
    extra = "" if given is None else checked_text(given, "input", may_be_empty=True)
    answer = checked_text(row["output"], "output")
    turns = [
        {"role": "user", "content": f"{instruction}\n{extra}" if extra.strip() else instruction},
        {"role": "assistant", "content": answer},
    ]
    told = row.get("system")
    system = "" if told is None else checked_text(told, "system", may_be_empty=True)
    if system.strip():
        turns.insert(0, {"role": "system", "content": system})
    return {"messages": turns}


def prompt_completion(row: Row) -> Row:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) != isinstance(completion, list):
        raise BadRowError("prompt and completion should both be text, or both lists of turns")
    if isinstance(prompt, list):
        turns = conversation(
            checked_turns(prompt + completion, "prompt + completion"), "completion"
        )
        if not prompt or not completion or completion[0]["role"] != "assistant":
            raise BadRowError("completion should start with the assistant's turn")
        return with_tools(row, {"prompt": turns[: len(prompt)], "completion": completion})
    return {
        "prompt": checked_text(prompt, "prompt"),
        "completion": checked_text(completion, "completion"),
    }


def plaintext(row: Row) -> Row:
    return {"text": checked_text(row["text"], "text")}
