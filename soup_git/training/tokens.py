"""Rows to tokens, and which of them the loss is on.

The trainer is given tokens and labels, not text: so that `git soup data show --tokens`
prints exactly what is trained, and every row that is cut or has nothing to learn is
counted and can be named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.core.text import printable
from soup_git.data import formats
from soup_git.data.rows import DataRow, Row
from soup_git.errors import FatalError
from soup_git.training import model, templates
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import TASKS
from soup_git.training.templates import Template

MASKED = -100  # the label that torch's cross entropy ignores


@dataclass(frozen=True)
class Encoded:
    """One row as the model reads it: token ids, and for each whether the loss is on it."""

    ids: list[int]
    in_loss: list[bool]

    @property
    def labels(self) -> list[int]:
        return [i if learnt else MASKED for i, learnt in zip(self.ids, self.in_loss, strict=True)]


@dataclass(frozen=True)
class Prepared:
    """The rows that train, and what happened to the others."""

    sequences: list[Encoded]
    truncated: int
    dropped: int

    @property
    def tokens(self) -> int:
        return sum(len(s.ids) for s in self.sequences)

    @property
    def loss_tokens(self) -> int:
        # The first token is never predicted.
        return sum(sum(s.in_loss[1:]) for s in self.sequences)


@dataclass(frozen=True)
class Token:
    text: str
    id: int
    in_loss: bool


@dataclass(frozen=True)
class TokenView:
    """One row as the model reads it. `cut` is how many of its tokens max_length cuts off."""

    place: str
    format: str
    template: str
    tokens: tuple[Token, ...]
    cut: int


def tokenized(
    rows: Sequence[DataRow], tokenizer: Any, template: Template | None, config: SoupConfig
) -> list[Encoded]:
    """Each row's tokens, uncut. Raises FatalError, naming the row, when one has none to learn."""
    if tokenizer.eos_token is None:
        raise FatalError(
            f"the tokenizer of {config.base} has no end-of-text token",
            hint="set eos_token in its tokenizer_config.json",
        )
    found = []
    for row in rows:
        sequence = encoded(
            row,
            tokenizer,
            template,
            only_answers=config.training.assistant_only_loss,
            base=config.base,
        )
        if not any(sequence.in_loss):
            raise FatalError(
                f"{row.file}:{row.line}: no token of this row is in the loss: "
                f"{_why_masked(template)}",
                hint="training.assistant_only_loss: false learns whole rows; "
                "git soup data show --tokens shows what is in the loss",
            )
        found.append(sequence)
    return found


def fitted(sequences: Sequence[Encoded], max_length: int, *, cut: bool) -> Prepared:
    """Cut to `max_length` tokens, without the rows that then have nothing left to learn.

    `cut=False` is for a packing that splits long rows instead of cutting them.
    """
    kept, truncated = [], 0
    for sequence in sequences:
        if cut and len(sequence.ids) > max_length:
            truncated += 1
            sequence = Encoded(sequence.ids[:max_length], sequence.in_loss[:max_length])  # noqa: PLW2901
        if any(sequence.in_loss[1:]):
            kept.append(sequence)
    return Prepared(kept, truncated, len(sequences) - len(kept))


def view(config: SoupConfig, *, workspace_root: Path, row: int = 1) -> TokenView:
    """Row number `row` (from 1) of `data.train`, as tokens with and without loss."""
    dataset = formats.load_dataset(
        workspace_root / config.data.train,
        name=config.data.train,
        format_name=config.data.format,
        shapes=TASKS[config.task].shapes,
        max_rows=config.data.max_rows,
    )
    if not 1 <= row <= len(dataset.rows):
        raise FatalError(
            f"{config.data.train} has rows 1 to {len(dataset.rows)}, not {row}",
            hint="git soup data show --tokens 1",
        )
    chosen = dataset.rows[row - 1]
    base = model.locate(config, workspace_root)
    tokenizer = model.load_tokenizer(base, config)
    template = templates.resolve(config, workspace_root, model.own_template(tokenizer))
    (sequence,) = tokenized([chosen], tokenizer, template, config)
    shown = sequence.ids[: config.data.max_length]
    return TokenView(
        place=f"{chosen.file}:{chosen.line}",
        format=dataset.format.name,
        template=template.origin if template and dataset.shape != "text" else "none",
        tokens=tuple(
            Token(printable(tokenizer.decode([i])), i, learnt)
            for i, learnt in zip(shown, sequence.in_loss, strict=False)
        ),
        cut=len(sequence.ids) - len(shown),
    )


def encoded(
    row: DataRow, tokenizer: Any, template: Template | None, *, only_answers: bool, base: str
) -> Encoded:
    """One row's tokens; with `only_answers` only what the assistant says is in the loss."""
    values = row.values
    if "text" in values:
        ids = tokenizer(text=_ended(values["text"], tokenizer))["input_ids"]
        return Encoded(ids, [True] * len(ids))
    if isinstance(values.get("prompt"), str):
        prompt = tokenizer(text=values["prompt"])["input_ids"]
        whole = _ended(values["prompt"] + values["completion"], tokenizer)
        ids = tokenizer(text=whole)["input_ids"]
        start = common_prefix(prompt, ids) if only_answers else 0
        return Encoded(ids, [i >= start for i in range(len(ids))])
    return _conversation(row, tokenizer, template, only_answers=only_answers, base=base)


def _conversation(
    row: DataRow, tokenizer: Any, template: Template | None, *, only_answers: bool, base: str
) -> Encoded:
    from jinja2 import TemplateError

    if template is None:
        raise FatalError(
            f"the tokenizer of {base} has no chat template, and these rows are turns",
            hint="set data.chat_template in soup.yaml: chatml, another name, or a .jinja file",
        )
    values = row.values
    turns = values["messages"] if "messages" in values else values["prompt"] + values["completion"]
    render = Renderer(tokenizer, template.text, values.get("tools"))
    try:
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
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        # A template is a program: it can fail in any of these ways.
        raise FatalError(
            f"{row.file}:{row.line}: the chat template ({template.origin}) cannot render this "
            f"row: {error}",
            hint="another data.chat_template, or change the row",
        ) from None
    return Encoded(ids, in_loss)


class Renderer:
    """The tokenizer's `apply_chat_template` with everything but the turns fixed."""

    def __init__(self, tokenizer: Any, text: str, tools: list[Row] | None) -> None:
        self._tokenizer = tokenizer
        self._fixed = {"chat_template": text, "tools": tools}

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
    the whole, which some templates break (they drop the thinking of earlier turns).
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
        end > start and any(first <= start < last for first, last in spans)
        for start, end in offsets
    ]
    return ids, in_loss


def _ended(text: str, tokenizer: Any) -> str:
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


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
