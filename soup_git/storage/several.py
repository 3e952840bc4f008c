"""Which of a revision's adapters is meant, where it has several and none is named.

The one that alone differs between the revisions of a comparison; else the one that the tag is about,
or that the revision's soup.yaml trains; else an error that lists them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from soup_git.core.manifest import CONFIG, MANIFEST
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import FatalError
from soup_git.storage.snapshot import Snapshot, inside_folder

if TYPE_CHECKING:
    from soup_git.storage.gitrepo import GitRepo

_TAGS = "refs/tags/"


def choose(
    git: GitRepo, spec: str, snapshot: Snapshot, commit: str, wanted: str | None = None
) -> str:
    """The folder of the adapter that `spec`, a revision, means; `wanted` is a path or a glob.

    Raises `FatalError`, with all of them, where none or more than one can be meant.
    """
    adapters = snapshot.adapters
    if wanted is not None:
        return _wanted(spec, snapshot, wanted)
    if len(adapters) == 1:
        return adapters[0]
    folder = by_itself(git, spec, snapshot, commit)
    if folder is not None:
        return folder
    raise FatalError(
        f"{spec!r} has {len(adapters)} adapters: {', '.join(adapters) or 'none'}",
        hint=f"name one: {spec}:PATH, or --adapter PATH" if adapters else "git soup branches",
    )


def by_itself(git: GitRepo, spec: str, snapshot: Snapshot, commit: str) -> str | None:
    """The adapter that a revision's tag, else its config, is about; None where neither says one."""
    for folder in (_of_tag(git, spec, commit, snapshot.adapters), _trained(snapshot)):
        if folder in snapshot.adapters:
            return folder
    return None


def differing(snapshots: Sequence[Snapshot]) -> list[str]:
    """The adapters whose manifest or config is not the same in all of `snapshots`."""
    return [folder for folder in all_of(snapshots) if not _is_equal(snapshots, folder)]


def _wanted(spec: str, snapshot: Snapshot, wanted: str) -> str:
    adapters, folder = snapshot.adapters, os.path.normpath(wanted)
    found = [folder] if folder in adapters else [a for a in adapters if fnmatchcase(a, wanted)]
    listed = ", ".join(adapters) or "none"
    if not found:
        raise FatalError(
            f"{spec!r}: there is no adapter at {folder} in {snapshot.label}; it has {listed}",
            hint=f"git ls-tree -r --name-only {snapshot.label}",
        )
    if len(found) > 1:
        raise FatalError(
            f"{spec!r}: {wanted} means {len(found)} adapters: {', '.join(found)}",
            hint=f"--adapter {found[0]} names one",
        )
    return found[0]


def _of_tag(git: GitRepo, spec: str, commit: str, adapters: Sequence[str]) -> str | None:
    """The adapter that `NAME/vN` was made for, or that `NAME/LABEL` is called after."""
    name, slash, _ = spec.rpartition("/")
    if not slash or not git.refs(f"{_TAGS}{spec}"):
        return None
    form = "--format=%(*objectname)%00%(contents:body)%00"
    fields = iter(git.text("for-each-ref", form, f"{_TAGS}{name}/").split("\0"))
    told = {
        line.removeprefix("Soup-Adapter: ")
        for peeled, body in zip(fields, fields, strict=False)
        if peeled.strip() == commit
        for line in body.splitlines()
        if line.startswith("Soup-Adapter: ")
    }
    called = [folder for folder in adapters if PurePosixPath(folder).name == name]
    return told.pop() if len(told) == 1 else called[0] if len(called) == 1 else None


def _trained(snapshot: Snapshot) -> str | None:
    """Where the revision's soup.yaml puts the adapter that it trains."""
    data = snapshot.read(CONFIG_FILE) if CONFIG_FILE in snapshot.entries else None
    try:
        output = parse_config_pins(data, CONFIG_FILE).output if data is not None else None
    except FatalError:
        return None  # a config that cannot be read trains nothing
    return PurePosixPath(output).as_posix() if output else None


def all_of(snapshots: Iterable[Snapshot]) -> list[str]:
    """The adapters of any of `snapshots`, sorted."""
    return sorted({folder for snapshot in snapshots for folder in snapshot.adapters})


def _is_equal(snapshots: Sequence[Snapshot], folder: str) -> bool:
    files = [inside_folder(folder, name) for name in (MANIFEST, CONFIG)]
    return len({tuple(s.entries.get(file) for file in files) for s in snapshots}) == 1
