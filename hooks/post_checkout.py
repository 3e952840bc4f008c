"""post-checkout OLD NEW IS_BRANCH: bring along the data and weights of the new HEAD."""

from __future__ import annotations

import os
import sys

from soup_git.errors import run_to_exit_code


def main(arguments: list[str]) -> int:
    if os.environ.get("GIT_SOUP_ACTIVE") or arguments[2:3] != ["1"]:
        return 0
    from soup_git.commands.follow import follow_move

    return follow_move(arguments[0], arguments[1])


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
