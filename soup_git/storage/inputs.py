"""What a config names beside its base and its dataset, by its bytes: part of the pin `config`.

A chat template, rows to validate on, a reward's code, an adapter that rewards, a teacher. Of an
adapter its config and its weights count, whoever tracks them; of any other folder every file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from soup_git.core.digests import folder_sha256
from soup_git.core.lock import Lock
from soup_git.core.manifest import CONFIG, WEIGHTS
from soup_git.core.trainconfig import ConfigPins, NamedInput
from soup_git.storage.dvcobjects import walk
from soup_git.storage.pins import Pin
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

_MODEL = "config.json"
"""What a folder that transformers loads a model from holds."""


def named_inputs(
    workspace: Workspace, names: ConfigPins, dataset: str | None = None
) -> dict[str, NamedInput]:
    """Path in the repository -> what names it. The dataset has a pin of its own."""
    found = {_path(workspace, one): one for one in names.inputs}
    return {path: one for path, one in found.items() if path is not None and path != dataset}


def _path(workspace: Workspace, named: NamedInput) -> str | None:
    """Where the bytes are: git holds a link by its text, DVC's own links are its files."""
    path = named.path
    if path is None:
        return None
    root = workspace.root.resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root) or target == root:
        return path
    relative = target.relative_to(root)
    return path if relative.parts[0] in {".dvc", ".git"} else relative.as_posix()


def written_inputs(
    workspace: Workspace, snapshot: Snapshot, names: ConfigPins, dataset: str | None
) -> dict[str, Pin]:
    """Path -> what a lock written now says of it; a hub's id is no path."""
    found = {
        path: (named, input_pin(workspace, snapshot, path))
        for path, named in named_inputs(workspace, names, dataset).items()
    }
    return {
        path: pin
        for path, (named, pin) in found.items()
        if not (named.may_be_elsewhere and _is_missing(pin))
    }


@dataclass(frozen=True)
class CheckedInput:
    """An input as it is now, beside what a lock says of it."""

    path: str
    pin: Pin
    is_in_lock: bool
    locked: str | None
    is_elsewhere: bool
    """Its bytes are not here, which is never the same as drift."""


def checked_inputs(
    workspace: Workspace, snapshot: Snapshot, lock: Lock, names: ConfigPins, *, is_edited: bool
) -> list[CheckedInput]:
    """The inputs that a lock pins, and those that its config names and it does not.

    Of a config that was edited since, only what it names now would be trained with.
    """
    named = named_inputs(workspace, names, lock.dataset_path)
    found = []
    for path in sorted({*named, *(() if is_edited else lock.inputs)}):
        pin = input_pin(workspace, snapshot, path)
        is_elsewhere = pin.digest is None and (
            pin.md5 is not None or (path in named and named[path].may_be_elsewhere)
        )
        # A lock without a config pin is the original tool's, and pins less.
        if path in lock.inputs or (lock.config_sha is not None and not _is_missing(pin)):
            locked = lock.inputs.get(path)
            found.append(CheckedInput(path, pin, path in lock.inputs, locked, is_elsewhere))
    return found


def _is_missing(pin: Pin) -> bool:
    """There is no such thing; one whose bytes are elsewhere is no missing one."""
    return pin.digest is None and pin.md5 is None


def input_pin(workspace: Workspace, snapshot: Snapshot, path: str) -> Pin:
    """An input in the work tree; as the snapshot names it where it is not there."""
    here = _on_disk(workspace, path) if snapshot.is_on_disk else {}
    if here and not (CONFIG in here and WEIGHTS not in here):
        return Pin(_digest(here), path)
    held, away = _held(workspace, snapshot, path)
    found = {**held, **here}
    files = {name: found[name] for name in _deciding(found)}
    if away:
        return Pin(None, path, f"{path} is not in the DVC cache", md5=min(away.values()))
    if not files and is_model_here(workspace, path):
        # A model that neither git nor DVC holds is used from where it is, as a base is.
        files = _on_disk(workspace, path)
    return Pin(_digest(files), path) if files else Pin(None, path, f"there is no {path}")


def is_model_here(workspace: Workspace, path: str) -> bool:
    return (workspace.root / path / _MODEL).is_file()


# Of a file that is no folder the only name is empty.


def _digest(files: Mapping[str, str]) -> str:
    return files[""] if "" in files else folder_sha256(files.items())


def _deciding(names: Iterable[str]) -> set[str]:
    """Those of a folder's files that count."""
    found = set(names)
    return found & {CONFIG, WEIGHTS} if CONFIG in found and _MODEL not in found else found


def _on_disk(workspace: Workspace, path: str) -> dict[str, str]:
    on_disk = workspace.root / path
    if on_disk.is_file():
        return {"": workspace.sha256(on_disk)}
    if not on_disk.is_dir():
        return {}
    files = {file.relative_to(on_disk).as_posix(): file for file in walk(on_disk)}
    return {name: workspace.sha256(files[name]) for name in _deciding(files)}


def _held(
    workspace: Workspace, snapshot: Snapshot, path: str
) -> tuple[dict[str, str], dict[str, str]]:
    """What git and DVC hold at a path: name -> sha256, and name -> md5 of what is not here."""
    # What git holds is missing where it is not in the work tree; DVC's can be restored.
    blobs = {} if snapshot.is_on_disk else dict(_at(path, snapshot.entries.items()))
    objects = dict(_at(path, _objects(workspace, snapshot, path)))
    names = _deciding({*blobs, *objects})
    found = {name: workspace.blob_sha256(blobs[name]) for name in names & blobs.keys()}
    away = {}
    for name in names & (objects.keys() - blobs.keys()):
        if workspace.dvc.has(objects[name]):
            found[name] = workspace.object_sha256(objects[name])
        else:
            away[name] = objects[name]
    return found, away


def _at(path: str, items: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """(name below `path`, what is there), of what is there or below it."""
    for place, value in items:
        if place == path or place.startswith(f"{path}/"):
            yield place[len(path) + 1 :], value


def _objects(workspace: Workspace, snapshot: Snapshot, path: str) -> Iterator[tuple[str, str]]:
    """(path, md5) of what DVC holds at, below and around a path; folders by their files."""
    for place, output in snapshot.outputs.items():
        around = path.startswith(f"{place}/")
        if not (around or place == path or place.startswith(f"{path}/")):
            continue
        if not output.is_folder:
            yield place, output.md5
        elif workspace.dvc.object_path(output.md5).is_file():
            for name, md5 in workspace.dvc.folder_files(output.md5).items():
                yield f"{place}/{name}", md5
        else:
            yield (path if around else place), output.md5
