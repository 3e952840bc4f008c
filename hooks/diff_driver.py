"""diff.soup.command PATH OLD-FILE OLD-HEX OLD-MODE NEW-FILE NEW-HEX NEW-MODE: one adapter of a diff."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from soup_git.errors import ExitCode, run_to_exit_code


def main(arguments: list[str]) -> int:
    """Always 0: git gives up a whole diff, and the pager with it, when one driver fails."""
    code = run_to_exit_code(lambda: show(arguments, lines_only=False))
    if code not in {ExitCode.OK, ExitCode.INTERRUPTED}:
        code = run_to_exit_code(lambda: show(arguments, lines_only=True))
    return ExitCode.OK


def show(arguments: list[str], *, lines_only: bool) -> int:
    from soup_git.commands import diff_driver as command

    change, folder = command.parse_arguments(arguments), Path.cwd()
    if change is None:
        text = command.unmerged(arguments[0])
    elif lines_only:
        text = command.changed_lines(change, folder)
    else:
        text = command.table_or_lines(change, folder)
    text += command.separator(os.environ)
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
