"""The one resolver: from an adapter spec to config, manifest and weights.

No command knows where an adapter came from: a folder, a revision, or a training run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    make_manifest,
    parse_manifest,
)
from soup_git.core.spec import FolderSpec, Reading, RevisionSpec, RunSpec, readings
from soup_git.core.tensornames import refuse_unloadable
from soup_git.errors import FatalError
from soup_git.storage import beside
from soup_git.storage.filenames import typed
from soup_git.storage.files import bytes_of, inside
from soup_git.storage.oddfolders import PICKLES, no_config, no_weights, pickled
from soup_git.storage.several import all_of, by_itself, choose, differing
from soup_git.storage.snapshot import inside_folder

if TYPE_CHECKING:
    from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Adapter:
    """One adapter, wherever it came from."""

    spec: str
    origin: str
    """Where it was found, in words: a folder, or a commit and a path."""
    path: str
    commit: str | None
    config_data: bytes
    config: AdapterConfig
    manifest: Manifest
    weights: Path | None
    """A local file with the bytes; None when neither work tree nor cache has them."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of the files beside the weights that belong to it (`core.beside`)."""
    read_file: Callable[[str], bytes] | None = None
    """The bytes of one of `files`; set where there are any."""


def resolve(workspace: Workspace, spec: str, path: str | None = None) -> Adapter:
    """The adapter that `spec` names; `path` picks one where a revision has several."""
    return _read(workspace, spec, reading_of(workspace, spec), path)


def locate(workspace: Workspace, spec: str, path: str | None = None) -> tuple[str | None, str]:
    """Where in history an adapter spec points: (commit, folder); None is the work tree.

    Reads no weights. Raises `FatalError` as `resolve` does.
    """
    match reading_of(workspace, spec):
        case FolderSpec(folder):
            top = Path(folder).resolve() == workspace.root.resolve()
            return None, "." if top else inside(workspace.root, Path(folder))
        case RunSpec(run, step):
            commit = _checkpoint(workspace, run, step)
            path = path or _trailer(workspace, commit, "Soup-Adapter")
        case RevisionSpec(revision, inner):
            commit, path = workspace.git.commit(revision), _from_top(workspace, inner) or path
    snapshot = workspace.at(commit, label=commit[:10])
    return commit, choose(workspace.git, spec, snapshot, commit, path)


def path_among(workspace: Workspace, specs: Sequence[str], path: str | None = None) -> str | None:
    """The adapter that specs which are compared mean together: `path` where it is given.

    Else the one that a spec names by its path, else the one that alone differs between
    revisions that have several (any, where none does), else the one that a tag or a config of them
    is about. None leaves each spec to itself.
    """
    if path is not None or len(specs) < 2:
        return path
    found = [reading_of(workspace, spec) for spec in dict.fromkeys(specs)]
    bare = [r.revision for r in found if isinstance(r, RevisionSpec) and r.path is None]
    commits = {revision: workspace.git.commit(revision) for revision in bare}
    at = {commit: workspace.at(commit, label=commit[:10]) for commit in commits.values()}
    if not any(len(snapshot.adapters) > 1 for snapshot in at.values()):
        return None
    named = {folder for reading in found if (folder := _path_of(workspace, reading)) is not None}
    if not named and len(at) > 1 and len(moved := differing(list(at.values()))) < 2:
        return next(iter(moved or all_of(at.values())))
    if not named:
        meant = (by_itself(workspace.git, r, at[c], c) for r, c in commits.items())
        named = {folder for folder in meant if folder is not None}
    folder = named.pop() if len(named) == 1 else None
    return folder if all(folder in snapshot.adapters for snapshot in at.values()) else None


def other_adapters(workspace: Workspace, specs: Sequence[str], path: str) -> tuple[int, list[str]]:
    """Of the other adapters of revisions that are compared: how many are equal, and those that differ."""
    found = [reading_of(workspace, spec) for spec in specs]
    revisions = [r.revision for r in found if isinstance(r, RevisionSpec) and r.path is None]
    if len(revisions) < len(specs):
        return 0, []
    commits = [workspace.git.commit(revision) for revision in revisions]
    snapshots = [workspace.at(commit, label=commit[:10]) for commit in commits]
    moved = [folder for folder in differing(snapshots) if folder != path]
    return len(all_of(snapshots)) - len(moved) - 1, moved


def _path_of(workspace: Workspace, reading: Reading) -> str | None:
    """The path from the top of the adapter that a spec names by its path."""
    match reading:
        case RevisionSpec(_, inner):
            return _from_top(workspace, inner)
        case RunSpec(run, step):
            return _trailer(workspace, _checkpoint(workspace, run, step), "Soup-Adapter")
        case FolderSpec(folder):
            place, top = Path(folder).resolve(), workspace.root.resolve()
            is_inside = place.is_relative_to(top) and place != top
            return place.relative_to(top).as_posix() if is_inside else None


def reading_of(workspace: Workspace, spec: str) -> Reading:
    """The one thing that `spec` names; raises where it names none, or more than one."""
    found = [r for r in readings(spec) if _exists(workspace, r)]
    if not found:
        raise _unknown(spec)
    if len(found) > 1:
        ways = ", ".join(reading.forced() for reading in found)
        raise FatalError(
            f"{spec!r} is ambiguous: it can mean {' or '.join(map(_in_words, found))}",
            hint=f"write it as one of: {ways}",
        )
    return found[0]


def _exists(workspace: Workspace, reading: Reading) -> bool:
    match reading:
        case FolderSpec(path):
            folder = Path(path)
            names = (CONFIG, MANIFEST, WEIGHTS, *PICKLES)
            return folder.is_dir() and any((folder / name).is_file() for name in names)
        case RevisionSpec(revision, _):
            return workspace.git.resolve(revision) is not None
        case RunSpec():
            return workspace.git.resolve(reading.ref) is not None


