"""What DVC holds, brought into the work tree: planned first, executed second.

A plan replaces a file only when its bytes are kept elsewhere (in the cache under their
digest), so nothing a user made is ever lost to a checkout, a merge or a hook.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import Output
from soup_git.storage.dvcobjects import output_target, walk
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Plan:
    """What has to happen to the files that DVC holds."""

    restore: tuple[Output, ...]
    """Without those of `local_changes`, where a caller goes on in spite of them."""
    remove: tuple[str, ...]
    unchanged: tuple[str, ...]
    local_changes: tuple[str, ...]
    """Files whose bytes are nowhere else; a plan with any is refused."""
    given_up: tuple[str, ...] = ()
    """Such files, where the user said so."""
    save: tuple[str, ...] = ()
    """Files that are versioned and not in the cache (a fresh clone's): put there first."""


def plan_restore(
    workspace: Workspace,
    wanted: Mapping[str, Output],
    current: Mapping[str, Output],
    *,
    in_git: Callable[[str], bool] = lambda _: False,
    force: bool = False,
) -> Plan:
    """How to get from the outputs that `current` names to those that `wanted` names.

    `in_git(path)` says whether git has the bytes that lie there; `force` gives up local
    changes.
    """
    restore, unchanged, remove, save = [], [], [], []
    local: list[str] = []
    given_up: list[str] = []
    for path, output in sorted(wanted.items()):
        target = output_target(workspace.root, path)
        md5 = workspace.output_md5(target, output.md5, of_dvc2=output.of_dvc2)
        held = in_git(path)
        # git takes away a file that it holds here and not there, whatever its bytes.
        if md5 == output.md5 and not held:
            unchanged.append(path)
            continue
        is_kept = md5 is None or _is_kept(workspace, target, md5)
        # Only under its own digest can the cache take it: DVC 2's name of text may be another.
        digest = workspace.path_md5(target)
        is_versioned = digest is not None and digest in _named(path, wanted, current)
        if is_versioned and not is_kept:
            save.append(path)
        elif not is_kept and not held:
            (given_up if force else local).append(path)
        restore.append(output)
    for path in sorted(set(current) - set(wanted)):
        target, named = output_target(workspace.root, path), current[path].md5
        if workspace.output_md5(target, named) == named:
            remove.append(path)
            if not workspace.object_is_sound(named):
                save.append(path)
    return Plan(
        restore=tuple(output for output in restore if output.path not in local),
        remove=tuple(remove),
        unchanged=tuple(unchanged),
        local_changes=tuple(local),
        given_up=tuple(given_up),
        save=tuple(save),
    )


def _named(path: str, *outputs: Mapping[str, Output]) -> set[str]:
    return {named[path].md5 for named in outputs if path in named}


def _is_kept(workspace: Workspace, target: Path, md5: str) -> bool:
    if workspace.object_is_sound(md5):
        return True
    # A folder whose restoring was cut short is no object, but every file of it is.
    return target.is_dir() and all(
        workspace.object_is_sound(workspace.md5(file)) for file in walk(target)
    )


def keep(workspace: Workspace, plan: Plan) -> None:
    """Put into the cache what the plan replaces and only the work tree has: objects first."""
    for path in plan.save:
        target = output_target(workspace.root, path)
        dvc = workspace.dvc_of(path)
        store = dvc.store_folder if target.is_dir() else dvc.store_file
        store(target)


def execute(workspace: Workspace, plan: Plan) -> None:
    """Restore and remove as planned; the objects are in the cache and were checked."""
    for dvc in {id(d): d for d in map(workspace.dvc_of, [o.path for o in plan.restore])}.values():
        dvc.share_cache()
    for output in plan.restore:
        restore_output(workspace, output)
    for path in plan.remove:
        target = output_target(workspace.root, path)
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        _remove_empty_parents(workspace.root, target)


def restore_output(workspace: Workspace, output: Output) -> None:
    """Give a path the bytes its pointer names; they are in the cache."""
    target = output_target(workspace.root, output.path)
    if not output.is_folder:
        if target.is_dir():
            shutil.rmtree(target)
        workspace.restore(output.md5, target)
        return
    workspace.dvc_of(output.path).adopt(output.md5)
    files = workspace.dvc.folder_files(output.md5)
    if target.is_file():
        target.unlink()
    for path, md5 in files.items():
        inner = output_target(workspace.root, f"{output.path}/{path}")
        if workspace.path_md5(inner) != md5:
            workspace.restore(md5, inner)
    # What DVC does not see (a nested repository) is not the dataset's, and stays.
    for extra in [
        file for file in walk(target) if file.relative_to(target).as_posix() not in files
    ]:
        extra.unlink()


def _remove_empty_parents(root: Path, path: Path) -> None:
    parent = path.parent
    while parent != root and parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()
        parent = parent.parent


def local_changes_error(paths: Iterable[str]) -> FatalError:
    listed = "".join(f"\n  {path}" for path in paths)
    return FatalError(
        f"local changes would be overwritten, and their bytes are nowhere else:{listed}",
        hint="git soup add the adapter, or dvc add the data, to keep them; --force gives them up",
    )
