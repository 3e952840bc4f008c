"""Where a verb that makes a soup.yaml puts it, and that it replaces none unasked."""

from __future__ import annotations

from pathlib import Path

from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo


def target_of(output: Path | None) -> Path:
    """`output`, or soup.yaml at the top of the repository around the current folder."""
    if output is not None:
        return output
    top = GitRepo.discover(Path.cwd()).root / CONFIG_FILE
    here = Path.cwd()
    return top.relative_to(here) if top.is_relative_to(here) else top


def refuse_existing(path: Path, hint: str) -> None:
    """Raise FatalError when something is at `path` already."""
    if path.is_symlink() or path.exists():
        raise FatalError(f"{path} is there already", hint=hint)
