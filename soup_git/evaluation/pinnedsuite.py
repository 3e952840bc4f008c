"""A suite as a revision has it, whatever lies in the work tree now."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterator
from pathlib import Path

from soup_git.core import yamllines
from soup_git.errors import FatalError
from soup_git.evaluation.suite import Suite, load_suite
from soup_git.storage.files import target_inside, write_atomically
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

_FILES = ("prompts", "schema_file", "include_path")


def suite_at(workspace: Workspace, snapshot: Snapshot, path: str) -> Suite | None:
    """The suite at `path` with its rows, read from the revision; None where it has none there.

    Nothing of it runs. Raises FatalError for a suite that cannot be read, or whose rows are
    neither in git nor in the DVC cache.
    """
    if path not in snapshot.entries:
        return None
    with tempfile.TemporaryDirectory(prefix="soup-suite-") as folder:
        root = Path(folder)
        text = snapshot.require(path)
        write_atomically(target_inside(root, path), text)
        for name in _named(text):
            for place in (posixpath.dirname(path), ""):
                _lay_out(workspace, snapshot, posixpath.normpath(posixpath.join(place, name)), root)
        return load_suite(target_inside(root, path), root, path)


def _named(text: bytes) -> Iterator[str]:
    """The files that a suite names; what is wrong with it is said when it is loaded."""
    body, _, _ = yamllines.read(text.decode("utf-8-sig", "replace"))
    tasks = body.get("tasks") if isinstance(body, dict) else None
    for task in tasks if isinstance(tasks, list) else []:
        if isinstance(task, dict):
            yield from (task[key] for key in _FILES if isinstance(task.get(key), str))


def _lay_out(workspace: Workspace, snapshot: Snapshot, path: str, root: Path) -> None:
    """Bring a file or folder of the revision below `root`, where it has one there."""
    inside = [p for p in snapshot.entries if p == path or p.startswith(f"{path}/")]
    for name, data in zip(inside, snapshot.read_all(inside), strict=True):
        if data is not None:
            write_atomically(target_inside(root, name), data)
    output = snapshot.outputs.get(path)
    if output is None or inside:
        return
    if not workspace.object_is_sound(output.md5):
        raise FatalError(f"{path} is not in the DVC cache", hint="git soup pull --all")
    workspace.dvc.restore_file(output.md5, target_inside(root, path))
