"""What the pre-commit hooks check: the staged lock, and that staged manifests name kept bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.lock import LOCK, parse_lock
from soup_git.core.manifest import CONFIG, MANIFEST, make_manifest, parse_manifest
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import DriftError, ExitCode, FatalError
from soup_git.storage.gitrepo import GitRepo

if TYPE_CHECKING:
    from soup_git.storage.workspace import Workspace


def check_staged() -> int:
    """Refuse a commit whose lock drifted, or whose manifests name bytes that nobody has."""
    git = GitRepo.discover(Path.cwd())
    if not (git.root / ".dvc" / "config").is_file():
        return ExitCode.OK
    staged = git.lines("diff", "--cached", "--name-only", "--diff-filter=d", "--")
    manifests = [path for path in staged if path.rpartition("/")[2] == MANIFEST]
    if not manifests and not _touches_lock(git, staged):
        return ExitCode.OK
    from soup_git.storage.workspace import Workspace

    workspace = Workspace(git)
    for path in manifests:
        _check_adapter(workspace, path)
    return _check_lock(workspace, staged)


def _touches_lock(git: GitRepo, staged: list[str]) -> bool:
    """Whether anything staged is what the staged lock pins."""
    data = git.blob(f":{LOCK}") if staged else None
    if data is None:
        return False
    lock = parse_lock(data, LOCK)
    pinned = {LOCK, lock.config_path or CONFIG_FILE, lock.dataset_path, f"{lock.dataset_path}.dvc"}
    below = f"{lock.dataset_path}/"
    return any(path in pinned or path.startswith(below) for path in staged)


def _check_lock(workspace: Workspace, staged: list[str]) -> int:
    from soup_git.commands.lock import Overrides, check
    from soup_git.render.report import say

    if not _touches_lock(workspace.git, staged):
        return ExitCode.OK
    report, code = check(workspace, Overrides(), staged=True)
    if code != ExitCode.DRIFT:
        return ExitCode.OK
    for pin in report.pins:
        if pin.state == "drifted":
            say(pin.line())
    raise DriftError(
        "what is staged does not match soup.lock; nothing was committed",
        hint="git soup lock write && git add soup.lock to accept it; git commit --no-verify to skip this",
    )


def _check_adapter(workspace: Workspace, path: str) -> None:
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


def _was_there(workspace: Workspace, path: str) -> bool:
    """Whether HEAD already has this manifest: it came from elsewhere, and so did its bytes."""
    return bool(workspace.git.blob(f"HEAD:{path}") == workspace.staged.read(path))


def check_manifest(where: str, data: bytes, config_data: bytes) -> None:
    """Raise unless a manifest parses and its header is what its config gives."""
    manifest = parse_manifest(data, where)
    config = parse_adapter_config(config_data, where.removesuffix(MANIFEST) + CONFIG)
    expected = make_manifest(
        config,
        manifest.tensors,
        weights_md5=manifest.weights_md5,
        weights_size=manifest.weights_size,
        recipe=manifest.recipe,
        where=where,
    )
    if expected != manifest:
        raise FatalError(
            f"{where}: its header is not what {CONFIG} gives: one of them was edited by hand",
            hint=f"git soup add {where.rpartition('/')[0] or '.'}",
        )