def _unknown(spec: str) -> FatalError:
    if Path(spec).is_dir():
        return FatalError(
            f"{spec} is a folder without an {CONFIG}: no adapter",
            hint="git soup status lists the adapters here",
        )
    return FatalError(
        f"{spec!r} names no adapter: no such folder, revision or run",
        hint="git soup status lists the adapters here, git soup branches the others",
    )


def _read(workspace: Workspace, spec: str, reading: Reading, path: str | None) -> Adapter:
    match reading:
        case FolderSpec(folder):
            return adapter_in_folder(workspace, Path(folder), spec)
        case RunSpec(run, step):
            commit = _checkpoint(workspace, run, step)
            path = path or _trailer(workspace, commit, "Soup-Adapter")
            return _adapter_at(workspace, spec, commit, path)
        case RevisionSpec(revision, inner):
            path = _from_top(workspace, inner) or path
            return _adapter_at(workspace, spec, workspace.git.commit(revision), path)


def _from_top(workspace: Workspace, inner: str | None) -> str | None:
    """The path in `REV:PATH` from the top; `./` and `../` are from where one stands, as in git."""
    if inner is None or not inner.startswith(("./", "../")):
        return os.path.normpath(inner) if inner else None
    here = Path.cwd().resolve()
    top = workspace.root.resolve()
    if not here.is_relative_to(top):
        return os.path.normpath(inner)
    return os.path.normpath(here.relative_to(top) / inner)


def _adapter_at(workspace: Workspace, spec: str, commit: str, path: str | None) -> Adapter:
    snapshot = workspace.at(commit, label=commit[:10])
    folder = choose(workspace.git, spec, snapshot, commit, path)
    manifest = snapshot.manifest(folder)
    data = snapshot.require(inside_folder(folder, CONFIG))
    return Adapter(
        spec=spec,
        origin=f"commit {commit[:10]}, {folder}",
        path=folder,
        commit=commit,
        config_data=data,
        config=snapshot.config(folder),
        manifest=manifest,
        weights=workspace.local_weights(manifest.weights_md5, folder),
        files=beside.digests_in(workspace, snapshot, folder),
        read_file=lambda name: snapshot.require(inside_folder(folder, name)),
    )


def adapter_in_folder(workspace: Workspace, folder: Path, spec: str | None = None) -> Adapter:
    """The adapter whose files lie in `folder` now, its manifest made from its bytes."""
    shown = spec or str(folder)
    weights, data = folder / WEIGHTS, bytes_of(folder / CONFIG)
    if data is None:
        raise no_config(folder, shown)
    config = parse_adapter_config(data, f"{shown}/{CONFIG}")
    written = bytes_of(folder / MANIFEST)
    before = parse_manifest(written, f"{shown}/{MANIFEST}") if written is not None else None
    if not weights.is_file():
        if before is None or pickled(folder):
            raise no_weights(folder, shown)
        return _described(workspace, shown, folder, data, config, before, None)
    if before is not None and workspace.weights_match(before, weights) is None:
        return _described(workspace, shown, folder, data, config, before, weights)
    found = workspace.fingerprint(weights, f"{shown}/{WEIGHTS}")
    refuse_unloadable(found.tensors, f"{shown}/{WEIGHTS}", typed(weights))
    manifest = make_manifest(
        config,
        found.tensors,
        weights_md5=found.md5,
        weights_size=found.size,
        where=f"{shown}/{CONFIG}",
    )
    return _described(workspace, shown, folder, data, config, manifest, weights)


def _described(
    workspace: Workspace,
    spec: str,
    folder: Path,
    data: bytes,
    config: AdapterConfig,
    manifest: Manifest,
    weights: Path | None,
) -> Adapter:
    return Adapter(
        spec, f"folder {spec}", str(folder), None, data, config, manifest, weights,
        beside.digests(workspace, folder), lambda name: (folder / name).read_bytes(),
    )  # fmt: skip


def _checkpoint(workspace: Workspace, run: str, step: int | None) -> str:
    ref = f"refs/soup/runs/{run}"
    if step is None:
        return workspace.git.commit(ref)
    form = "--format=%H %(trailers:key=Soup-Step,valueonly,separator=%x2C)"
    steps = []
    for line in workspace.git.lines("log", "--first-parent", form, ref, "--"):
        commit, _, found = line.partition(" ")
        if not found:
            break
        steps.append(found)
        if found == str(step):
            return commit
    raise FatalError(
        f"run/{run} has no checkpoint at step {step}; it has {', '.join(reversed(steps))}",
        hint=f"git log soup/runs/{run}",
    )


def _trailer(workspace: Workspace, commit: str, key: str) -> str | None:
    form = f"--format=%(trailers:key={key},valueonly)"
    return workspace.git.text("log", "-1", form, commit, "--").strip() or None


def _in_words(reading: Reading) -> str:
    match reading:
        case FolderSpec(path):
            return f"the folder {path}"
        case RunSpec(run, _):
            return f"the training run {run}"
        case RevisionSpec(revision, _):
            return f"the revision {revision}"


def refuse_changed_weights(workspace: Workspace, adapter: Adapter) -> None:
    """Weights that are here are those that the manifest names, or nothing is computed on them."""
    if adapter.weights is None:
        return
    found = workspace.md5(adapter.weights)
    if found != adapter.manifest.weights_md5:
        raise FatalError(
            f"the weights of {adapter.spec} have md5:{found}, its manifest says"
            f" md5:{adapter.manifest.weights_md5}",
            hint="git soup fsck names what is damaged, git soup checkout brings it back",
        )
