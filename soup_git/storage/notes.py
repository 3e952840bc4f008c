"""The notes under `refs/notes/soup`: read many in one go, appended to by any number of processes.

`git notes append` reads and writes its ref without asking whether somebody else wrote in
between. Here processes of ours take turns, and the ref moves only from the value that was
read. A result is noted twice: at the commit, for `git log`, and at the manifest's blob,
which a squash merge keeps when it drops the commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from soup_git.core.manifest import MANIFEST
from soup_git.core.notes import EvalRecord, parse_note
from soup_git.errors import FatalError
from soup_git.storage.files import turn
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.snapshot import inside_folder

if TYPE_CHECKING:
    from soup_git.storage.workspace import Workspace

NOTES = "refs/notes/soup"
T = TypeVar("T")
_FLAT = 256
"""As many notes lie side by side in the tree; more go into folders by their first byte."""
_PATIENCE_SECONDS = 30.0


def read_notes(
    git: GitRepo, objects: Iterable[str], ref: str = NOTES
) -> dict[str, list[EvalRecord]]:
    """Object id -> its evaluations, oldest first; objects without any are left out.

    However many are asked for, the answers come from the one `git cat-file --batch` of this
    process.
    """
    return read_lines(git, objects, parse_note, ref)


def read_lines(
    git: GitRepo, objects: Iterable[str], parse: Callable[[bytes], list[T]], ref: str = NOTES
) -> dict[str, list[T]]:
    """As `read_notes`, of the lines that `parse` takes from a note."""
    wanted = set(objects)
    found = {oid: blob for oid, blob in git.notes_tree(ref) if oid in wanted}
    blobs = git.blobs(found.values())
    parsed = {oid: parse(blob[1]) for oid, blob in zip(found, blobs, strict=True) if blob}
    return {oid: records for oid, records in parsed.items() if records}


class Record(Protocol):
    """What is found out about one adapter of a commit."""

    @property
    def adapter(self) -> str:
        """Its path in the repository."""
        ...

    def line(self) -> str: ...


def note(workspace: Workspace, commit: str, records: Sequence[Record]) -> None:
    """Note results on a commit and on the manifests that it has for their adapters."""
    git = workspace.git
    paths = [f"{commit}:{inside_folder(record.adapter, MANIFEST)}" for record in records]
    lines: dict[str, list[str]] = {commit: [record.line() for record in records]}
    for record, found in zip(records, git.blob_ids(paths), strict=True):
        if found is not None:
            lines.setdefault(found[0], []).append(record.line())
    append_notes(git, lines)


def append_notes(git: GitRepo, lines: Mapping[str, Sequence[str]]) -> None:
    """Add lines to the notes of objects, all in one commit; a line that is there stays one."""

    def add(entries: dict[str, str]) -> dict[str, str]:
        old = dict(zip(entries, git.blobs(entries.values()), strict=True))
        new = {}
        for oid, added in lines.items():
            there = old.get(oid)
            data = there[1] if there is not None else b""
            missing = [line for line in added if line.encode() not in data.split(b"\n")]
            if missing:
                gap = b"" if not data or data.endswith(b"\n") else b"\n"
                text = "".join(f"{line}\n" for line in dict.fromkeys(missing))
                new[oid] = git.write_blob(data + gap + text.encode())
        return new

    _change(git, add, set(lines), "git soup: note results")


def merge_notes(git: GitRepo, theirs: str) -> bool:
    """Bring the notes at ref `theirs` into ours, line by line; whether ours changed.

    The three-way merge of `git notes merge -s cat_sort_uniq`: a note that one side changed
    is taken from there, one that both changed becomes the sorted union of their lines.
    """
    other = git.resolve(theirs)
    if other is None:
        return False

    def commit(ours: str | None) -> str | None:
        if ours is None:
            return other
        base = git.merge_base(ours, other)
        if base == other:
            return None
        if base == ours:
            return other
        return _merged(git, base, ours, other)

    before = git.refs(NOTES).get(NOTES)
    _move(git, commit, f"git soup: merge notes of {theirs}")
    return git.refs(NOTES).get(NOTES) != before


def _merged(git: GitRepo, base: str | None, ours: str, theirs: str) -> str:
    """The commit that joins two notes histories."""
    origin = dict(git.notes_tree(base)) if base else {}
    mine, other = dict(git.notes_tree(ours)), dict(git.notes_tree(theirs))
    changes: dict[str, str | None] = {}
    for oid in mine.keys() | other.keys():
        was, here, there = origin.get(oid), mine.get(oid), other.get(oid)
        if here == there or there == was:
            continue
        if here == was:
            changes[oid] = there
            continue
        texts = [blob[1] for blob in git.blobs(o for o in (here, there) if o) if blob]
        joined = {line for text in texts for line in text.split(b"\n") if line}
        changes[oid] = git.write_blob(b"".join(line + b"\n" for line in sorted(joined)))
    tree = _tree(git, ours, changes)
    return git.write_record(tree, [ours, theirs], "Merge notes\n")


def _change(
    git: GitRepo,
    change: Callable[[dict[str, str]], Mapping[str, str]],
    objects: set[str],
    reason: str,
) -> None:
    """`change` gets the present notes of `objects` and returns the new ones."""

    def commit(tip: str | None) -> str | None:
        there = dict(git.notes_tree(tip)) if tip else {}
        new = change({oid: there[oid] for oid in objects if oid in there})
        if not new:
            return None
        tree = _tree(git, tip, new)
        message = "Note results\n"
        return git.write_record(tree, [tip] if tip else [], message)

    _move(git, commit, reason)


def _move(git: GitRepo, commit: Callable[[str | None], str | None], reason: str) -> None:
    """Move the ref to what `commit(tip)` makes of its tip, again while others move it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with turn(git.common_dir / "soup" / "notes.turn"):
        while True:
            tip = git.refs(NOTES).get(NOTES)
            new = commit(tip)
            if new is None or new == tip:
                return
            try:
                git.update_refs([RefUpdate(NOTES, new, tip)], reason)
            except FatalError:
                if git.refs(NOTES).get(NOTES) == tip or time.monotonic() > deadline:
                    raise
                continue  # somebody's own `git notes` was faster
            return


def _tree(git: GitRepo, tip: str | None, changes: Mapping[str, str | None]) -> str:
    """A notes tree: the one of `tip` with object -> note set, and None removed.

    git reads notes at any depth of folders. Ours lie as deep as those that are there.
    """
    entries = git.tree(tip) if tip else []
    path_of = {entry.path.replace("/", ""): entry.path for entry in entries}
    depth = max((entry.path.count("/") for entry in entries), default=0)
    edits: dict[str, str | None] = {}
    if depth == 0 and len(path_of.keys() | changes.keys()) > _FLAT:
        depth = 1
        for entry in entries:
            if len(entry.path) == git.id_length:
                edits[entry.path] = None
                edits[_folded(entry.path, 1)] = entry.oid
                path_of[entry.path] = _folded(entry.path, 1)
    for oid, blob in changes.items():
        edits[path_of.get(oid) or _folded(oid, depth)] = blob
    return git.write_tree(tip, edits)


def _folded(oid: str, depth: int) -> str:
    return "/".join([oid[2 * n : 2 * n + 2] for n in range(depth)] + [oid[2 * depth :]])
