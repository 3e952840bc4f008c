"""What the pre-commit hooks check: the staged lock, and that staged manifests name kept bytes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.beside import NAMES
from soup_git.core.lock import LOCK, parse_lock
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, agrees, parse_manifest
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import DriftError, ExitCode, FatalError
from soup_git.storage.dvcprojects import has_project
from soup_git.storage.gitrepo import GitRepo

if TYPE_CHECKING:
    from soup_git.commands.lock import PinCheck
    from soup_git.storage.workspace import Workspace


# Each of them says something about the same weights: one that changes alone is a mistake.
_OF_ADAPTER = {MANIFEST, CONFIG, f"{WEIGHTS}.dvc", *NAMES}


def check_staged() -> int:
    """Refuse a commit whose lock drifted, or whose manifests name bytes that nobody has."""
    git = GitRepo.discover(Path.cwd())
    if not has_project(git):
        return ExitCode.OK
    staged = git.paths("diff", "--cached", "--name-only", "--no-renames", "--")
    adapters = sorted({p.rpartition("/")[0] for p in staged if p.rpartition("/")[2] in _OF_ADAPTER})
    if not adapters and not _touches_lock(git, staged):
        return ExitCode.OK
    from soup_git.storage.snapshot import inside_folder
    from soup_git.storage.workspace import Workspace

    workspace = Workspace(git)
    for folder in adapters:
        path = inside_folder(folder or ".", MANIFEST)
        if path in workspace.staged.entries:
            _check_adapter(workspace, path)
    return _check_lock(workspace, staged)


def _touches_lock(git: GitRepo, staged: list[str]) -> bool:
    """Whether anything staged is what the staged lock pins."""
    data = git.blob(f":{LOCK}") if staged else None
    if data is None:
        return False
    lock = parse_lock(data, LOCK)
    inputs = [path for path in (lock.dataset_path, *lock.inputs) if path is not None]
    pinned = {LOCK, lock.config_path or CONFIG_FILE, *inputs, *(f"{path}.dvc" for path in inputs)}
    below = tuple(f"{path}/" for path in inputs)
    return any(path in pinned or path.startswith(below) for path in staged)


def _check_lock(workspace: Workspace, staged: list[str]) -> int:
    from soup_git.commands.lock import Overrides, check
    from soup_git.render.report import say

    if not _touches_lock(workspace.git, staged):
        return ExitCode.OK
    report, code = check(workspace, Overrides(), staged=True)
    for pin in report.pins:
        if pin.state in {"drifted", "differs"}:
            say(pin.line())
    if code != ExitCode.DRIFT:
        return ExitCode.OK
    raise DriftError(
        "what is staged does not match soup.lock; nothing was committed",
        hint=_how_to_agree(workspace, report.pins),
    )


def _how_to_agree(workspace: Workspace, pins: Sequence[PinCheck]) -> str:
    """What to stage, where the work tree has what the lock pins; else how to accept."""
    left = [
        pin.source
        for pin in pins
        if pin.state == "drifted" and pin.actual is None and pin.source is not None
    ]
    here = [path for path in left if (workspace.root / path).exists()]
    if here:
        return (
            f"git add {' '.join(map(shlex.quote, here))}, then commit again (large data: dvc add)"
        )
    return (
        "git soup lock write && git add soup.lock to accept it; git commit --no-verify to skip this"
    )


def _check_adapter(workspace: Workspace, path: str) -> None:
    from soup_git.storage.beside import refuse_other_files

    snapshot = workspace.staged
    folder = path.rpartition("/")[0] or "."
    manifest = snapshot.manifest(folder)
    pointer = snapshot.weights(folder)
    if pointer is None or pointer.md5 != manifest.weights_md5:
        named = f"{pointer.source} names md5:{pointer.md5}" if pointer else "no staged pointer does"
        raise FatalError(
            f"{path} names weights md5:{manifest.weights_md5}, but {named}",
            hint=f"git soup add {folder}, then commit again",
        )
    if not workspace.dvc.has(manifest.weights_md5) and not _was_there(workspace, path):
        raise FatalError(
            f"the weights of {folder} (md5:{manifest.weights_md5}) are not in the DVC cache",
            hint=f"git soup add {folder}, or dvc fetch, then commit again",
        )
    config = snapshot.require(path.removesuffix(MANIFEST) + CONFIG)
    check_manifest(path, snapshot.require(path), config)
    refuse_other_files(workspace, snapshot, folder, manifest)


def _was_there(workspace: Workspace, path: str) -> bool:
    """Whether HEAD already has this manifest: it came from elsewhere, and so did its bytes."""
    return bool(workspace.git.blob(f"HEAD:{path}") == workspace.staged.read(path))


def check_manifest(where: str, data: bytes, config_data: bytes) -> None:
    """Raise unless a manifest parses and its header is what its config gives."""
    manifest = parse_manifest(data, where)
    config = parse_adapter_config(config_data, where.removesuffix(MANIFEST) + CONFIG)
    folder = where.rpartition(":")[2].rpartition("/")[0] or "."
    how = f"git soup add {folder}"
    # A merge that stopped leaves the config of one side beside the weights of the other.
    way_back = f"git checkout HEAD -- {folder} takes back all of it (in a merge MERGE_HEAD: theirs)"
    try:
        fits = agrees(manifest, config, where.removesuffix(MANIFEST) + CONFIG)
    except FatalError as error:
        raise FatalError(
            f"{where}: {error}", hint=f"{how}, where both are right; {way_back}"
        ) from None
    if not fits:
        raise FatalError(
            f"{where}: its header is not what {CONFIG} gives: one of them was edited by hand",
            hint=f"{how}, where the config is right; {way_back}",
        )
