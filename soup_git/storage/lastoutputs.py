"""What a stage made the last time, brought back where a new attempt made nothing.

DVC removes a stage's outputs before it starts the stage: a typo in a config costs the adapter that was
there, until somebody knows which command brings it back.
"""

from __future__ import annotations

from soup_git.core.digests import md5_hex
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import Output, parse_dvc_lock
from soup_git.storage.dvcobjects import output_target
from soup_git.storage.files import write_atomically
from soup_git.storage.snapshot import DVC_LOCK
from soup_git.storage.workspace import Workspace


def bring_back(workspace: Workspace, stage: str) -> list[str]:
    """Restore the outputs that `dvc.lock` records for `stage` and that are gone; return their paths.

    Bytes come from the DVC cache, or from git where git holds the file; what neither has with
    the digest that `dvc.lock` names is left out.
    """
    data = workspace.work_tree_bytes(DVC_LOCK)
    try:
        recorded = parse_dvc_lock(data, DVC_LOCK).get(stage, []) if data is not None else []
    except FatalError:
        return []  # a lock in conflict: whoever reads it next says so
    return [output.path for output in recorded if _brought_back(workspace, output)]


def _brought_back(workspace: Workspace, output: Output) -> bool:
    target = output_target(workspace.root, output.path)
    if target.exists() or target.is_symlink() or output.is_folder:
        return False
    if workspace.object_is_sound(output.md5):
        workspace.restore(output.md5, target)
        return True
    kept = workspace.staged.read(output.path) if output.path in workspace.staged.entries else None
    if kept is None or md5_hex(kept) != output.md5:
        return False
    write_atomically(target, kept)
    return True
