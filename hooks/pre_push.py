"""pre-push REMOTE URL: no commit leaves whose weights or data nobody else could get."""

from __future__ import annotations

import os
import sys

from soup_git.errors import run_to_exit_code


def main(arguments: list[str]) -> int:
    lines = sys.stdin.read().splitlines()
    if os.environ.get("GIT_SOUP_ACTIVE") or not lines:
        return 0
    from soup_git.commands.prepush import check_push

    return check_push(arguments[0] if arguments else "", lines)


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
