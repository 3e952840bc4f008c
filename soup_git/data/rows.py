"""A row of a dataset, what can be wrong with one, and the report of all that is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from soup_git.core.text import canonical_json
from soup_git.errors import FatalError

Row = dict[str, Any]
SHOWN = 10  # problems printed; all are counted


class BadRowError(ValueError):
    """A row does not fit its format: the sentence that says why."""


@dataclass(frozen=True)
class DataRow:
    """One row of a dataset: converted, with its place and the digest of what was written."""

    file: str
    line: int
    digest: str
    values: Row

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Problems:
    """What is wrong with rows: the first ten are shown, all are counted."""

    undone: str = "trained"
    """What did not happen because of them."""
    found: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, file: str, line: int, what: str) -> None:
        self.count += 1
        if len(self.found) < SHOWN:
            self.found.append(f"{file}:{line}: {what}")

    def raise_if_any(self, shown: str, total: int | None = None) -> None:
        """The error that lists them, of `total` rows in `shown`, if there is any."""
        if not self.count:
            return
        more = f"\n… and {self.count - SHOWN} more" if self.count > SHOWN else ""
        rows = "1 row does" if self.count == 1 else f"{self.count} rows do"
        of = "" if total is None else f", of {total}"
        raise FatalError(
            f"{shown}: {rows} not fit{of}\n" + "\n".join(self.found) + more,
            hint=f"correct or remove these rows; nothing was {self.undone}",
        )


def row_digest(row: Row) -> str:
    """SHA-256, as hex, of the row's canonical JSON: the same whatever the order of its keys."""
    return hashlib.sha256(canonical_json(row).encode("utf-8", "surrogatepass")).hexdigest()


def in_short(value: Any) -> str:
    """A value as JSON, cut to forty characters, for a message."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else text[:39] + "…"
