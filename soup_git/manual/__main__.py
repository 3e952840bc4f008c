"""`python -m soup_git.manual FOLDER`: write the generated files below FOLDER (`make docs`)."""

from __future__ import annotations

import sys
from pathlib import Path

from soup_git.cli import command_tree
from soup_git.errors import FatalError, run_to_exit_code
from soup_git.manual.bash import bash_completion
from soup_git.manual.commandtree import read_tree
from soup_git.manual.fish import fish_completion
from soup_git.manual.page import manual_page
from soup_git.manual.reference import reference
from soup_git.manual.zsh import zsh_completion
from soup_git.render.report import say
from soup_git.storage.files import write_atomically

WRITERS = {
    "docs/reference/commands.md": reference,
    "share/man/man1/git-soup.1": manual_page,
    "share/bash-completion/completions/git-soup": bash_completion,
    "share/zsh/site-functions/_git-soup": zsh_completion,
    "share/fish/vendor_completions.d/git-soup.fish": fish_completion,
}
"""Path in the source tree -> what writes it; those under share/ are the wheel's data files."""


def generated() -> dict[str, str]:
    """Every generated file's text by its path."""
    tree = read_tree(command_tree())
    return {path: write(tree) for path, write in WRITERS.items()}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise FatalError("name the folder to write below", hint="python -m soup_git.manual .")
    for path, text in generated().items():
        write_atomically(Path(arguments[0]) / path, text.encode())
        say(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
