"""`python -m soup_git.manual FOLDER`: write the generated files below FOLDER (`make docs`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from soup_git.cli import command_tree
from soup_git.commands.config import schema_text
from soup_git.commands.eval import suite_schema_text
from soup_git.errors import FatalError, run_to_exit_code
from soup_git.evaluation.suite import json_schema as suite_schema
from soup_git.manual.bash import bash_completion
from soup_git.manual.commandtree import read_tree
from soup_git.manual.fish import fish_completion
from soup_git.manual.methods import with_table
from soup_git.manual.page import manual_page
from soup_git.manual.reference import reference
from soup_git.manual.schemas import config_reference, suite_reference
from soup_git.manual.zsh import zsh_completion
from soup_git.render.report import say
from soup_git.storage.files import write_atomically
from soup_git.training.schema import json_schema as config_schema

WRITERS = {
    "docs/reference/commands.md": reference,
    "share/man/man1/git-soup.1": manual_page,
    "share/bash-completion/completions/git-soup": bash_completion,
    "share/zsh/site-functions/_git-soup": zsh_completion,
    "share/fish/vendor_completions.d/git-soup.fish": fish_completion,
}
"""Path in the source tree -> what writes it; those under share/ are the wheel's data files."""

SCHEMA_WRITERS: dict[str, Callable[[], str]] = {
    "docs/reference/soup.schema.json": schema_text,
    "docs/reference/soup-yaml.md": lambda: config_reference(config_schema()),
    "docs/reference/suite.schema.json": suite_schema_text,
    "docs/reference/suite.md": lambda: suite_reference(suite_schema()),
}
"""The same for what comes from the models of soup.yaml and of suites."""


def generated() -> dict[str, str]:
    """Every generated file's text by its path."""
    tree = read_tree(command_tree())
    from_the_tree = {path: write(tree) for path, write in WRITERS.items()}
    return from_the_tree | {path: write() for path, write in SCHEMA_WRITERS.items()}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise FatalError("name the folder to write below", hint="python -m soup_git.manual .")
    for path, text in generated().items():
        write_atomically(Path(arguments[0]) / path, text.encode())
        say(f"wrote {path}")
    page = Path(arguments[0]) / "docs/reference/tasks.md"
    if page.is_file():
        write_atomically(page, with_table(page.read_text()).encode())
        say("wrote the table of tasks in docs/reference/tasks.md")
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
