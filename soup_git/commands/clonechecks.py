"""How this clone is, for `git soup doctor`: the cache, the remote, and what kills left behind.

Nothing is contacted: of a remote on a network, only what is needed to reach it is looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from soup_git.core.checkup import Check
from soup_git.core.text import counted
from soup_git.errors import FatalError
from soup_git.render.report import age
from soup_git.storage.files import reflink, temporary_in
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.runevidence import FAILED
from soup_git.storage.workspace import Workspace

# git's own commands hold a lock for milliseconds; a long rebase for seconds.
_LOCK_SECONDS = 60
_SCRATCH_SECONDS = 86_400
PLUGINS = {
    "s3": "dvc-s3", "gs": "dvc-gs", "azure": "dvc-azure", "ssh": "dvc-ssh", "oss": "dvc-oss",
    "hdfs": "dvc-hdfs", "webhdfs": "dvc-webhdfs", "gdrive": "dvc-gdrive",
    "webdav": "dvc-webdav", "webdavs": "dvc-webdav",
}  # fmt: skip
"""Scheme of a remote's URL -> the package that lets DVC reach it."""


def checks(workspace: Workspace) -> Iterator[Check]:
    yield _cache(workspace)
    yield _remote(workspace)
    yield left_locks(workspace.git)
    yield _left_scratch(workspace)


def _cache(workspace: Workspace) -> Check:
    place = workspace.dvc.cache_dir
    kinds = workspace.dvc.config.section("cache").get("type", "")
    if not place.exists():
        return Check("workspace", "cache", "ok", f"none yet at {place}")
    if not os.access(place, os.W_OK):
        return Check(
            "workspace", "cache", "problem", f"{place} cannot be written",
            "no adapter can be added, and none trained", f"ls -ld {place}",
        )  # fmt: skip
    if any(kind in kinds for kind in ("hardlink", "symlink")):
        return Check(
            "workspace", "cache", "warning", f"{place}, cache.type {kinds}",
            "a program that rewrites a file in place damages the object behind the link",
            "dvc config cache.type reflink,copy",
        )  # fmt: skip
    if place.stat().st_dev != workspace.root.stat().st_dev:
        return Check(
            "workspace", "cache", "ok", f"{place}, on another file system",
            "every checkout copies the weights",
        )  # fmt: skip
    way = (
        "reflinks: a checkout takes no space"
        if _can_reflink(place)
        else "copies (no reflinks here)"
    )
    return Check("workspace", "cache", "ok", f"{place}, {way}")


def _can_reflink(place: Path) -> bool:
    with temporary_in(place) as source, temporary_in(place) as target:
        source.write_bytes(b"soup")
        return reflink(source, target)


def _remote(workspace: Workspace) -> Check:
    name = workspace.dvc.config.default_remote
    if name is None:
        return Check(
            "workspace", "DVC remote", "warning", "none",
            "nobody else can get the weights and data that are committed here",
            "dvc remote add -d NAME URL",
        )  # fmt: skip
    try:
        url = workspace.dvc.config.remote_section(name).get("url", "")
    except FatalError as error:
        return Check("workspace", "DVC remote", "problem", name, str(error), error.hint)
    if "://" not in url:
        return _folder(name, Path(url))
    # Of the URL only the scheme is shown: the rest may hold a password.
    scheme = urlsplit(url).scheme
    plugin = PLUGINS.get(scheme)
    if plugin is not None and not _is_installed(plugin):
        return Check(
            "workspace", "DVC remote", "problem", f"{name} ({scheme}://…)",
            f"DVC reaches it through {plugin}, which is not installed", f"pip install {plugin}",
        )  # fmt: skip
    return Check("workspace", "DVC remote", "ok", f"{name} ({scheme}://…), not contacted")


def _folder(name: str, folder: Path) -> Check:
    if not folder.is_dir():
        # DVC makes the folder, if it may, with the first push.
        parent = next((p for p in folder.parents if p.is_dir()), folder)
        state = "ok" if os.access(parent, os.W_OK) else "problem"
        return Check(
            "workspace", "DVC remote", "warning" if state == "ok" else "problem",
            f"{name}, {folder} is not there", "it was never pushed to, or its disk is not mounted",
            "git soup push, or mount it",
        )  # fmt: skip
    if not os.access(folder, os.W_OK):
        return Check(
            "workspace", "DVC remote", "warning", f"{name}, {folder} cannot be written",
            "git soup pull works, git soup push does not", f"ls -ld {folder}",
        )  # fmt: skip
    return Check("workspace", "DVC remote", "ok", f"{name}, {folder}")


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def left_locks(git: GitRepo) -> Check:
    """Lock files that a killed git left: every later one would refuse to work."""
    places = {git.git_dir, git.common_dir}
    found = [lock for place in places for lock in place.glob("*.lock")]
    found += list((git.common_dir / "refs").rglob("*.lock"))
    old = sorted(p for p in found if _age(p) > _LOCK_SECONDS)
    if not old:
        return Check("workspace", "lock files", "ok", "none left behind")
    return Check(
        "workspace", "lock files", "problem",
        f"{counted(len(old), 'lock file')} of git: {old[0]}, {age(_age(old[0]))} old",
        "a git that was killed left it, and every other one waits for it",
        f"rm {' '.join(map(str, old))}, when no git runs here",
    )  # fmt: skip


def _left_scratch(workspace: Workspace) -> Check:
    place = workspace.git.common_dir / "soup"
    left = sorted(
        folder
        for pattern in ("profile-*", "exchange-*")
        for folder in place.glob(pattern)
        if _age(folder) > _SCRATCH_SECONDS
    )
    if left:
        return Check(
            "workspace", "scratch folders", "warning", f"{counted(len(left), 'folder')}: {left[0]}",
            "a command that was killed left them; they only take space",
            f"rm -r {' '.join(map(str, left))}",
        )  # fmt: skip
    states = [*place.glob("training/*/checkpoint-*"), *place.glob(f"training/*/{FAILED}")]
    stopped = {path.parent for path in states}
    if stopped:
        return Check(
            "workspace", "scratch folders", "warning",
            f"{counted(len(stopped), 'training')} that did not end",
            "what it saved waits to be resumed",
            "git soup train goes on, git soup train --restart begins anew; git soup why tells more",
        )  # fmt: skip
    return Check("workspace", "scratch folders", "ok", "none left behind")


def _age(path: Path) -> float:
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0  # gone in this moment
