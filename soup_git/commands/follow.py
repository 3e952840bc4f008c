"""After git itself moved HEAD: bring along what DVC holds, where nothing can be lost.

Called by the post-checkout, post-merge and post-rewrite hooks; a move that touches no
pointer costs one `git diff`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.errors import FatalError
from soup_git.storage.dvcprojects import has_project
from soup_git.storage.gitrepo import GitRepo

if TYPE_CHECKING:
    from soup_git.storage.workspace import Workspace


def follow_move(old: str, new: str, *, via: str | None = None, merged: bool = False) -> int:
    """Follow HEAD from `old` to `new`. Never stands in the way of git: what it cannot do it says.

    `via` is a commit that the work tree followed in between: a rebase checks out what it is
    onto, and ends with no checkout. `merged` also names the adapters that the move brought and that no training made.
    """
    git = GitRepo.discover(Path.cwd())
    if not has_project(git):
        return 0
    # A new work tree or clone comes from nowhere; a first merge has no ORIG_HEAD.
    before = git.resolve(old)
    between = git.resolve(via) if via else None
    if before and not any(
        git.paths("diff", "--name-only", commit, new, "--", "*.dvc", "*dvc.lock")
        for commit in (before, between)
        if commit
    ):
        return 0
    from soup_git.commands.checkout import follow
    from soup_git.render.report import say
    from soup_git.storage.workspace import Workspace

    workspace = Workspace(git)
    try:
        follow(workspace, before, new, via=between)
        if merged:
            say_merged(workspace, before, new)
    except FatalError as error:
        say(f"note: data and weights were not brought along: {error}")
        say("hint: git soup checkout")
    return 0


def say_merged(workspace: Workspace, before: str | None, new: str) -> None:
    """Name the adapters of `new` that were merged with an origin and are not in `before`."""
    from soup_git.core.manifest import MANIFEST, parse_manifest_header
    from soup_git.core.threeway import has_origin
    from soup_git.render.report import say
    from soup_git.storage.snapshot import is_dvc_lock

    snapshot = workspace.at(new)
    there = workspace.at(before).entries if before else {}
    for folder in snapshot.adapters:
        path = MANIFEST if folder == "." else f"{folder}/{MANIFEST}"
        if snapshot.entries[path] in set(there.values()):
            continue
        if not has_origin(parse_manifest_header(snapshot.require(path), path)):
            continue
        output = snapshot.weights(folder)
        is_trained = output is not None and is_dvc_lock(output.source)
        way = (
            "dvc repro trains anew and replaces it"
            if is_trained
            else "git soup diff tells how far it moved"
        )
        say(f"note: {folder} was merged, not trained from soup.yaml; {way}")
