"""The files of `.dvc-template/`, and nothing beside them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path, PurePosixPath

from soup_git.errors import FatalError


def template_text(name: str) -> str:
    """A file of `.dvc-template/`, or with a `/` of a folder in it.

    Raises FatalError for a name that leads out of the folder, by itself or through a link: what
    a template is made of must not be able to copy a file of this machine into a repository.
    """
    return text_below(Path(str(resources.files("soup_git.workspace_template"))), name)


def text_below(folder: Path, name: str) -> str:
    """The text of file `name` in `folder`, which it must not leave."""
    parts = PurePosixPath(name).parts
    path = folder.joinpath(*parts)
    leaves = PurePosixPath(name).is_absolute() or ".." in parts
    if leaves or not path.resolve().is_relative_to(folder.resolve()):
        raise FatalError(
            f"the template file {name!r} is not inside {folder.name}",
            hint="pip install --force-reinstall git-soup",
        )
    return path.read_text("utf-8")
