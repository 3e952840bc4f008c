"""What a training is made from: everything that is read before torch is imported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from soup_git.core.text import printable
from soup_git.data import formats
from soup_git.data.formats import Dataset
from soup_git.data.rows import BadRowError, DataRow, Problems
from soup_git.training import architecture, model, templates, turnends
from soup_git.training.model import Base
from soup_git.training.prepared import Prepared, Reading, prepare
from soup_git.training.schema import DataBlock, SoupConfig
from soup_git.training.tasks import HEADS, Task, load

_LONGEST = DataBlock.model_fields["max_length"].default


@dataclass(frozen=True)
class Material:
    """The base, found but not loaded; and the rows, as the model reads them."""

    config: SoupConfig
    base: Base
    dataset: Dataset
    reading: Reading
    train_set: Prepared
    eval_set: Prepared
    inputs: Mapping[str, str]
    """sha256 of each file that decides the bytes beside base, data and config, by its name."""
    trained_positions: int | None
    """The longest text that the base was made for, if its config.json says so."""

    @property
    def task(self) -> Task:
        return self.config.method

    def deciding(self) -> dict[str, str]:
        """Of what decides the bytes of a run, that which was read here. Rows go by their tokens:
        a template, a format or a tokenizer that changes changes these."""
        return {
            "training rows": _digest(self.train_set),
            "validation rows": _digest(self.eval_set),
            **{f"sha256 of {name}": digest for name, digest in self.inputs.items()},
        }

    def notes(self) -> list[str]:
        """What a person should know of how the rows were read."""
        data, dataset = self.config.data, self.dataset
        rows = dataset.format.name + (" (detected)" if dataset.detected else "")
        if self.reading.template is not None:
            rows += f", chat template: {self.reading.template.described}"
        notes = [f"rows: {rows}"]
        if dataset.unread:
            columns = ", ".join(printable(c) for c in dataset.unread)
            notes.append(f"columns that are not read: {columns}")
        if earlier := self.reading.left_out.earlier_thinking:
            notes.append(
                f"earlier turns whose thinking the chat template leaves out, not to be learnt: "
                f"{earlier}"
            )
        texts = self.train_set.texts
        ends = [text.end for text in texts if text.end]
        notes += turnends.notes(ends, sum(text.joined for text in texts))
        if cut := self.train_set.truncated + self.eval_set.truncated:
            asked = self.config.given("data.max_length") or data.max_length == _LONGEST
            why = "data.max_length" if asked else f"{self.config.base} has no positions for more"
            lost = ", their ends too" if "cut" in ends else ""
            notes.append(f"{cut} rows cut at {data.max_length} tokens ({why}){lost}")
        # Rows that are not cut at data.max_length are split there.
        longest = min(data.max_length, max(len(t.ids) for t in self.train_set.texts))
        if self.trained_positions is not None and longest > self.trained_positions:
            notes.append(
                f"the longest row has {longest} tokens; {self.config.base} was made for "
                f"{self.trained_positions}, and what lies beyond is new to it"
            )
        if dropped := self.train_set.dropped + self.eval_set.dropped:
            notes.append(f"{dropped} rows dropped: nothing to learn was left of them")
        if data.val_split and not data.validation and not self.eval_set.examples:
            notes.append("no row fell into the validation split, so there is no validation loss")
        notes += load(self.task.notes)(self.config) if self.task.notes else []
        return notes


def read(config: SoupConfig, root: Path) -> Material:
    """Raises FatalError for whatever does not fit, each row by its file and line."""
    task = config.method
    base = model.locate(config, root)
    described = model.described(base, config)
    architecture.check(described, config, HEADS[task.head].auto)
    config = architecture.within_positions(config, described)
    dataset, train_rows, held_out = _rows(config, task, root)
    inputs = load(task.inputs)(config, root) if task.inputs else {}
    tokenizer = model.load_tokenizer(base, config)
    template = None
    if dataset.conversational:
        template = templates.resolve(config, root, model.own_template(tokenizer))
    reading = Reading(tokenizer, template, config, root)
    train_set, eval_set = (prepare(rows, task, reading) for rows in (train_rows, held_out))
    _check_left(train_set, eval_set, config)
    if HEADS[task.head].task_type == "CAUSAL_LM":
        ends = [text.end for text in train_set.texts]
        turnends.refuse_none(ends, reading.turn_ends, template, config)
    trained = architecture.trained_positions(described)
    return Material(config, base, dataset, reading, train_set, eval_set, inputs, trained)


def _digest(prepared: Prepared) -> str:
    digest = hashlib.sha256()
    for example in prepared.examples:
        parts = {name: [part.ids, part.in_loss] for name, part in example.parts.items()}
        row = json.dumps([parts, dict(example.values)], sort_keys=True, default=str)
        digest.update(row.encode() + b"\n")
    return digest.hexdigest()


def _rows(
    config: SoupConfig, task: Task, root: Path
) -> tuple[Dataset, list[DataRow], list[DataRow]]:
    """The dataset, its training rows, and its validation rows."""

    def read(path: str, format_name: str, limit: int | None) -> Dataset:
        return formats.load_dataset(
            root / path, name=path, format_name=format_name, shapes=task.shapes, max_rows=limit
        )

    dataset = read(config.data.train, config.data.format, config.data.max_rows)
    key = "training.assistant_only_loss"
    if dataset.shape == "text" and config.given(key) and config.training.assistant_only_loss:
        raise config.refuse(key, "plain text has no assistant: leave it out, or false")
    for key in ("chat_template", "template_date"):
        if getattr(config.data, key) is not None and not dataset.conversational:
            raise config.refuse(
                f"data.{key}", "these rows are text, which no template is applied to"
            )
    _check_rows(dataset, task, config)
    if config.data.validation is not None:
        other = read(config.data.validation, dataset.format.name, None)
        _check_rows(other, task, config)
        return dataset, list(dataset.rows), list(other.rows)
    train_rows, held_out = formats.split(dataset.rows, config.data.val_split)
    if not train_rows:
        raise config.refuse(
            "data.val_split", f"all {len(held_out)} rows fell into the validation split"
        )
    return dataset, train_rows, held_out


def _check_rows(dataset: Dataset, task: Task, config: SoupConfig) -> None:
    """Every row that does not fit this config, at once, where the task looks at that."""
    if not task.check_row:
        return
    check, problems = load(task.check_row), Problems()
    for row in dataset.rows:
        try:
            check(row, config)
        except BadRowError as error:
            problems.add(row.file, row.line, str(error))
    problems.raise_if_any(dataset.rows[0].file, len(dataset.rows))


def _check_left(train_set: Prepared, eval_set: Prepared, config: SoupConfig) -> None:
    """Refuse when too few rows are left of what was read."""
    if not train_set.examples:
        raise config.refuse(
            "data.max_length",
            f"nothing to learn is left of any row after {config.data.max_length} tokens: the "
            "prompts alone are longer",
            hint="git soup data show --tokens shows a row; a larger data.max_length",
        )
    if config.training.early_stop_patience is not None and not eval_set.examples:
        raise config.refuse(
            "training.early_stop_patience",
            "needs a validation loss, and no row is held out to measure it on",
            hint="a larger data.val_split, or data.validation",
        )
