"""One row of a conversation, a prompt with its completion, or text: to tokens.

Which of them the loss is on is part of the answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from soup_git.data.rows import DataRow, Row
from soup_git.errors import FatalError
from soup_git.training.prepared import Encoded, Example, Reading
from soup_git.training.templates import Template


def example(row: DataRow, reading: Reading) -> Example:
    """The row's tokens, uncut. Raises FatalError, naming the row, when it has none to learn."""
    config, template = reading.config, reading.template
    sequence = encoded(
        row,
        ended(reading.tokenizer, config.base),
        template,
        only_answers=config.training.assistant_only_loss,
        base=config.base,
    )
    if not any(sequence.in_loss):
        raise FatalError(
            f"{row.place}: no token of this row is in the loss: {_why_masked(template)}",
            hint="training.assistant_only_loss: false learns whole rows; "
            "git soup data show --tokens shows what is in the loss",
        )
    turns = _turns(row.values)
    _refuse_silence(row, turns, reading)
    return Example({"": _as_turns(sequence, row, turns, reading)})


def columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """The table of a trainer that learns tokens."""
    parts = [example.parts[""] for example in examples]
    return {"input_ids": [p.ids for p in parts], "labels": [p.labels for p in parts]}


def ended(tokenizer: Any, base: str) -> Any:
    """The tokenizer, if it can end a text."""
    if tokenizer.eos_token is None:
        raise FatalError(
            f"the tokenizer of {base} has no end-of-text token",
            hint="set eos_token in its tokenizer_config.json",
        )
    return tokenizer


def encoded(
    row: DataRow, tokenizer: Any, template: Template | None, *, only_answers: bool, base: str
) -> Encoded:
    """One row's tokens; with `only_answers` only what the assistant says is in the loss."""
    values = row.values
    if "text" in values:
        ids = ended_ids(values["text"], tokenizer)
        return Encoded(ids, [True] * len(ids))
    if isinstance(values.get("prompt"), str):
        prompt = open_ids(values["prompt"], tokenizer)
        ids = ended_ids(values["prompt"] + values["completion"], tokenizer)
        start = common_prefix(prompt, ids)
        in_loss = [i >= start or not only_answers for i in range(len(ids))]
        return Encoded(ids, in_loss, joined=start < len(prompt))
    return _conversation(row, tokenizer, template, only_answers=only_answers, base=base)


def _conversation(
    row: DataRow, tokenizer: Any, template: Template | None, *, only_answers: bool, base: str
) -> Encoded:
    template = _needed(template, base)
    values, turns = row.values, _turns(row.values)
    render = Renderer(tokenizer, template, values.get("tools"))
    with _rendering(row, template):
        if not only_answers:
            ids = render.ids(turns)
            in_loss = [True] * len(ids)
        elif template.marked:
            ids, in_loss = render.marked(turns)
        else:
            ids, in_loss = _by_prefixes(row, turns, render)
        if only_answers and "prompt" in values:
            start = common_prefix(render.ids(values["prompt"], prompt=True), ids)
            in_loss = [learnt and i >= start for i, learnt in enumerate(in_loss)]
    return Encoded(ids, in_loss)


def _as_turns(part: Encoded, row: DataRow, turns: list[Row], reading: Reading) -> Encoded:
    """The tokens of a conversation, with how what is learnt of it ends, and whether its last
    answer's first token holds the space that the prompt ends in."""
    template, ends = reading.template, reading.turn_ends
    if not turns or template is None:
        return part
    ends.ask(reading.tokenizer, lambda t, prompt: _tried(t, None, reading, template, prompt))
    joined = False
    if ends.spaced and turns[-1]["role"] == "assistant":
        render = Renderer(reading.tokenizer, template, row.values.get("tools"))
        before = render.text(turns[:-1], prompt=True)
        alone, _ = render.offsets(before)
        joined = render.text(turns).startswith(before) and common_prefix(alone, part.ids) < len(
            alone
        )
    learnt = [i for i, wanted in zip(part.ids, part.in_loss, strict=True) if wanted]
    return replace(part, end=ends.of(learnt, turns, reading.tokenizer), joined=joined)


def _tried(
    turns: list[Row], tools: list[Row] | None, reading: Reading, template: Template, prompt: bool
) -> str | None:
    """What the template makes of turns that nobody wrote, if it takes them."""
    from jinja2 import TemplateError

    try:
        return Renderer(reading.tokenizer, template, tools).text(turns, prompt=prompt)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
        return None


def prompted(row: DataRow, prompt: Any, reading: Reading) -> tuple[str, list[int]]:
    """A prompt, text or turns, as text and as tokens, up to where the model is to speak."""
    if isinstance(prompt, str):
        return prompt, open_ids(prompt, reading.tokenizer)
    template = _needed(reading.template, reading.config.base)
    render = Renderer(reading.tokenizer, template, row.values.get("tools"))
    with _rendering(row, template):
        rendered = render.text(prompt, prompt=True), render.ids(prompt, prompt=True)
    _refuse_silence(row, prompt, reading, prompt=True)
    return rendered


