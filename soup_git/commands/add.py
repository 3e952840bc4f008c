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
from soup_git.core.lock import is_repository_path
from soup_git.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    Tensor,
    check_ranks,
    make_manifest,
    parse_manifest,
)
from soup_git.core.names import check_name
from soup_git.errors import FatalError
from soup_git.render.report import Table, say, size
from soup_git.storage.dvcfiles import POINTER_SUFFIX, pointer_text
from soup_git.storage.files import inside, write_atomically
from soup_git.storage.manifests import ManifestIndex
from soup_git.storage.resolver import no_weights
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
    configs = [_check(workspace, folder, path) for folder, path in named]
    added = [
        _store(workspace, folder, path, config)
        for (folder, path), config in zip(named, configs, strict=True)
    ]
    stage = [file for adapter in added for file in _files_to_stage(adapter.path)]
    workspace.git.index.stage(*stage)
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


def _check(workspace: Workspace, folder: Path, path: str) -> AdapterConfig:
    """Everything that can be wrong with an adapter, found without reading its weights."""
    where = inside_folder(path, CONFIG)
    if not (folder / CONFIG).is_file():
        raise FatalError(
            f"{path} has no {CONFIG}: no adapter",
            hint=f"ls {path}; an adapter is what PEFT's model.save_pretrained(DIR) writes",
        )
    _refuse_links(folder, path)
    config = parse_adapter_config((folder / CONFIG).read_bytes(), where)
    if not (folder / WEIGHTS).is_file():
        raise no_weights(folder, path)
    entries = read_header(folder / WEIGHTS, inside_folder(path, WEIGHTS))
    check_ranks(config, (Tensor(e.name, e.dtype, e.shape, "", 0.0) for e in entries), where)
    _refuse_what_others_track(workspace, path)
    return config


def _refuse_links(folder: Path, path: str) -> None:
    """git would keep the link, not the file; and nothing is restored through one."""
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_symlink():
            file = shlex.quote(inside_folder(path, name))
            raise FatalError(
                f"{inside_folder(path, name)} is a symbolic link; what it points to would not be kept",
                hint=f'cp --remove-destination "$(readlink -f {file})" {file}, then again',
            )


def _refuse_what_others_track(workspace: Workspace, path: str) -> None:
    weights = inside_folder(path, WEIGHTS)
    output = workspace.work_tree.outputs.get(weights)
    if output is not None and not output.source.endswith(f"{WEIGHTS}{POINTER_SUFFIX}"):
        raise FatalError(
            f"{path} is the output of a stage in {output.source}; the stage writes its manifest",
            hint="dvc repro, or dvc commit to record a change made by hand",
        )
    whole = [p for p in workspace.work_tree.outputs if weights.startswith(f"{p}/")]
    if whole:
        source = workspace.work_tree.outputs[whole[0]].source
        raise FatalError(
            f"{path} lies in {whole[0]}, which DVC tracks as a whole ({source})",
            hint=f"dvc remove {source}, then git soup add each adapter in it",
        )
    if weights in workspace.staged.entries:
        raise FatalError(
            f"git itself tracks {weights}; weights belong in the DVC cache",
            hint=f"git rm --cached {weights}, then again",
        )


def _store(workspace: Workspace, folder: Path, path: str, config: AdapterConfig) -> AddedAdapter:
    weights = folder / WEIGHTS
    as_it_was = weights.stat()
    found = workspace.store_weights(weights, inside_folder(path, WEIGHTS))
    md5 = found.md5
    workspace.remember_weights(workspace.dvc.object_path(md5), found)
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
        where=where,
    )
    _warn_when_dead(path, found)
    _ignore(folder / ".gitignore", f"/{WEIGHTS}")
    _write_if_changed(folder / f"{WEIGHTS}{POINTER_SUFFIX}", pointer_text(WEIGHTS, md5, found.size))
    _write_if_changed(folder / MANIFEST, manifest.text())
    change = "new" if before is None else "same" if before == manifest else "changed"
    return AddedAdapter(
        path, change, config.base_model, config.rank, len(manifest.modules), md5, found.size
    )


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


def _write_if_changed(path: Path, text: str) -> None:
    data = text.encode()
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)


def _files_to_stage(path: str) -> list[str]:
    names = (CONFIG, MANIFEST, f"{WEIGHTS}{POINTER_SUFFIX}", ".gitignore")
    return [inside_folder(path, name) for name in names]
