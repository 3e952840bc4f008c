"""The datasets of axolotl's YAML: which is read, and what of its description has a counterpart.

Source: https://docs.axolotl.ai/docs/dataset-formats/
"""

from __future__ import annotations

from typing import Any

from soup_git.migration import reasons
from soup_git.migration.datasets import ONE_PATH, data_file
from soup_git.migration.draft import DATA, Draft, Reading
from soup_git.migration.rules import TOGETHER, Rule, cosmetic, lost, opposite, to

TYPES = {
    "alpaca": "alpaca",
    "alpaca:chat": "alpaca",
    "chat_template": "auto",
    "chat_template.default": "auto",
    "completion": "plaintext",
    "pretrain": "plaintext",
    "sharegpt": "sharegpt",
    "chatml": "auto",
}
"""What a row looks like there -> data.format; `auto` looks at the rows."""
_TURNS = ("chatml.argilla_chat", "llama3.argilla_chat", "chat_template.argilla_chat")
OTHER_TYPES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("dpo", "ipo", "bco", "preference", "orpo", "cpo", "simpo", "reward_model"), _TURNS
    ),
    "prm": ("stepwise_supervised",),
}
"""Task -> row types that are read here as they are: chosen and rejected as conversations, steps with
labels. Types of texts are not: axolotl writes those into a chat's form, and here text stays text."""
_AS_TURNS = "write its prompts and answers as turns ({role, content}): text is taken as it is here"
_COLUMNS = "rename the columns in the file: data.format takes the names of its formats"
_MASK = "the loss is on the assistant's turns, or with assistant_only_loss: false on all"
_ROW_RULES: dict[str, Rule] = {
    "path": TOGETHER,
    "type": TOGETHER,
    "data_files": TOGETHER,
    "ds_type": cosmetic("the file's name tells it"),
    "split": lost("all rows of the file are read", "train"),
    "name": lost("a dataset of a hub is downloaded first"),
    "revision": lost("a dataset of a hub is downloaded first"),
    "trust_remote_code": lost("a dataset is a file here"),
    "shards": lost("data.max_rows takes the first rows", 1),
    "shards_idx": lost("data.max_rows takes the first rows", 0),
    "preprocess_shards": cosmetic(reasons.SPEED),
    "conversation": cosmetic("the chat template writes the turns"),
    "chat_template": lost(reasons.OWN_TEMPLATE, "tokenizer_default"),
    "chat_template_jinja": lost(reasons.OWN_TEMPLATE),
    "field": lost(_COLUMNS, "text"),
    "field_messages": lost(_COLUMNS, "messages", "conversations"),
    "field_chosen": lost(_COLUMNS, "chosen"),
    "field_rejected": lost(_COLUMNS, "rejected"),
    "field_tools": lost(_COLUMNS, "tools"),
    "field_*": lost(_COLUMNS),
    "message_field_role": lost(_COLUMNS, "role", "from"),
    "message_field_content": lost(_COLUMNS, "content", "value"),
    "message_property_mappings": TOGETHER,
    "roles": TOGETHER,
    "roles_to_train": lost(_MASK, ["assistant"], ["gpt"], ["assistant", "gpt"]),
    "train_on_eos": lost(_MASK, "turn"),
    "train_on_eot": lost(_MASK, "turn"),
    "message_field_training*": lost(_MASK),
    "drop_system_message": lost("remove the first turn from the rows"),
    "split_thinking": lost("write the reasoning into reasoning_content of the turn"),
    "input_format": lost(_COLUMNS),
    "input_transform": lost(_COLUMNS),
    "text_column": lost(_COLUMNS, "text"),
    "skip": lost("all rows of the file are read"),
}
_SHAREGPT_ROLES = {
    "user": {"human", "user"},
    "assistant": {"gpt", "assistant", "model"},
    "system": {"system"},
    "tool": {"tool"},
}
_MAPPINGS = ({"role": "role", "content": "content"}, {"role": "from", "content": "value"})


