"""Rows of prompt files: JSON lines, checked one by one, every problem with file and line.

The original tool's rows `{"prompt", "expected", "category", "scoring"}` are read as they
are, its names of scorers included. Rows of training datasets are taken where a scorer
reads them (loss).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.core.yamllines import nearest
from soup_git.data.rows import Problems, Row
from soup_git.errors import FatalError

LARGEST = 256 << 20  # bytes of a file of prompts

# The original tool's words for scorers of ours.
ALIASES = {
    "tool_call_match": "tool_call",
    "tool_call_name_match": "tool_name",
    "tool_call_args_subset": "tool_arguments",
    "semantic": "overlap",
}


@dataclass(frozen=True)
class EvalRow:
    """One row: what it says, and where."""

    file: str
    line: int
    values: Row

    @property
    def prompt(self) -> Any:
        return self.values.get("prompt")

    @property
    def expected(self) -> Any:
        return self.values.get("expected")

    @property
    def category(self) -> str | None:
        category = self.values.get("category")
        return category if isinstance(category, str) and category else None

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read_rows(
    path: Path, shown: str, limit: int | None, problems: Problems
) -> tuple[list[EvalRow], str]:
    """The rows of a JSON lines file, and the sha256 of its bytes."""
    if path.is_dir():
        raise FatalError(f"{shown} is a folder; prompts are a .jsonl file", hint=f"ls {shown}")
    if path.stat().st_size > LARGEST:
        raise FatalError(
            f"{shown} is larger than 256 MiB", hint="max_rows needs a smaller file too"
        )
    data = path.read_bytes()
    rows: list[EvalRow] = []
    seen = 0
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        if seen == limit:
            break
        seen += 1
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            problems.add(shown, number, "not JSON, one object per line")
            continue
        if not isinstance(value, dict):
            problems.add(shown, number, "a row should be an object")
            continue
        rows.append(EvalRow(shown, number, value))
    if not seen:
        raise FatalError(f"{shown} has no rows", hint=f"head {shown}")
    return rows, sha256_hex(data)


def scoring_of(row: EvalRow, of_task: str | None, problems: Problems) -> str | None:
    """The task's scorer, else the row's own, else `exact`; None, and a problem, for a wrong one."""
    from soup_git.evaluation.scorers import SCORERS, scorer_of

    own = row.values.get("scoring")
    if of_task is not None or own is None:
        return of_task or "exact"
    scoring = ALIASES.get(own, own) if isinstance(own, str) else ""
    try:
        scorer = scorer_of(scoring)
    except KeyError:
        shown = json.dumps(own)[:60]
        problems.add(row.file, row.line, f"there is no scorer {shown}{nearest(own, SCORERS)}")
        return None
    if scorer.of_suite_only:
        # A row is data, which comes from anywhere; what it starts is the suite's to say.
        problems.add(row.file, row.line, f"{scoring} is for the suite to choose, not for a row")
        return None
    return scoring
