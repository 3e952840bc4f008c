"""One adapter laid out in a folder, for programs that know nothing of git or DVC.

What names an adapter is small, and can be sent anywhere; its weights come by digest from
the cache, and where they are missing from DVC's remote.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.digests import sha256_hex
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, parse_manifest
from soup_git.errors import FatalError
from soup_git.storage.dvcprojects import is_project
from soup_git.storage.resolver import Adapter
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Materials:
    """Enough to lay an adapter out: picklable, and without its weights."""

    name: str
    folder: str | None
    """A folder that a user named: used as it is, with whatever else it holds."""
    path: str
    config: bytes
    manifest: bytes
    weights_md5: str
    weights_size: int
    files: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    """The files beside the weights that belong to the adapter."""


def materials(adapter: Adapter) -> Materials:
    return Materials(
        name=adapter.spec,
        folder=str(Path(adapter.path).resolve()) if adapter.commit is None else None,
        path=adapter.path,
        config=adapter.config_data,
        manifest=adapter.manifest.text().encode(),
        weights_md5=adapter.manifest.weights_md5,
        weights_size=adapter.manifest.weights_size,
        files={name: adapter.read_file(name) for name in adapter.files}
        if adapter.commit is not None and adapter.read_file is not None
        else {},
    )


def bring(workspace: Workspace, needed: Materials) -> None:
    """Have the weights here: in the cache, the work tree, or by DVC from its remote."""
    if needed.folder is not None:
        if not Path(needed.folder, CONFIG).is_file():
            raise FatalError(
                f"{needed.name}: {needed.folder} is not here",
                hint="git soup add it and commit, then name the revision: git soup fetches those",
            )
        return
    dvc, md5 = workspace.dvc, needed.weights_md5
    if workspace.local_weights(md5, needed.path) is None and dvc.config.default_remote:
        workspace.dvc_remote.fetch([md5])
    if workspace.local_weights(md5, needed.path) is None:
        raise FatalError(
            f"{needed.name}: md5:{md5} is not in the DVC cache, nor in a remote",
            hint="dvc push in the clone that has it, then the same command",
        )
    if dvc.has(md5) and not workspace.object_is_sound(md5):
        raise dvc.corrupt(md5, "its bytes are others")


def brought(workspace: Workspace, needed: Materials) -> Adapter:
    """The adapter itself, its weights brought here. Raises FatalError where they are others."""
    bring(workspace, needed)
    if needed.folder is not None:
        found = workspace.adapter_in_folder(Path(needed.folder), needed.name)
        if found.manifest.weights_md5 != needed.weights_md5:
            raise FatalError(
                f"{needed.name} has other weights here (md5:{found.manifest.weights_md5})",
                hint="git soup add it and commit, then name the revision",
            )
        return found
    return Adapter(
        spec=needed.name,
        origin=needed.path,
        path=needed.path,
        commit=None,
        config_data=needed.config,
        config=parse_adapter_config(needed.config, f"{needed.name}/{CONFIG}"),
        manifest=parse_manifest(needed.manifest, f"{needed.name}/{MANIFEST}"),
        weights=workspace.local_weights(needed.weights_md5, needed.path),
        files={name: sha256_hex(data) for name, data in needed.files.items()},
        read_file=needed.files.__getitem__,
    )


def workspace_of_worker(root: str) -> Workspace:
    """Where a worker has its objects: the clone that it was started in, else the caller's."""
    here = Path.cwd()
    return Workspace.open(here if is_project(here) else Path(root))


@contextlib.contextmanager
def laid_out(workspace: Workspace, needed: Materials, parent: Path) -> Iterator[Path]:
    """A folder that holds the adapter while the block lasts; `bring` was called before."""
    if needed.folder is not None:
        yield Path(needed.folder)
        return
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=parent))
    try:
        (folder / CONFIG).write_bytes(needed.config)
        (folder / MANIFEST).write_bytes(needed.manifest)
        for name, data in needed.files.items():
            (folder / name).write_bytes(data)
        if workspace.dvc.has(needed.weights_md5):
            workspace.dvc.restore_file(needed.weights_md5, folder / WEIGHTS)
        else:
            shutil.copyfile(workspace.root / needed.path / WEIGHTS, folder / WEIGHTS)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
