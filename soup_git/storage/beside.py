"""The files beside an adapter's weights, in a folder and in a commit, against its manifest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.core.beside import MAX_BYTES, NAMES, digests_of
from soup_git.core.manifest import Manifest
from soup_git.errors import FatalError
from soup_git.storage.filenames import typed
from soup_git.storage.pointers import refuse_pointer
from soup_git.storage.snapshot import Snapshot, inside_folder

if TYPE_CHECKING:
    from soup_git.storage.resolver import Adapter
    from soup_git.storage.workspace import Workspace


def in_folder(folder: Path) -> list[Path]:
    """Those that lie in `folder` now, sorted by name."""
    return [folder / name for name in sorted(NAMES) if (folder / name).is_file()]


def refuse_unkeepable(folder: Path, path: str) -> None:
    """Raise `FatalError` for a file that git would not keep as what it is."""
    for file in in_folder(folder):
        shown, name = inside_folder(path, file.name), shlex.quote(typed(file))
        refuse_pointer(file, shown)
        if file.is_symlink():
            raise FatalError(
                f"{shown} is a symbolic link; what it points to would not be kept",
                hint=f'cp --remove-destination "$(readlink -f {name})" {name}, then again',
            )
        if file.stat().st_size > MAX_BYTES:
            raise FatalError(
                f"{shown} is {file.stat().st_size:,} bytes; git takes {MAX_BYTES:,} at most of a"
                " file that belongs to an adapter",
                hint=f"mv {name} elsewhere, if it is no part of the adapter",
            )


def digests(workspace: Workspace, folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of what lies in `folder`; remembered by size and time."""
    return {file.name: workspace.sha256(file) for file in in_folder(folder)}


def digests_in(workspace: Workspace, snapshot: Snapshot, folder: str) -> dict[str, str]:
    """Name -> SHA-256 of what a commit holds beside the weights in `folder`."""
    paths = {name: inside_folder(folder, name) for name in sorted(NAMES)}
    return {
        name: workspace.blob_sha256(snapshot.entries[path])
        for name, path in paths.items()
        if path in snapshot.entries
    }


def differing(manifest: Manifest, found: Mapping[str, str]) -> list[str]:
    """What `found` has otherwise than the manifest says, in words; files it does not name are none."""
    said = digests_of(manifest.facts)
    return [
        f"{name} {'changed' if name in found else 'is missing'}"
        for name, digest in sorted(said.items())
        if found.get(name) != digest
    ]


def unnamed(manifest: Manifest, found: Mapping[str, str]) -> list[str]:
    """Files that belong to the adapter and that its manifest does not name."""
    return sorted(set(found) - set(digests_of(manifest.facts)))


def refuse_other_files(
    workspace: Workspace, snapshot: Snapshot, folder: str, manifest: Manifest
) -> None:
    """Raise `FatalError` where a commit or the index holds another file than its manifest names."""
    found = {
        name: workspace.blob_sha256(snapshot.entries[path])
        for name in digests_of(manifest.facts)
        if (path := inside_folder(folder, name)) in snapshot.entries
    }
    wrong = differing(manifest, found)
    if wrong:
        raise FatalError(
            f"{folder}: {', '.join(wrong)} since its manifest was written",
            hint=f"git soup add {folder}, then again",
        )


def files_of_all(adapters: Sequence[Adapter], output: Path) -> tuple[dict[str, bytes], list[str]]:
    """What a merge of `adapters` has beside its weights, by name, and what has to be said of it.

    A file that all of them have with the same bytes is the merge's too. None is chosen among
    several: a tokenizer of one and the embeddings of another are no pair.
    """
    names = sorted({name for adapter in adapters for name in adapter.files})
    equal = [name for name in names if len({a.files.get(name) for a in adapters}) == 1]
    reader = adapters[0].read_file
    files = {name: reader(name) for name in equal} if reader is not None else {}
    others = [name for name in names if name not in equal]
    where = shlex.quote(str(output))
    said = f"{', '.join(others)} are not the same in all inputs, and none is taken: cp chooses, then git soup add {where}"
    return files, [said] if others else []
