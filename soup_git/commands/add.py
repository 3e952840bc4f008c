"""`git soup add DIR...`: track adapters that were made elsewhere.

Weights go to the DVC cache first; only then are the manifest and the pointer written
and staged, so that no text ever names bytes that nobody has.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.beside import facts_of
from soup_git.core.lock import is_repository_path
from soup_git.core.manifest import (
    CONFIG,
    FILE,
    MANIFEST,
    WEIGHTS,
    Manifest,
    Tensor,
    check_ranks,
    make_manifest,
    parse_manifest,
)
from soup_git.core.names import check_name
from soup_git.core.tensornames import refuse_unloadable
from soup_git.errors import FatalError
from soup_git.render.report import Table, say, size
from soup_git.storage import beside
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.dvcobjects import is_cache_link
from soup_git.storage.filenames import typed
from soup_git.storage.files import inside, write_atomically
from soup_git.storage.holders import own_pointer, stage_output
from soup_git.storage.manifests import ManifestIndex
from soup_git.storage.oddfolders import dangling, no_config, no_weights
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.weights import Fingerprint, read_header
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class AddedAdapter:
    path: str
    change: str
    """`new`, `changed` or `same`."""
    base: str | None
    rank: int | None
    modules: int
    weights_md5: str
    weights_size: int


@dataclass(frozen=True)
class AddReport:
    schema: ClassVar[str] = "soup.add/1"
    adapters: list[AddedAdapter]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            (a.change, a.path, f"rank {a.rank}" if a.rank else "", f"{a.modules} modules",
             size(a.weights_size), a.base or "")
            for a in self.adapters
        ]  # fmt: skip
        return [Table(("", "", "", ">", ">", ""), rows)]


def add(workspace: Workspace, folders: Sequence[Path]) -> AddReport:
    """Track the adapters in `folders`; every one is checked before any is stored."""
    named = [(folder, _adapter_path(workspace, folder)) for folder in folders]
    configs = [_check(folder, path) for folder, path in named]
    made = {path: stage_output(workspace, path) for _, path in named}
    added = [
        _store(workspace, folder, path, config, has_stage=made[path] is not None)
        for (folder, path), config in zip(named, configs, strict=True)
    ]
    stage = [file for path, by in made.items() for file in _files_to_stage(path, by is not None)]
    stage += [
        inside_folder(path, file.name)
        for folder, path in named
        for file in beside.in_folder(folder)
    ]
    workspace.git.index.stage(*stage)
    _say_unstaged(workspace, {by.source for by in made.values() if by is not None})
    texts = [Path(workspace.root, inside_folder(adapter.path, MANIFEST)) for adapter in added]
    ManifestIndex(workspace.git).remember(parse_manifest(t.read_bytes(), str(t)) for t in texts)
    return AddReport(added)


def _adapter_path(workspace: Workspace, folder: Path) -> str:
    if not folder.is_dir():
        raise FatalError(f"{folder} is no folder", hint="git soup add DIR takes adapter folders")
    if folder.resolve() == workspace.root.resolve():
        return "."
    path = inside(workspace.root, folder)
    check_name(path.rpartition("/")[2], "adapter")
    if not is_repository_path(path):
        raise FatalError(
            f"{path!r} cannot be written into a lock: it is not printable",
            hint="rename its folders, then again",
        )
    return path


def _check(folder: Path, path: str) -> AdapterConfig:
    """Everything that can be wrong with an adapter, found without reading its weights."""
    where = inside_folder(path, CONFIG)
    if not (folder / CONFIG).is_file() and not (folder / CONFIG).is_symlink():
        raise no_config(folder, path)
    _refuse_links(folder, path)
    config = parse_adapter_config((folder / CONFIG).read_bytes(), where)
    if not (folder / WEIGHTS).is_file():
        raise no_weights(folder, path)
    entries = read_header(folder / WEIGHTS, inside_folder(path, WEIGHTS))
    tensors = [Tensor(e.name, e.dtype, e.shape, "", 0.0) for e in entries]
    refuse_unloadable(tensors, inside_folder(path, WEIGHTS), typed(folder / WEIGHTS))
    check_ranks(config, tensors, where)
    beside.refuse_unkeepable(folder, path)
    if config.ignored is not None:
        say(f"warning: {path} {config.ignored}")
    return config


def _refuse_links(folder: Path, path: str) -> None:
    """git would keep the link, not the file. Weights that DVC linked to its cache are kept there."""
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_symlink() and not (name == WEIGHTS and is_cache_link(folder / name)):
            if not (folder / name).exists():
                raise dangling(folder / name, inside_folder(path, name))
            file = shlex.quote(typed(folder / name))
            raise FatalError(
                f"{inside_folder(path, name)} is a symbolic link; what it points to would not be kept",
                hint=f'cp --remove-destination "$(readlink -f {file})" {file}, then again',
            )


def _store(
    workspace: Workspace, folder: Path, path: str, config: AdapterConfig, *, has_stage: bool
) -> AddedAdapter:
    """`has_stage`: a stage's record names the weights, and no pointer may."""
    weights = folder / WEIGHTS
    as_it_was = weights.stat()
    where = inside_folder(path, WEIGHTS)
    found = workspace.store_weights(weights, where, path=where)
    md5 = found.md5
    workspace.remember_weights(workspace.dvc_of(where).object_path(md5), found)
    if _same_file(weights.stat(), as_it_was):
        workspace.remember_weights(weights, found)
    where = inside_folder(path, CONFIG)
    before = _manifest_before(folder, path)
    manifest = make_manifest(
        config,
        found.tensors,
        weights_md5=md5,
        weights_size=found.size,
        recipe=before.recipe if before is not None and before.weights_md5 == md5 else (),
        facts=_facts(workspace, folder, before if before and before.weights_md5 == md5 else None),
        where=where,
    )
    _warn_when_dead(path, found)
    if not has_stage:
        _ignore(folder / ".gitignore", f"/{WEIGHTS}")
        pointer = own_pointer(folder, path, md5, found.size)
        _write_if_changed(folder / f"{WEIGHTS}{POINTER_SUFFIX}", pointer)
    _write_if_changed(folder / MANIFEST, manifest.text().encode())
    change = "new" if before is None else "same" if before == manifest else "changed"
    return AddedAdapter(
        path, change, config.base_model, config.rank, len(manifest.modules), md5, found.size
    )