def rows(reading: Reading, draft: Draft) -> None:
    other = "pretraining_dataset"
    key = other if reading.get(other) and not reading.get("datasets") else "datasets"
    listed = reading.get(key)
    if isinstance(listed, str):
        data_file(draft, listed, key)
    elif isinstance(listed, dict):
        _dataset(draft, listed, (key,))
    elif isinstance(listed, list) and listed:
        for i, item in enumerate(listed):
            _one_of(draft, item, (key, i), first=i == 0)
    else:
        draft.stand_in(DATA, "the config names no dataset", key)
    _inputs(reading, draft)
    tests = reading.get("test_datasets")
    for i, item in enumerate(tests if isinstance(tests, list) else []):
        path = item.get("path") if isinstance(item, dict) else None
        if i == 0 and isinstance(path, str):
            data_file(draft, path, "test_datasets", i, "path", to="data.validation")
        else:
            draft.lose("data.validation is one file or one folder", "test_datasets", i)


def _one_of(draft: Draft, item: Any, where: tuple[str | int, ...], *, first: bool) -> None:
    if not isinstance(item, dict):
        draft.lose("is no dataset: a mapping with a path is", *where)
        if first:
            draft.stand_in(DATA, "the first dataset has no path", *where)
    elif first:
        _dataset(draft, item, where)
    else:
        draft.lose(f"{item.get('path')}: {ONE_PATH}", *where)


def _dataset(draft: Draft, item: dict[str, Any], where: tuple[str | int, ...]) -> None:
    files = item.get("data_files")
    files = [files] if isinstance(files, str) else files
    if isinstance(files, list) and files and all(isinstance(f, str) for f in files):
        data_file(draft, files[0], *where, "data_files")
        for extra in files[1:]:
            draft.lose(f"{extra}: {ONE_PATH}", *where, "data_files")
    elif isinstance(item.get("path"), str):
        data_file(draft, item["path"], *where, "path")
    else:
        draft.stand_in(DATA, "the first dataset has no path", *where)
    _row_type(draft, item, where)
    for key, value in item.items():
        rule = _ROW_RULES.get(key)
        if rule is None:
            stars = [r for k, r in _ROW_RULES.items() if k.endswith("*") and key.startswith(k[:-1])]
            rule = stars[0] if stars else lost("is not a key that git-soup knows of axolotl")
        draft.apply(rule, value, *where, key)
    roles = item.get("roles")
    for role, names_ in roles.items() if isinstance(roles, dict) else ():
        known = _SHAREGPT_ROLES.get(role, set())
        if not (isinstance(names_, list) and set(map(str, names_)) <= known):
            draft.lose(_COLUMNS, *where, "roles", role)
    mapping = item.get("message_property_mappings")
    if isinstance(mapping, dict) and not any(mapping.items() <= m.items() for m in _MAPPINGS):
        draft.lose(_COLUMNS, *where, "message_property_mappings")


def _row_type(draft: Draft, item: dict[str, Any], where: tuple[str | int, ...]) -> None:
    kind = item.get("type")
    if kind is None:
        return
    if draft.task not in {"sft", "pretrain", "distill", "grpo", "rloo"}:
        if kind not in OTHER_TYPES.get(draft.task, ()):
            draft.lose(f"rows of type {kind} are not read: {_AS_TURNS}", *where, "type")
    elif not isinstance(kind, str) or kind not in TYPES:
        draft.lose(f"rows of type {kind} are not read: {_COLUMNS}", *where, "type")
    elif draft.task == "sft" and TYPES[kind] != "auto":
        draft.carry("data.format", TYPES[kind], *where, "type")


def _inputs(reading: Reading, draft: Draft) -> None:
    """Whether the prompt is learnt; plain text has none."""
    value = reading.get("train_on_inputs")
    is_text = draft.carried.get("data.format") and draft.carried["data.format"].value == "plaintext"
    if draft.task == "sft" and value is not None and not is_text:
        draft.apply(to("training.assistant_only_loss", opposite), value, "train_on_inputs")
