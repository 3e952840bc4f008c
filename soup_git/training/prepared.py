"""A dataset's rows on their way to a trainer: tokens, cut to length and counted.

Trainers are given tokens, not text: so that `git soup data show --tokens` prints exactly what
is trained, and every row that is cut or has nothing to learn is counted and can be named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soup_git.core.text import printable
from soup_git.data import formats
from soup_git.data.rows import DataRow
from soup_git.errors import FatalError
from soup_git.training import architecture, model, templates, turnends
from soup_git.training.leftout import LeftOut
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import Task, load
from soup_git.training.templates import Template
from soup_git.training.turnends import End, TurnEnds

MASKED = -100  # the label that torch's cross entropy ignores


@dataclass(frozen=True)
class Encoded:
    """A text as the model reads it: token ids, and for each whether the loss is on it."""

    ids: list[int]
    in_loss: list[bool]
    joined: bool = False
    """Is the end of the prompt one token with the beginning of the answer?"""
    end: End = ""
    """How what is learnt ends, where it is the turn of a conversation."""

    @property
    def labels(self) -> list[int]:
        return [i if learnt else MASKED for i, learnt in zip(self.ids, self.in_loss, strict=True)]

    @property
    def learnt(self) -> int:
        """Tokens in the loss. The first one is never predicted."""
        return sum(self.in_loss[1:])

    def cut(self, length: int) -> Encoded:
        return replace(
            self,
            ids=self.ids[:length],
            in_loss=self.in_loss[:length],
            end="cut" if self.end == "token" and len(self.ids) > length else self.end,
        )


@dataclass(frozen=True)
class Example:
    """One row as a task reads it: its texts by name ("chosen"), and what is no text (a label)."""

    parts: Mapping[str, Encoded]
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """What rows are read with."""

    tokenizer: Any
    template: Template | None
    config: SoupConfig
    root: Path
    """The workspace."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What the template leaves out of the rows that were read with this."""
    turn_ends: TurnEnds = field(default_factory=TurnEnds)
    """What ends a turn, by tokenizer and template."""


@dataclass(frozen=True)
class Prepared:
    """The rows that train, and what happened to the others."""

    examples: list[Example]
    truncated: int
    dropped: int

    @property
    def texts(self) -> list[Encoded]:
        """Of every example, all its texts."""
        return [part for example in self.examples for part in example.parts.values()]

    @property
    def tokens(self) -> int:
        return sum(len(text.ids) for text in self.texts)

    @property
    def loss_tokens(self) -> int:
        return sum(text.learnt for text in self.texts)


def prepare(rows: Sequence[DataRow], task: Task, reading: Reading) -> Prepared:
    """Every row as the task reads it, within `data.max_length`.

    A row of which nothing to learn is left is dropped. Raises FatalError, naming the row, for
    one that has nothing to learn from the start.
    """
    encode = load(task.encode)
    examples = [encode(row, reading) for row in rows]
    return fitted(examples, task, reading.config)


def fitted(examples: Sequence[Example], task: Task, config: SoupConfig) -> Prepared:
    longest = config.data.max_length
    kept, truncated = [], 0
    for example in examples:
        fits = not _cuts(task, config) or all(len(p.ids) <= longest for p in example.parts.values())
        if not fits and task.long_rows == "drop":
            continue
        truncated += not fits
        parts = {n: p if fits else p.cut(longest) for n, p in example.parts.items()}
        # A text that has no tokens in the loss at all (a prompt) is not there to be learnt.
        if all(part.learnt or not any(example.parts[n].in_loss) for n, part in parts.items()):
            kept.append(replace(example, parts=parts))
    return Prepared(kept, truncated, len(examples) - len(kept))


def _cuts(task: Task, config: SoupConfig) -> bool:
    """Are long rows cut? Some packings split them instead."""
    strategy = {"packing_strategy": "bfd", **task.sets, **config.training.trl}["packing_strategy"]
    return not config.training.packing or strategy == "bfd"


# ---- one row, to be looked at ---------------------------------------------------------------


@dataclass(frozen=True)
class Token:
    text: str
    id: int
    in_loss: bool
    part: str


@dataclass(frozen=True)
class TokenView:
    """One row as the model reads it. `cut` is how many of its tokens max_length cuts off."""

    place: str
    format: str
    template: str
    tokens: tuple[Token, ...]
    cut: int
    notes: tuple[str, ...] = ()
    """What a person should know of how the row's learnt part begins and ends."""


def view(config: SoupConfig, *, workspace_root: Path, row: int = 1) -> TokenView:
    """Row number `row` (from 1) of `data.train`, as tokens with and without loss."""
    task = config.method
    dataset = formats.load_dataset(
        workspace_root / config.data.train,
        name=config.data.train,
        format_name=config.data.format,
        shapes=task.shapes,
        max_rows=config.data.max_rows,
    )
    if not 1 <= row <= len(dataset.rows):
        raise FatalError(
            f"{config.data.train} has rows 1 to {len(dataset.rows)}, not {row}",
            hint="git soup data show --tokens 1",
        )
    chosen = dataset.rows[row - 1]
    base = model.locate(config, workspace_root)
    config = architecture.within_positions(config, model.described(base, config))
    tokenizer = model.load_tokenizer(base, config)
    template = templates.resolve(config, workspace_root, model.own_template(tokenizer))
    example: Example = load(task.encode)(
        chosen, Reading(tokenizer, template, config, workspace_root)
    )
    longest, parts = config.data.max_length, example.parts.values()
    return TokenView(
        place=chosen.place,
        format=dataset.format.name,
        template=template.described if template and dataset.conversational else "none",
        tokens=tuple(
            Token(printable(tokenizer.decode([i])), i, learnt, name)
            for name, part in example.parts.items()
            for i, learnt in zip(part.ids[:longest], part.in_loss, strict=False)
        ),
        cut=sum(max(len(part.ids) - longest, 0) for part in parts),
        notes=tuple(turnends.notes([p.end for p in parts if p.end], sum(p.joined for p in parts))),
    )
