"""prepare-commit-msg FILE [SOURCE [COMMIT]]: a line for each adapter that the commit changes."""

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

    # pre-commit (pre-commit.com) gives its hooks the file alone, and the rest in variables.
    told = [os.environ.get(f"PRE_COMMIT_COMMIT_{key}", "") for key in ("MSG_SOURCE", "OBJECT_NAME")]
    source, commit = [*arguments[1:], "", ""][:2] if len(arguments) > 1 else told
    try:
        command.prepare(Path(arguments[0]), source, commit)
    except FatalError as error:
        sys.stderr.write(command.say_why_not(error))
    return 0


if __name__ == "__main__":
    run_to_exit_code(lambda: main(sys.argv[1:]))
