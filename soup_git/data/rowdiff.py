"""Two datasets compared row by row: read as streams, matched by digest.

Most rows are the same on both sides byte for byte, and are never parsed. What is left is
read once more, and matched by the digest of its canonical JSON, then by id, then by prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from soup_git.core.excerpt import excerpt
from soup_git.core.rowdiff import ChangedRow, DatasetDiff, DataSide, RowSample
from soup_git.core.rowkeys import id_of, prompt_of
from soup_git.core.rowmatching import (
    DIGEST_SIZE,
    Matching,
    Numbering,
    Numbers,
    Remainder,
    Settled,
    match,
    moved,
    repeats,
    settle,
)
from soup_git.core.text import canonical_json
from soup_git.core.valuediff import value_changes
from soup_git.data.reading import value_of, written_rows
from soup_git.data.rows import BadRowError, in_short
from soup_git.storage.datasets import DataSource

_WIDTH = 300
_FIELDS = 8


class WrittenRow(NamedTuple):
    """A row as it stands in its file."""

    place: str
    suffix: str
    raw: bytes
    value: Any
    """None where it was not needed yet."""

    def read(self) -> tuple[dict[str, Any], bytes] | BadRowError:
        """The row, and its canonical JSON."""
        value = value_of(self.raw, self.suffix) if self.value is None else self.value
        if isinstance(value, BadRowError):
            return value
        if not isinstance(value, dict):
            return BadRowError(f"a row should be an object, this is {in_short(value)}")
        try:
            return value, canonical_json(value).encode("utf-8", "surrogatepass")
        except RecursionError:
            return BadRowError("nested too deeply")


def compare(role: str, a: DataSource, b: DataSource, samples: int) -> DatasetDiff:
    """What the rows of `b` are, seen from those of `a`; `samples` of each kind are shown.

    Raises `FatalError` where a source's bytes cannot be had; a row that cannot be read is
    counted, and compared by its bytes.
    """
    rows_a, rows_b = _numbered(a, b)
    equal = match(rows_a, rows_b)
    left_a, broken_a = _remainder(a, equal.only_a)
    left_b, broken_b = _remainder(b, equal.only_b)
    found = settle(left_a, left_b)
    shown = _Shown(a, b, samples)
    repeated_a, repeated_b = repeats(rows_a), repeats(rows_b)
    return DatasetDiff(
        role=role,
        a=shown.side(a, len(rows_a), sum(repeated_a), broken_a),
        b=shown.side(b, len(rows_b), sum(repeated_b), broken_b),
        unchanged=len(rows_b) - len(found.added) - len(found.changed),
        rewritten=len(found.same),
        moved=moved(_partners(equal, found)),
        added=len(found.added),
        removed=len(found.removed),
        changed=len(found.changed),
        duplicated=sum(repeated_b[at] for at in found.added),
        added_rows=shown.rows(b, found.added),
        removed_rows=shown.rows(a, found.removed),
        changed_rows=shown.changed(found),
    )


def _numbered(a: DataSource, b: DataSource) -> tuple[Numbers, Numbers]:
    numbering = Numbering()
    rows_a = numbering.number(_byte_digests(a))
    if a.is_same_as(b):
        return rows_a, rows_a
    return rows_a, numbering.number(_byte_digests(b))


def _byte_digests(source: DataSource) -> Iterator[bytes]:
    sha256 = hashlib.sha256
    for file in source.files:
        # The line `{}` is a row of no columns in a .jsonl, and a text in a .txt.
        before = b"text:" if file.suffix == ".txt" else b""
        with file.open() as opened:
            for _, raw, _ in written_rows(opened, file.suffix):
                yield sha256(before + raw).digest()[:DIGEST_SIZE]


def _written(source: DataSource, wanted: Iterable[int]) -> Iterator[tuple[int, WrittenRow]]:
    """The rows at some indices, which ascend; reads no further than the last of them."""
    indices = iter(wanted)
    following = next(indices, -1)
    at = 0
    for file in source.files:
        if following < 0:
            return
        with file.open() as opened:
            for line, raw, value in written_rows(opened, file.suffix):
                if at == following:
                    yield at, WrittenRow(f"{file.name}:{line}", file.suffix, raw, value)
                    following = next(indices, -1)
                    if following < 0:
                        break
                at += 1


def _remainder(source: DataSource, rows: Numbers) -> tuple[Remainder, Numbers]:
    """What settles rows that are not on both sides, and which of them cannot be read."""
    found, broken = Remainder(rows), rows[:0]
    for at, row in _written(source, rows):
        read = row.read()
        if isinstance(read, BadRowError):
            broken.append(at)
            content, known_by, prompt = b"", None, None
        else:
            value, canonical = read
            content, known_by, prompt = _digest(canonical), id_of(value), prompt_of(value)
        found.content.append(content)
        found.ids.append(_digest_of(known_by))
        found.prompts.append(_digest_of(prompt))
    return found, broken


def _digest_of(key: str | list[Any] | None) -> bytes:
    if key is None:
        return b""
    return _digest(canonical_json(key).encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:DIGEST_SIZE]


def _partners(equal: Matching, found: Settled) -> Numbers:
    partner = equal.partner[:]
    for one, other in found.same:
        partner[other] = one
    return partner


# -- what is shown ------------------------------------------------------------------------------


class _Shown:
    """The first rows of each kind, read again when it is known which they are."""

    def __init__(self, a: DataSource, b: DataSource, samples: int) -> None:
        self._a, self._b, self._samples = a, b, samples

    def side(self, source: DataSource, rows: int, repeated: int, broken: Numbers) -> DataSide:
        return DataSide(
            path=source.path,
            source=source.kind,
            rows=rows,
            repeated=repeated,
            unreadable=len(broken),
            unreadable_rows=self.rows(source, broken),
        )

    def rows(self, source: DataSource, wanted: Sequence[int]) -> list[RowSample]:
        return [_sample(row) for _, row in _written(source, wanted[: self._samples])]

    def changed(self, found: Settled) -> list[ChangedRow]:
        pairs = found.changed[: self._samples]
        old = dict(_written(self._a, sorted(one for one, _, _ in pairs)))
        new = dict(_written(self._b, (other for _, other, _ in pairs)))
        return [_changed_row(old[one], new[other], by) for one, other, by in pairs]


def _sample(row: WrittenRow) -> RowSample:
    read = row.read()
    if isinstance(read, BadRowError):
        text = row.raw[: _WIDTH * 4].decode("utf-8", "replace")
        digest = hashlib.sha256(row.raw).hexdigest()
        return RowSample(row.place, digest, excerpt(text, _WIDTH), excerpt(str(read), _WIDTH))
    value, canonical = read
    digest = hashlib.sha256(canonical).hexdigest()
    return RowSample(row.place, digest, excerpt(_as_text(value), _WIDTH))


def _changed_row(old: WrittenRow, new: WrittenRow, by: str) -> ChangedRow:
    before, after = old.read(), new.read()
    assert not isinstance(before, BadRowError)  # noqa: S101 - only rows that were read have a key
    assert not isinstance(after, BadRowError)  # noqa: S101
    key = id_of(after[0]) if by == "id" else " / ".join(map(_as_text, prompt_of(after[0]) or []))
    fields = value_changes(before[0], after[0], spell=_as_text)
    return ChangedRow(old.place, new.place, by, excerpt(key or "", _WIDTH), fields[:_FIELDS])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
