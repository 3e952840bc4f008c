"""`git soup data show`: a row of the training data, as training sees it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.render.report import Table, say
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class RowReport:
    schema: ClassVar[str] = "soup.data-row/1"
    place: str
    format: str
    detected: bool
    rows: int
    row: dict[str, Any]

    def tables(self) -> Sequence[Table | str]:
        how = "detected" if self.detected else "as soup.yaml says"
        turns = self.row.get("messages")
        if isinstance(turns, list):
            cells = [(str(turn.get("role")), str(turn.get("content"))) for turn in turns]
        else:
            cells = [(key, _shown(value)) for key, value in self.row.items()]
        return [f"{self.place}  {self.format} ({how}), {self.rows} rows", Table(("", ""), cells)]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class TokenRow:
    token: str
    id: int
    in_loss: bool
    part: str


@dataclass(frozen=True)
class TokensReport:
    schema: ClassVar[str] = "soup.data-tokens/1"
    place: str
    format: str
    template: str
    cut: int
    tokens: list[TokenRow]

    def tables(self) -> Sequence[Table | str]:
        learnt = sum(token.in_loss for token in self.tokens)
        head = (
            f"{self.place}  {self.format}, chat template: {self.template};"
            f" {learnt} of {len(self.tokens)} tokens in the loss"
        )
        named = any(t.part for t in self.tokens)
        rows = [
            (*([t.part] if named else ()), "loss" if t.in_loss else "", str(t.id), t.token)
            for t in self.tokens
        ]
        after = f"… {self.cut} more tokens are cut off (data.max_length)" if self.cut else ""
        return [
            Table((*([""] if named else ()), "", "id>", "token"), rows, before=head, after=after)
        ]


def row(workspace: Workspace, number: int) -> RowReport:
    """Row `number` (from 1) of `data.train`, converted to what TRL is given."""
    from soup_git.data.formats import load_dataset
    from soup_git.training.config import load_config

    config = load_config(workspace.root / CONFIG_FILE, check_upstream=False)
    found = load_dataset(
        workspace.root / config.data.train,
        name=config.data.train,
        format_name=config.data.format,
        shapes=config.method.shapes,
        max_rows=config.data.max_rows,
    )
    if number > len(found.rows):
        raise FatalError(
            f"{config.data.train} has rows 1 to {len(found.rows)}, not {number}",
            hint="git soup data show 1",
        )
    chosen = found.rows[number - 1]
    return RowReport(
        place=f"{chosen.file}:{chosen.line}",
        format=found.format.name,
        detected=found.detected,
        rows=len(found.rows),
        row=dict(chosen.values),
    )


def tokens(workspace: Workspace, number: int) -> TokensReport:
    """The same row as tokens, each with whether it is learnt."""
    from soup_git.training.config import load_config
    from soup_git.training.prepared import view

    config = load_config(workspace.root / CONFIG_FILE)
    found = view(config, workspace_root=workspace.root, row=number)
    for note in found.notes:
        say(note)
    return TokensReport(
        place=found.place,
        format=found.format,
        template=found.template,
        cut=found.cut,
        tokens=[TokenRow(t.text, t.id, t.in_loss, t.part) for t in found.tokens],
    )