def answered(row: DataRow, prompt: Any, answer: Any, reading: Reading) -> Encoded:
    """A prompt with an answer to it, texts or turns; the loss is on all that follows the prompt.

    Raises FatalError, naming the row, when the template gives the answer no token.
    """
    tokenizer, base = ended(reading.tokenizer, reading.config.base), reading.config.base
    if isinstance(prompt, str):
        before = open_ids(prompt, tokenizer)
        ids = ended_ids(prompt + answer, tokenizer)
        turns = []
    else:
        template = _needed(reading.template, base)
        render = Renderer(tokenizer, template, row.values.get("tools"))
        with _rendering(row, template):
            before, ids = render.ids(prompt, prompt=True), render.ids(prompt + answer)
        turns = prompt + answer
        _refuse_silence(row, turns, reading)
    start = common_prefix(before, ids)
    if start == len(ids):
        raise FatalError(
            f"{row.place}: the answer has no tokens of its own",
            hint="git soup data show --tokens shows what the chat template makes of a row",
        )
    joined = not turns and start < len(before)
    part = Encoded(ids, [i >= start for i in range(len(ids))], joined)
    return _as_turns(part, row, turns, reading)


def _turns(values: Row) -> list[Row]:
    """A row's conversation, if it is one."""
    turns = values["messages"] if "messages" in values else values.get("prompt")
    return [*turns, *values.get("completion", ())] if isinstance(turns, list) else []


def _refuse_silence(
    row: DataRow, turns: list[Row], reading: Reading, *, prompt: bool = False
) -> None:
    """Refuse a conversation of which the template leaves something out; after it has rendered."""
    template = reading.template
    if not turns or template is None:
        return

    def render(turns: list[Row], tools: list[Row] | None) -> str | None:
        return _tried(turns, tools, reading, template, prompt)

    tools = row.values.get("tools")
    reading.left_out.check(row.place, turns, tools, template.origin, render)


def _needed(template: Template | None, base: str) -> Template:
    if template is None:
        raise FatalError(
            f"the tokenizer of {base} has no chat template, and these rows are turns",
            hint="set data.chat_template in soup.yaml: chatml, another name, or a .jinja file",
        )
    return template


@contextlib.contextmanager
def _rendering(row: DataRow, template: Template) -> Iterator[None]:
    """A template is a program: it can fail in any of these ways."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise FatalError(
            f"{row.place}: the chat template ({template.origin}) cannot render this row: {error}",
            hint="another data.chat_template, or change the row",
        ) from None


class Renderer:
    """The tokenizer's `apply_chat_template` with everything but the turns fixed: the date, too."""

    def __init__(self, tokenizer: Any, template: Template, tools: list[Row] | None) -> None:
        self._tokenizer = tokenizer
        self._fixed = {"chat_template": template.program, "tools": tools, **template.variables}

    def text(self, turns: list[Row], *, prompt: bool = False) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=prompt, **self._fixed
            )
        )

    def ids(self, turns: list[Row], *, prompt: bool = False) -> list[int]:
        encoded = self._tokenizer.apply_chat_template(
            turns, tokenize=True, return_dict=True, add_generation_prompt=prompt, **self._fixed
        )
        return list(encoded["input_ids"])

    def marked(self, turns: list[Row]) -> tuple[list[int], list[bool]]:
        encoded = self._tokenizer.apply_chat_template(
            turns,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self._fixed,
        )
        return list(encoded["input_ids"]), [bool(m) for m in encoded["assistant_masks"]]

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoded = self._tokenizer(text=text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), list(encoded["offset_mapping"])


def _by_prefixes(row: DataRow, turns: list[Row], render: Renderer) -> tuple[list[int], list[bool]]:
    """The assistant's tokens where the template has no marks for them: checked, not trusted.

    What the assistant says is the difference between the conversation up to its turn, with
    the prompt to speak, and the same with the turn. That holds only if each is a prefix of
    the whole, which some templates break (they drop the thinking of earlier turns). A token that
    the answer shares with what is before it is learnt: else the answer's first word would not be.
    """
    whole = render.text(turns)
    spans = []
    for i, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = render.text(turns[:i], prompt=True)
        after = render.text(turns[: i + 1])
        if not (whole.startswith(after) and after.startswith(before)):
            raise FatalError(
                f"{row.file}:{row.line}: the chat template renders earlier turns differently "
                "once more follow, so the assistant's tokens cannot be told apart",
                hint="take a template with {% generation %} marks (data.chat_template), "
                "or training.assistant_only_loss: false",
            )
        spans.append((len(before), len(after)))
    ids, offsets = render.offsets(whole)
    in_loss = [
        end > start and any(first < end and start < last for first, last in spans)
        for start, end in offsets
    ]
    return ids, in_loss


def open_ids(text: str, tokenizer: Any) -> list[int]:
    """A text that is to be gone on with: without the end that some tokenizers add to every one."""
    ids = list(tokenizer(text=text)["input_ids"])
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
        ids.pop()
    return ids


def ended_ids(text: str, tokenizer: Any) -> list[int]:
    """A text that ends, once: some tokenizers add the end to one that has it."""
    end = tokenizer.eos_token
    whole = text if text.endswith(end) else text + end
    ids = list(tokenizer(text=whole)["input_ids"])
    if ids[-2:] == [tokenizer.eos_token_id] * 2 and not whole.endswith(end * 2):
        ids.pop()
    return ids


def common_prefix(left: list[int], right: list[int]) -> int:
    """A tokenizer may merge across the border, or the template render the prompt otherwise."""
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def _why_masked(template: Template | None) -> str:
    if template is not None and template.marked:
        return f"the chat template ({template.origin}) marks nothing as the assistant's"
    return "nothing in it is the assistant's"
