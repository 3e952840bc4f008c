"""What DVC holds, brought into the work tree: planned first, executed second.

A plan replaces a file only when its bytes are kept elsewhere (in the cache under their
digest), so nothing a user made is ever lost to a checkout, a merge or a hook.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from soup_git.errors import FatalError
from soup_git.storage.dvcrepo import Output
from soup_git.storage.files import target_inside
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Plan:
    """What has to happen to the files that DVC holds."""

    restore: tuple[Output, ...]
    remove: tuple[str, ...]
    unchanged: tuple[str, ...]
    local_changes: tuple[str, ...]
    """Files whose bytes are nowhere else; a plan with any is refused."""


def plan_restore(
    workspace: Workspace,
    wanted: Mapping[str, Output],
    current: Mapping[str, Output],
    *,
    force: bool = False,
) -> Plan:
    """How to get from the outputs that `current` names to those that `wanted` names.

    `force` gives up local changes.
    """
    restore, unchanged, local, remove = [], [], [], []
    for path, output in sorted(wanted.items()):
        target = target_inside(workspace.root, path)
        md5 = workspace.path_md5(target)
        if md5 == output.md5:
            unchanged.append(path)
        elif force or md5 is None or _is_kept(workspace, target, md5):
            restore.append(output)
        else:
            local.append(path)
    for path in sorted(set(current) - set(wanted)):
        target = target_inside(workspace.root, path)
        md5 = workspace.path_md5(target)
        if md5 is not None and md5 == current[path].md5 and workspace.dvc.has(md5):
            remove.append(path)
    return Plan(tuple(restore), tuple(remove), tuple(unchanged), tuple(local))


def _is_kept(workspace: Workspace, target: Path, md5: str) -> bool:
    if workspace.dvc.has(md5):
        return True
    return target.is_dir() and not any(target.iterdir())


def execute(workspace: Workspace, plan: Plan) -> None:
    """Restore and remove as planned; the objects are in the cache and were checked."""
    for output in plan.restore:
        restore_output(workspace, output)
    for path in plan.remove:
        target = target_inside(workspace.root, path)
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        _remove_empty_parents(workspace.root, target)


def restore_output(workspace: Workspace, output: Output) -> None:
    """Give a path the bytes its pointer names; they are in the cache."""
    target = target_inside(workspace.root, output.path)
    if not output.is_folder:
        if target.is_dir():
            shutil.rmtree(target)
        workspace.dvc.restore_file(output.md5, target)
        workspace.remember_md5(target, output.md5)
        return
    files = workspace.dvc.folder_files(output.md5)
    if target.is_file():
        target.unlink()
    for path, md5 in files.items():
        inner = target_inside(workspace.root, f"{output.path}/{path}")
        if workspace.path_md5(inner) != md5:
            workspace.dvc.restore_file(md5, inner)
            workspace.remember_md5(inner, md5)
    for extra in set(_files_below(target)) - set(files):
        (target / extra).unlink()


def _files_below(folder: Path) -> Iterable[str]:
    return (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _remove_empty_parents(root: Path, path: Path) -> None:
    parent = path.parent
    while parent != root and parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()
        parent = parent.parent


def local_changes_error(paths: Iterable[str]) -> FatalError:
    listed = "".join(f"\n  {path}" for path in paths)
    return FatalError(
        f"local changes would be overwritten, and their bytes are nowhere else:{listed}",
        hint="git soup add the adapter (or dvc add the data) to keep them, --force to drop them",
    )
