"""`git soup gc`: DVC objects that nothing names any more; said first, deleted when asked.

Nothing that a ref, a reflog, an index, a work tree or a half-finished merge names is ever a
candidate, and nothing younger than the grace time: what a command is about to name was
stored, or touched, just before.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soup_git.core.text import counted
from soup_git.errors import FatalError
from soup_git.render.report import Table, age, size
from soup_git.storage.files import turn
from soup_git.storage.reachable import used_objects
from soup_git.storage.workspace import Workspace

GRACE = "14d"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(?P<count>\d{1,6})(?P<unit>[smhdw])")
_NAME = re.compile(r"[0-9a-f]{30}(\.dir)?")
_LISTED = 10


@dataclass(frozen=True)
class UnusedObject:
    md5: str
    bytes: int
    age_seconds: int
    path: str


@dataclass(frozen=True)
class Store:
    """A folder of objects."""

    path: str
    objects: int
    bytes: int
    unused: int
    unused_bytes: int


@dataclass(frozen=True)
class GcReport:
    schema: ClassVar[str] = "soup.gc/1"
    pruned: bool
    stores: list[Store]
    unused: list[UnusedObject]
    """Old enough to delete; with `pruned`, what was deleted. The largest first."""
    bytes: int
    """Of these."""
    young: int
    """Unused objects within the grace time: kept."""
    grace_seconds: int
    notes: list[str]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            (s.path, str(s.objects), size(s.bytes), str(s.unused), size(s.unused_bytes))
            for s in self.stores
        ]
        header = ("objects in", "all>", "size>", "unused>", "size>")
        parts: list[Table | str] = [Table(header, rows)]
        if self.unused:
            shown = [
                (f"  {o.md5}", size(o.bytes), age(o.age_seconds))
                for o in self.unused[:_LISTED]
            ]  # fmt: skip
            hidden = len(self.unused) - len(shown)
            more = f"  … {hidden} more (--json lists all)" if hidden else ""
            parts.append(Table(("", ">", ""), shown, before=self._verdict(), after=more))
        else:
            parts.append(self._verdict())
        if self.young:
            parts.append(f"{self.young} unused and younger than {age(self.grace_seconds)}: kept")
        return [*parts, *self.notes]

    def _verdict(self) -> str:
        count = f"{counted(len(self.unused), 'object')}"
        if self.pruned:
            return f"deleted {count}, {size(self.bytes)}"
        if not self.unused:
            return "nothing to delete"
        return f"git soup gc --prune deletes {count}, {size(self.bytes)}"


def grace_seconds(text: str) -> int:
    """`now`, `90s`, `12h`, `14d`, `2w` in seconds."""
    if text == "now":
        return 0
    found = _DURATION.fullmatch(text)
    if found is None:
        raise FatalError(
            f"{text!r} is no time: a number with s, m, h, d or w, or now",
            hint=f"git soup gc --older-than {GRACE} is what it does by itself",
        )
    return int(found["count"]) * _UNITS[found["unit"]]


def gc(workspace: Workspace, *, prune: bool, grace: str = GRACE, shared: bool = False) -> GcReport:
    """Find what nothing names, and delete what of it is older than `grace` where `prune` says so.

    Raises `FatalError` where it cannot be known what is used.
    """
    seconds = grace_seconds(grace)
    with turn(workspace.git.common_dir / "soup" / "gc.turn"):
        # The clock is read before the roots: what is stored meanwhile is younger than it.
        now = time.time()
        folders, notes = _stores(workspace, shared=shared)
        used = used_objects(workspace.git, workspace.dvc)
        stores, old, young = [], [], 0
        for folder in folders:
            found = list(_objects(folder, now))
            unused = [one for one in found if one.md5.removesuffix(".dir") not in used]
            aged = [one for one in unused if one.age_seconds >= seconds]
            young += len(unused) - len(aged)
            old += aged
            stores.append(Store(
                _shown(workspace, folder), len(found), sum(one.bytes for one in found),
                len(unused), sum(one.bytes for one in unused),
            ))  # fmt: skip
        if prune:
            old = [one for one in old if _delete(one, now - seconds)]
    old.sort(key=lambda one: (-one.bytes, one.md5))
    total = sum(one.bytes for one in old)
    return GcReport(prune, stores, old, total, young, seconds, notes)


def _stores(workspace: Workspace, *, shared: bool) -> tuple[list[Path], list[str]]:
    """The folders of objects that are this repository's alone, or that the user says are."""
    dvc, git = workspace.dvc, workspace.git
    cache = dvc.cache_dir
    homes = [git.common_dir, *([git.main_work_tree] if git.main_work_tree else [])]
    is_own = any(cache.resolve().is_relative_to(home.resolve()) for home in homes)
    if is_own or shared:
        return [cache, dvc.kept_dir], []
    note = (
        f"note: the cache {cache} lies outside of this repository and may serve others: left"
        " alone; --shared-cache looks there too"
    )
    return [dvc.kept_dir], [note]


def _shown(workspace: Workspace, folder: Path) -> str:
    root = workspace.root.resolve()
    place = folder.resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else str(folder)


def _objects(store: Path, now: float) -> Iterator[UnusedObject]:
    for folder in sorted((store / "files" / "md5").glob("[0-9a-f][0-9a-f]")):
        for path in sorted(folder.iterdir()):
            if _NAME.fullmatch(path.name) and path.is_file():
                stat = path.stat()
                seconds = int(now - stat.st_mtime)
                yield UnusedObject(folder.name + path.name, stat.st_size, seconds, str(path))


def _delete(one: UnusedObject, before: float) -> bool:
    """Delete an object that is as old as it was: whoever needs it again has touched it."""
    path = Path(one.path)
    try:
        if path.stat().st_mtime > before:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True
