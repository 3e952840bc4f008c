"""`.dvc` pointers and `dvc.lock` merged: weights by their adapters, the rest as text.

A stage of `dvc.lock` is a record of one run: this command, with these inputs, gave these
outputs. Records are never mixed. Where weights were merged no run gave them, so the record
is ours with the new weights in it: its inputs then differ from the work tree wherever
theirs does, and `dvc status` says so, which is the truth.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from soup_git.core.manifest import WEIGHTS
from soup_git.core.threeway import pick
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import (
    POINTER_SUFFIX,
    Output,
    parse_dvc_lock,
    parse_dvc_stages,
    parse_pointer,
    with_weights,
)
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.snapshot import is_weights
from soup_git.storage.textmerge import MergedText, merge_texts
from soup_git.storage.threeway import Merger

_STAGE = re.compile(r"  (?! |#|-)\S.*:\s*")
_PATH_LINE = re.compile(r"(?m)^[ -]*path: (.+)$")


def is_weights_pointer(path: str) -> bool:
    return is_weights(path.removesuffix(POINTER_SUFFIX)) and path.endswith(POINTER_SUFFIX)


# -- pointers ---------------------------------------------------------------------------------


def merge_pointer(
    merger: Merger, git: GitRepo, path: str, origin: bytes, sides: Sequence[bytes]
) -> MergedText:
    """A pointer; raises where the adapters that its weights belong to clash."""
    if not is_weights_pointer(path):
        return merge_texts(git, origin, sides)
    before = _of_pointer(origin, path) if origin.strip() else None
    versions = [_of_pointer(side, path) for side in sides]
    found = merger.weights(before.md5 if before else None, [v.md5 for v in versions])
    if found is None:
        raise FatalError(f"{path} names no weights", hint=f"git log -p -- {path}")
    md5, size = found
    size = size or next(v.size or 0 for v in [*versions, before] if v is not None and v.md5 == md5)
    # With the same weights in all of them what is left are fields that people add by hand.
    texts = [
        _encoded(with_weights(text.decode("utf-8", "surrogateescape"), md5, size))
        for text in [origin, *sides]
    ]
    return merge_texts(git, texts[0], texts[1:])


def _of_pointer(data: bytes, path: str) -> Output:
    outputs = parse_pointer(data, path)
    if len(outputs) != 1 or not is_weights(outputs[0].path):
        raise FatalError(
            f"{path} is no pointer to one {WEIGHTS}",
            hint=f"git log -p -- {path} tells who wrote it",
        )
    return outputs[0]


# -- dvc.lock ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Record:
    """One stage of one version: its text, and what it says."""

    text: str
    outputs: dict[str, Output]
    inputs: frozenset[str]


@dataclass(frozen=True)
class _Lock:
    head: str
    records: dict[str, _Record] = field(default_factory=dict)


def merge_dvc_lock(
    merger: Merger, git: GitRepo, path: str, origin: bytes, sides: Sequence[bytes]
) -> MergedText:
    """A `dvc.lock`, stage by stage; raises where the adapters of its weights clash."""
    locks = [_parse(data, path) for data in [origin, *sides]]
    if any(lock is None for lock in locks):
        return merge_texts(git, origin, sides)
    before, *versions = [lock for lock in locks if lock is not None]
    merge = _StageMerge(merger, git, before, versions)
    text = merge_texts(git, _encoded(before.head), [_encoded(v.head) for v in versions])
    parts, clean = [text.data], text.is_clean
    for name in dict.fromkeys(name for version in versions for name in version.records):
        done = merge.stage(name)
        parts.append(done.data)
        clean = clean and done.is_clean
    merged = b"".join(parts)
    if clean:
        # What is written says what was decided, or nothing is written.
        outputs = {o.path: o.md5 for outs in parse_dvc_lock(merged, path).values() for o in outs}
        for weights, (md5, _) in merge.combined.items():
            if outputs.get(weights) != md5:
                raise FatalError(
                    f"{path} could not be merged: its layout is not DVC's", hint="dvc commit"
                )
    return MergedText(merged, clean)


def _parse(data: bytes, path: str) -> _Lock | None:
    """The stages with their texts; None where the layout is not the one that DVC writes."""
    text = data.decode("utf-8", "surrogateescape")
    if not text.strip():
        return _Lock("")
    stages = parse_dvc_stages(data, path)
    outputs = parse_dvc_lock(data, path)
    head, mark, rest = text.partition("stages:\n")
    blocks = _blocks(rest)
    if not mark or len(blocks) != len(stages) or (rest and not rest.endswith("\n")):
        return None
    folder = path.rpartition("/")[0]
    records = {}
    for (name, raw), block in zip(stages.items(), blocks, strict=True):
        inputs = frozenset(
            posixpath.normpath(posixpath.join(folder, str(item["path"])))
            for item in raw.get("deps") or []
            if isinstance(item, dict) and "path" in item
        )
        records[str(name)] = _Record(block, {o.path: o for o in outputs[str(name)]}, inputs)
    return _Lock(head + mark, records)


def _blocks(text: str) -> list[str]:
    blocks: list[str] = []
    for line in text.splitlines(keepends=True):
        if _STAGE.fullmatch(line.rstrip("\n")):
            blocks.append(line)
        elif blocks:
            blocks[-1] += line
        else:
            return []
    return blocks


class _StageMerge:
    """Which record each stage gets."""

    def __init__(
        self, merger: Merger, git: GitRepo, before: _Lock, versions: Sequence[_Lock]
    ) -> None:
        self._git = git
        self._before = before
        self._versions = versions
        self.combined: dict[str, tuple[str, int]] = {}
        """Weights that no version has: path -> md5, size."""
        self._won_by: dict[str, set[int]] = {}
        """Weights that one or more versions have as the merge wants them: path -> which."""
        for path, origin, sides in self._weights():
            found = merger.weights(origin, sides)
            if found is not None and found[0] in sides:
                self._won_by[path] = {i for i, md5 in enumerate(sides) if md5 == found[0]}
            elif found is not None:
                self.combined[path] = found
        self._stale = self._downstream()

    def _weights(self) -> list[tuple[str, str | None, list[str]]]:
        """(path, the origin's md5, the sides' md5s) of weights that every version has."""
        known = [
            {path: o.md5 for record in lock.records.values() for path, o in record.outputs.items()}
            for lock in [self._before, *self._versions]
        ]
        return [
            (path, known[0].get(path), [version[path] for version in known[1:]])
            for path in known[1]
            if is_weights(path) and all(path in version for version in known[2:])
        ]

    def _downstream(self) -> set[str]:
        """Our stages that read, over any number of steps, weights that were combined."""
        touched, stages = set(self.combined), set[str]()
        records = self._versions[0].records
        for _ in records:
            for name, record in records.items():
                if name not in stages and record.inputs & touched:
                    stages.add(name)
                    touched |= set(record.outputs)
        return stages

    def stage(self, name: str) -> MergedText:
        before = self._before.records.get(name)
        versions = [version.records.get(name) for version in self._versions]
        texts = [record.text if record else None for record in versions]
        agreed, text = pick(before.text if before else None, texts)
        if agreed:
            return MergedText(_encoded(text or ""), is_clean=True)
        ours = versions[0]
        if ours is not None and (set(ours.outputs) & set(self.combined) or name in self._stale):
            return MergedText(self._with_combined(ours), is_clean=True)
        won = self._winner(versions)
        if won is not None:
            return MergedText(_encoded(won.text), is_clean=True)
        encoded = [_encoded(text or "") for text in texts]
        return merge_texts(self._git, _encoded(before.text if before else ""), encoded)

    def _winner(self, versions: Sequence[_Record | None]) -> _Record | None:
        """The record of the version whose weights, made or read by the stage, the merge takes."""
        paths = {
            path
            for record in versions
            if record is not None
            for path in {*record.outputs, *record.inputs} & set(self._won_by)
        }
        if not paths:
            return None
        candidates = set.intersection(*[self._won_by[path] for path in paths])
        return next((versions[i] for i in sorted(candidates) if versions[i] is not None), None)

    def _with_combined(self, record: _Record) -> bytes:
        text = record.text
        for path, (md5, size) in self.combined.items():
            found = record.outputs.get(path)
            if found is not None:
                text = _with_output(text, path, md5, size)
        return _encoded(text)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _with_output(record: str, path: str, md5: str, size: int) -> str:
    """A record whose output at `path` is another object."""
    head, mark, rest = record.partition("    outs:\n")
    items = re.split(r"(?m)^(?=    - )", rest)
    replaced = [
        with_weights(item, md5, size) if f"/{path}".endswith(f"/{_path_of(item)}") else item
        for item in items
    ]
    return head + mark + "".join(replaced)


def _path_of(item: str) -> str:
    """The path of an output's text; nothing, which is no path's end, where it names none."""
    found = _PATH_LINE.search(item)
    return posixpath.normpath(found[1].strip("'\"")) if found else "\n"