def _facts(workspace: Workspace, folder: Path, before: Manifest | None) -> list[tuple[str, str]]:
    """The files of now, and what else was known of the same weights."""
    kept = [fact for fact in before.facts if fact[0] != FILE] if before is not None else []
    return [*kept, *facts_of(beside.digests(workspace, folder).items())]


def _same_file(now: os.stat_result, then: os.stat_result) -> bool:
    return (now.st_mtime_ns, now.st_size, now.st_ino) == (
        then.st_mtime_ns,
        then.st_size,
        then.st_ino,
    )


def _manifest_before(folder: Path, path: str) -> Manifest | None:
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        return parse_manifest(file.read_bytes(), inside_folder(path, MANIFEST))
    except FatalError:
        # Adding an adapter is how a manifest that was damaged or left in conflict is mended.
        return None


def _warn_when_dead(path: str, found: Fingerprint) -> None:
    if not found.is_finite:
        bad = next(t.name for t in found.tensors if t.norm != t.norm or t.norm == float("inf"))
        say(f"warning: {path} holds values that are not finite, first in {bad}")
    elif found.is_zero:
        say(f"warning: {path} is all zero: a dead adapter, or one that was never trained")


def _ignore(path: Path, line: str) -> None:
    text = path.read_bytes() if path.is_file() else b""
    if line.encode() not in text.splitlines():
        gap = b"" if not text or text.endswith(b"\n") else b"\n"
        write_atomically(path, text + gap + line.encode() + b"\n")


def _write_if_changed(path: Path, data: bytes) -> None:
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)


def _files_to_stage(path: str, has_stage: bool) -> list[str]:
    pointer = () if has_stage else (f"{WEIGHTS}{POINTER_SUFFIX}", ".gitignore")
    return [inside_folder(path, name) for name in (CONFIG, MANIFEST, *pointer)]


def _say_unstaged(workspace: Workspace, locks: set[str]) -> None:
    """A commit without the `dvc.lock` that names the weights would have a manifest alone."""
    changed = workspace.git.paths("diff", "--name-only", "--", *sorted(locks)) if locks else []
    for lock in sorted(locks):
        if lock in changed or lock not in workspace.staged.entries:
            files = shlex.join([f"{lock.removesuffix('.lock')}.yaml", lock])
            say(f"note: {lock} names these weights: git add {files}, to commit it too")
