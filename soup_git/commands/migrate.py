"""`git soup migrate`: the config of another trainer as soup.yaml, and what has no counterpart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from soup_git.commands.newconfig import refuse_existing, target_of
from soup_git.core import yamllines
from soup_git.core.text import counted
from soup_git.errors import ExitCode, FatalError
from soup_git.migration import reading, target
from soup_git.migration.converting import convert
from soup_git.migration.draft import Draft
from soup_git.migration.rules import Carried, Lost, Tool
from soup_git.render.report import Table
from soup_git.storage.environment import can_train
from soup_git.storage.files import write_atomically

_BESIDE_LARGEST = 4 << 20  # bytes; LLaMA-Factory's own list of datasets has 0.02 MB


@dataclass(frozen=True)
class MigrateReport:
    schema: ClassVar[str] = "soup.migrate/1"
    source: str
    tool: str
    documentation: str
    output: str
    config: str
    """The soup.yaml that was written."""
    carried: list[Carried]
    lost: list[Lost]
    notes: list[str]
    complete: bool
    """Nothing that changes training was lost."""

    def tables(self) -> Sequence[Table | str]:
        parts: list[Table | str] = []
        for changes, title in (
            (True, "changes training, and was not carried over:"),
            (False, "dropped, training is the same without it:"),
        ):
            rows = [
                (f"  {item.place}:", f"{item.key}:", item.why)
                for item in self.lost
                if item.changes_training is changes
            ]
            if rows:
                parts.append(Table(("", "", ""), rows, before=title))
        parts += [f"note: {note}" for note in self.notes]
        defaults = sum(1 for entry in self.carried if not entry.key)
        given = len(self.carried) - defaults
        written = f"{self.output}: {counted(given, 'option')} carried over from {self.source}"
        parts.append(f"{written}, {counted(defaults, 'default')} of {self.tool} written out")
        return parts


def migrate(
    tool: str, file: Path, output: Path | None, *, force: bool = False
) -> tuple[MigrateReport, ExitCode]:
    """Read `file` with the tables of `tool`, and write what soup.yaml takes of it."""
    destination = target_of(output)
    text = _read(file)
    if not force:
        refuse_existing(destination, "git soup migrate --force replaces it, -o FILE leaves it")
    table, draft = convert(str(file), text, tool, _beside(file), check_upstream=can_train())
    report = _report(draft, table, destination)
    write_atomically(destination, report.config.encode())
    return report, ExitCode.OK if report.complete else ExitCode.CHECK_FAILED


def _report(draft: Draft, table: Tool, destination: Path) -> MigrateReport:
    source = draft.reading.source
    lost = sorted(dict.fromkeys(draft.lost), key=_order)
    carried = list(draft.carried.values())
    complete = not any(item.changes_training for item in lost)
    head = [
        f"From {source}, a config of {table.title} ({table.documentation}).",
        "git soup config check checks this file; docs/howto/migrate.md says how it was made.",
    ]
    if not complete:
        head.append("What changes training and is not carried over:")
    return MigrateReport(
        source=source,
        tool=table.title,
        documentation=table.documentation,
        output=str(destination),
        config=target.text_of(draft, lost, head),
        carried=carried,
        lost=lost,
        notes=list(table.notes),
        complete=complete,
    )


def _order(item: Lost) -> tuple[list[int], str]:
    """By cell and line of the file."""
    return [int(part) for part in item.place.replace("cell ", "").split(":") if part.isdigit()], ""


def _read(file: Path) -> str:
    limit = reading.largest(file.name)
    if file.exists() and not file.is_file():
        raise FatalError(f"{file} is no file", hint=f"ls -l {file}")
    try:
        with file.open("rb") as opened:
            data = opened.read(limit + 1)
    except FileNotFoundError:
        raise FatalError(f"{file} does not exist", hint=f"ls {file.parent}") from None
    if len(data) > limit:
        raise FatalError(
            f"{file} is larger than {limit >> 20} MiB, which no config is", hint=f"ls -l {file}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FatalError(f"{file}:{line}: not UTF-8", hint=f"file {file}") from None


def _beside(file: Path) -> reading.Beside:
    """Reads a JSON or YAML file that the config names, in its folder or the current one."""

    def read(name: str) -> Any:
        for folder in (file.parent, Path()):
            path = folder / name
            inside = path.resolve().is_relative_to(folder.resolve())
            if not inside or not path.is_file() or path.stat().st_size > _BESIDE_LARGEST:
                continue
            try:
                if path.suffix in (".yaml", ".yml"):
                    value, _, problems = yamllines.read(path.read_text(encoding="utf-8"))
                    return None if problems else value
                return json.loads(path.read_bytes())
            except (ValueError, RecursionError):
                return None
        return None

    return read
