"""commit-msg FILE: the lines that prepare-commit-msg kept until somebody wrote a message."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from soup_git.errors import FatalError, run_to_exit_code


def main(arguments: list[str]) -> int:
    """Always 0 where git-soup is at fault: a summary is no reason to stop a commit."""
    if os.environ.get("GIT_SOUP_ACTIVE"):
        return 0
    from soup_git.commands import commitsummary as command

    try:
        command.add_remembered(Path(arguments[0]))
    except FatalError as error:
        sys.stderr.write(command.say_why_not(error))
    return 0


if __name__ == "__main__":
    run_to_exit_code(lambda: main(sys.argv[1:]))
