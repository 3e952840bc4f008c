"""Which DVC projects a repository has: one at its top, or some in folders (`dvc init --subdir`).

As for DVC, a path belongs to the innermost project around it. Paths stay relative to the top
of the work tree, as git has them; a project is where the cache, remotes and settings are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from soup_git.storage.gitrepo import GitRepo

_CONFIG = ".dvc/config"


def is_project(folder: Path) -> bool:
    return (folder / _CONFIG).is_file()


def project_around(git: GitRepo) -> str | None:
    """The project around the place from which the repository was found; `.` is the top."""
    here = git.here.resolve()
    top = git.root.resolve()
    for folder in (here, *here.parents):
        if not folder.is_relative_to(top):
            return None
        if is_project(folder):
            return folder.relative_to(top).as_posix()
    return None


def projects_in_folders(git: GitRepo) -> list[str]:
    """The projects below the top that git tracks, sorted."""
    return folders_of_projects(git.paths("ls-files", "--", f":(top,glob)**/{_CONFIG}"))


def folders_of_projects(paths: Iterable[str]) -> list[str]:
    """Of the paths that git tracks, the folders below the top that are DVC projects, sorted."""
    end = f"/{_CONFIG}"
    return sorted(path.removesuffix(end) for path in paths if path.endswith(end))


def has_project(git: GitRepo) -> bool:
    """Whether DVC holds anything here; at git speed, for hooks."""
    return is_project(git.root) or bool(projects_in_folders(git))


def innermost(projects: list[str], path: str) -> str | None:
    """Of some projects, the one that a path belongs to."""
    around = [p for p in projects if p == "." or path == p or path.startswith(f"{p}/")]
    return max(around, key=lambda p: -1 if p == "." else len(p), default=None)
