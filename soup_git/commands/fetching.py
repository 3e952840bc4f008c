"""Objects that the cache lacks, from the DVC remote: for whoever is about to need their bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from soup_git.core.text import counted
from soup_git.errors import FatalError
from soup_git.render.report import say
from soup_git.storage.resolver import Adapter
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Fetched:
    came: int
    missing: list[str]
    """What is still not in the cache."""
    damaged: dict[str, list[str]]
    """Of what was asked for, the objects that the remote has with other bytes: not taken."""


def fetch_missing(workspace: Workspace, md5s: Iterable[str]) -> Fetched:
    """Get those of `md5s` that the cache lacks; a remote that fails is a warning, not an error."""
    missing = [md5 for md5 in sorted(set(md5s)) if not workspace.dvc.has(md5)]
    name = workspace.dvc_remote.name
    if not missing or name is None:
        return Fetched(0, missing, {})
    say(f"fetching {counted(len(missing), 'object')} from the DVC remote {name}")
    try:
        workspace.dvc_remote.fetch(missing)
    except FatalError as error:
        # What is still missing afterwards is named with its path, which says more.
        say(f"warning: {error}")
    found = {md5: workspace.damaged_objects(md5) for md5 in missing}
    damaged = {md5: bad for md5, bad in found.items() if bad}
    for bad in {bad for objects in damaged.values() for bad in objects}:
        workspace.dvc.object_path(bad).unlink()
    still = [md5 for md5 in missing if not workspace.dvc.has(md5)]
    workspace.dvc_remote.remember(set(missing).difference(still))
    return Fetched(len(missing) - len(still), still, damaged)


def with_weights(workspace: Workspace, adapters: Sequence[Adapter]) -> list[Adapter]:
    """The same adapters, after an attempt to bring the weights that are not here yet."""
    away = [adapter.manifest.weights_md5 for adapter in adapters if adapter.weights is None]
    if not away:
        return list(adapters)
    fetch_missing(workspace, away)
    return [
        replace(a, weights=a.weights or workspace.local_weights(a.manifest.weights_md5, a.path))
        for a in adapters
    ]
