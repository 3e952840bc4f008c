"""After git itself moved HEAD: bring along what DVC holds, where nothing can be lost.

Called by the post-checkout, post-merge and post-rewrite hooks; a move that touches no
pointer costs one `git diff`.
"""

from __future__ import annotations

from pathlib import Path

from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo


def follow_move(old: str, new: str) -> int:
    """Follow HEAD from `old` to `new`. Never stands in the way of git: what it cannot do it says."""
    git = GitRepo.discover(Path.cwd())
    if not (git.root / ".dvc" / "config").is_file():
        return 0
    # A new work tree or clone comes from nowhere; a first merge has no ORIG_HEAD.
    before = git.resolve(old)
    if before and not git.paths("diff", "--name-only", before, new, "--", "*.dvc", "dvc.lock"):
        return 0
    from soup_git.commands.checkout import follow
    from soup_git.render.report import say
    from soup_git.storage.workspace import Workspace

    try:
        follow(Workspace(git), before, new)
    except FatalError as error:
        say(f"note: data and weights were not brought along: {error}")
        say("hint: git soup checkout")
    return 0
