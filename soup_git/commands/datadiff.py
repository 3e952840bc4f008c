"""`git soup diff --data A B`: which rows of the datasets of two revisions differ."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soup_git.commands.fetching import Fetched, fetch_missing
from soup_git.core.rowdiff import ChangedRow, DatasetDiff, DataSide, RowSample
from soup_git.core.spec import FolderSpec, Reading, RevisionSpec, RunSpec, readings
from soup_git.errors import FatalError
from soup_git.render.report import Table
from soup_git.storage.datasets import (
    NOWHERE,
    ROLES,
    DataPlace,
    DataSource,
    named_datasets,
    place_of,
    repository_path,
    source_of,
)
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

SAMPLES = 3
WORK_TREE = "the work tree"
_LINK = "120000"


@dataclass(frozen=True)
class DataDiffReport:
    schema: ClassVar[str] = "soup.data-diff/1"
    a: str
    b: str
    datasets: list[DatasetDiff]
    """`data.train`, then `data.validation` where one side has it; or the one that was named."""

    @property
    def title(self) -> str:
        return f"{self.a} -> {self.b}"

    @property
    def differs(self) -> bool:
        return any(found.differs for found in self.datasets)

    def tables(self) -> Sequence[Table | str]:
        parts = [part for found in self.datasets for part in ("", *self._tables(found))]
        return parts[1:]

    def _tables(self, found: DatasetDiff) -> Iterator[Table | str]:
        header = ("", "dataset", "in", "rows>", "repeated>", "unreadable>")
        sides = [_cells(self.a, found.a), _cells(self.b, found.b)]
        yield Table(header, sides, after=f"{found.role}: {summary(found)}")
        for kind, total, rows in (
            ("removed", found.removed, found.removed_rows),
            ("added", found.added, found.added_rows),
        ):
            if rows:
                cells = [(row.place, _text(row)) for row in rows]
                yield ""
                yield Table(("", ""), cells, before=_how_many(kind, total, len(rows)))
        if found.changed_rows:
            lines = [line for row in found.changed_rows for line in _lines(row)]
            before = _how_many("changed", found.changed, len(found.changed_rows))
            yield ""
            yield Table(("", "", ""), lines, before=before)
        for side, label in ((found.a, self.a), (found.b, self.b)):
            if side.unreadable_rows:
                cells = [(row.place, row.problem) for row in side.unreadable_rows]
                kind = f"unreadable in {label}"
                before = _how_many(kind, side.unreadable, len(side.unreadable_rows))
                yield ""
                yield Table(("", ""), cells, before=before)


def summary(found: DatasetDiff) -> str:
    """`3 added (1 repeats a row), 2 removed, 1 changed, 94 unchanged (5 moved)`."""
    notes = [f"{found.moved} moved"] if found.moved else []
    notes += [f"{found.rewritten} written differently"] if found.rewritten else []
    again = f" ({found.duplicated} repeat a row that is there)" if found.duplicated else ""
    kept = f" ({', '.join(notes)})" if notes else ""
    return (
        f"{found.added} added{again}, {found.removed} removed, {found.changed} changed,"
        f" {found.unchanged} unchanged{kept}"
    )


def _cells(label: str, side: DataSide) -> Sequence[str]:
    if side.path is None:
        return (label, "-", "-", "-", "-", "-")
    numbers = (side.rows, side.repeated, side.unreadable)
    return (label, side.path, side.source, *map(str, numbers))


def _how_many(kind: str, total: int, shown: int) -> str:
    return f"{kind}:" if total == shown else f"{kind} (first {shown} of {total}):"


def _text(row: RowSample) -> str:
    return f"({row.problem}) {row.text}" if row.problem else row.text


def _lines(row: ChangedRow) -> Iterator[Sequence[str]]:
    """The fields of a changed row; place and key stand once, in front of the first."""
    place = row.place_b if row.place_a == row.place_b else f"{row.place_a} -> {row.place_b}"
    yield place, row.by, row.key
    for change in row.fields:
        yield "", change.key, f"{_or_none(change.old)} -> {_or_none(change.new)}"


def _or_none(value: str | None) -> str:
    return "(not there)" if value is None else value


# -- finding the datasets -----------------------------------------------------------------------


@dataclass(frozen=True)
class _End:
    """One end of a comparison: a snapshot, or a file or folder that was named by itself."""

    label: str
    snapshot: Snapshot
    commit: str | None
    path: str | None = None

    def named(self, dataset: str | None) -> dict[str, str]:
        """Role -> path from the top."""
        named = dataset or self.path
        if named is not None:
            return {"dataset": named}
        return {role: self._safe(role, n) for role, n in named_datasets(self.snapshot).items()}

    def _safe(self, role: str, named: str) -> str:
        path = repository_path(named)
        if path is None:
            raise FatalError(
                f"{self.label} names {named!r} as data.{role}, which is not inside the repository",
                hint="git soup diff --data A B --dataset PATH compares another one",
            )
        return path


def data_diff(
    workspace: Workspace,
    a: str,
    b: str | None,
    *,
    dataset: str | None = None,
    samples: int = SAMPLES,
) -> DataDiffReport:
    """Compare the datasets of two revisions, or files of the work tree, row by row.

    `b` None is the work tree. `dataset` (a path from the top) takes the place of those that
    `soup.lock` and `soup.yaml` name. Bytes that are not here are fetched from the DVC remote.
    Raises `FatalError` when no side has a dataset, and when bytes cannot be had.
    """
    from soup_git.data.rowdiff import compare

    ends = [_end(workspace, a), _end(workspace, b)]
    pairs = _pairs(ends, None if dataset is None else _given(workspace, dataset))
    found = []
    with ExitStack() as stack:
        for role, names in pairs.items():
            places = [_place(workspace, end, path) for end, path in zip(ends, names, strict=True)]
            _require_places(ends, names, places, one_will_do=dataset is not None)
            one, other = _sources(workspace, ends, places, stack)
            found.append(compare(role, one, other, samples))
    return DataDiffReport(ends[0].label, ends[1].label, found)


def _end(workspace: Workspace, spec: str | None) -> _End:
    if spec is None:
        return _End(WORK_TREE, workspace.work_tree, None)
    match _reading(workspace, spec):
        case FolderSpec(named):
            return _End(spec, workspace.work_tree, None, _from_top(workspace, Path(named)))
        case RunSpec() as run:
            revision, path = run.ref, None
        case RevisionSpec(revision, path):
            pass
    commit = workspace.git.commit(revision)
    return _End(spec, workspace.at(commit, label=revision), commit, path)


def _reading(workspace: Workspace, spec: str) -> Reading:
    """The one thing that `spec` names: a revision, a run, or a path of the work tree."""
    found = [reading for reading in readings(spec) if _exists(workspace, reading)]
    if len(found) > 1:
        ways = ", ".join(reading.forced() for reading in found)
        raise FatalError(
            f"{spec!r} is ambiguous: a path here, and a revision",
            hint=f"write it as one of: {ways}",
        )
    if not found:
        raise FatalError(
            f"{spec!r} names no revision here, and no file or folder",
            hint="git branch -a, or ls; git soup diff --data A B compares what revisions name",
        )
    return found[0]


def _exists(workspace: Workspace, reading: Reading) -> bool:
    match reading:
        case FolderSpec(path):
            return Path(path).exists()
        case RunSpec():
            return workspace.git.resolve(reading.ref) is not None
        case RevisionSpec(revision, _):
            return workspace.git.resolve(revision) is not None


def _given(workspace: Workspace, dataset: str) -> str:
    """--dataset, as it is typed in the current folder, else from the top."""
    here = Path(dataset)
    if not os.path.lexists(here) and (path := repository_path(dataset)) is not None:
        return path
    return _from_top(workspace, here)


def _from_top(workspace: Workspace, named: Path) -> str:
    """A path of the current folder as git writes it; where a link leads does not matter to git."""
    relative = os.path.relpath(Path.cwd() / named, workspace.root)
    path = repository_path(relative)
    if path is None:
        raise FatalError(
            f"{named} is not a file or folder inside the repository {workspace.root}",
            hint=f"copy it into {workspace.root}, then name it there",
        )
    return path


def _pairs(ends: Sequence[_End], dataset: str | None) -> Mapping[str, list[str | None]]:
    """Role -> the path at each end."""
    if dataset is None and any(end.path is not None for end in ends):
        # A file that was named is compared with the other side's training data.
        return {"dataset": [next(iter(end.named(None).values()), None) for end in ends]}
    named = [end.named(dataset) for end in ends]
    roles = [role for role in (*ROLES, "dataset") if any(role in names for names in named)]
    if not roles:
        ways = " and ".join(dict.fromkeys(end.label for end in ends))
        raise FatalError(
            f"no dataset is named in {ways}: neither soup.lock nor soup.yaml (data.train) has one",
            hint="git soup diff --data A B --dataset PATH",
        )
    return {role: [names.get(role) for names in named] for role in roles}


def _place(workspace: Workspace, end: _End, path: str | None) -> DataPlace | None:
    if path is None:
        return None
    place = place_of(workspace, end.snapshot, path)
    if place is not None and path in place.blobs and end.commit is not None:
        modes = [entry.mode for entry in workspace.git.tree(end.commit, path)]
        if modes == [_LINK]:
            raise FatalError(
                f"{path} is a symbolic link in {end.label}, and git does not have what it points to",
                hint="git soup diff --data A B --dataset PATH, with the file itself",
            )
    return place


def _require_places(
    ends: Sequence[_End],
    names: Sequence[str | None],
    places: Sequence[DataPlace | None],
    *,
    one_will_do: bool,
) -> None:
    """Raises for a dataset that is named and nowhere: no rows is something else than unknown rows."""
    lost = [
        f"{name} in {end.label}"
        for end, name, place in zip(ends, names, places, strict=True)
        if name is not None and place is None
    ]
    if lost and not (one_will_do and any(places)):
        raise FatalError(
            f"no rows to compare: {' and '.join(lost)} is neither in git nor in DVC",
            hint="dvc add, or git add it; git soup diff --data A B --dataset PATH compares another",
        )


# -- getting the bytes --------------------------------------------------------------------------


def _sources(
    workspace: Workspace,
    ends: Sequence[_End],
    places: Sequence[DataPlace | None],
    stack: ExitStack,
) -> list[DataSource]:
    from soup_git.data.reading import SUFFIXES, require_suffix

    wanted = [md5 for place in places if place is not None for md5 in place.objects.values()]
    fetched = fetch_missing(workspace, wanted)
    sources = []
    for end, place in zip(ends, places, strict=True):
        if place is None:
            sources.append(NOWHERE)
            continue
        _require_objects(workspace, end, place, fetched)
        source = source_of(workspace, place, SUFFIXES, stack)
        if not source.files:
            raise FatalError(
                f"{place.path} in {end.label} has no {', '.join(SUFFIXES)} files",
                hint="export the dataset as JSON lines",
            )
        for file in source.files:
            require_suffix(file.suffix, file.name)
        sources.append(source)
    return sources


def _require_objects(workspace: Workspace, end: _End, place: DataPlace, fetched: Fetched) -> None:
    """Raises when bytes that a pointer names are not here, or are not those."""
    remote = workspace.dvc_remote.name
    for path, md5 in place.objects.items():
        damaged = workspace.damaged_objects(md5)
        if damaged:
            raise FatalError(
                f"{path} in {end.label}: the cache has other bytes under md5:{damaged[0]}",
                hint=f"rm '{workspace.dvc.object_path(damaged[0])}', then again: it is fetched anew",
            )
        if workspace.dvc.has(md5):
            continue
        nor = "there is no DVC remote" if remote is None else f"not in the remote {remote} either"
        if md5 in fetched.damaged:
            nor = f"the remote {remote} has other bytes under that name"
        raise FatalError(
            f"{path} in {end.label} is not here: md5:{md5} is not in the DVC cache, and {nor}",
            hint="git soup push, typed by somebody who has it"
            if remote
            else "dvc remote add -d NAME URL, then again",
        )
