"""The rows that two datasets do not share: the report of one comparison."""

from __future__ import annotations

from dataclasses import dataclass, field

from soup_git.core.valuediff import ValueChange


@dataclass(frozen=True)
class RowSample:
    """A row of one side, safe to show: control characters spelled, cut where it is long."""

    place: str
    """`data/train.jsonl:17`."""
    digest: str
    """SHA-256 of its canonical JSON; of its bytes, where it cannot be read."""
    text: str
    problem: str = ""
    """Why it cannot be read as a row."""


@dataclass(frozen=True)
class ChangedRow:
    """A row that kept its id or its prompt while the rest changed; safe to show as well."""

    place_a: str
    place_b: str
    by: str
    """What the two share: `id` or `prompt`."""
    key: str
    """The id, or the prompt."""
    fields: list[ValueChange]
    """The first fields that differ."""


@dataclass(frozen=True)
class DataSide:
    """One side of a comparison."""

    path: str | None
    """None: this side has no such dataset."""
    source: str
    """`git`, `dvc`, `work tree`; `none` without a path."""
    rows: int
    repeated: int
    """Rows that repeat an earlier one, byte for byte."""
    unreadable: int
    """Rows that cannot be read, of those that the other side does not have byte for byte."""
    unreadable_rows: list[RowSample] = field(default_factory=list)


@dataclass(frozen=True)
class DatasetDiff:
    """rows of a = unchanged + changed + removed; rows of b = unchanged + changed + added."""

    role: str
    """`train`, `validation`, or `dataset` for one that was named."""
    a: DataSide
    b: DataSide
    unchanged: int
    rewritten: int
    """Of the unchanged: those with other bytes for the same content."""
    moved: int
    """Of the unchanged: the fewest that have to move for both sides to have one order."""
    added: int
    removed: int
    changed: int
    duplicated: int
    """Of the added: those that repeat a row that b has already, byte for byte."""
    added_rows: list[RowSample]
    removed_rows: list[RowSample]
    changed_rows: list[ChangedRow]
    """The first of each kind, in the order of the file."""

    @property
    def differs(self) -> bool:
        """Whether training would see other rows, or the same in another order."""
        return bool(self.added or self.removed or self.changed or self.moved)
