"""post-merge IS_SQUASH: after `git merge` and `git pull`, bring along data and weights."""

from __future__ import annotations

import os
import sys

from soup_git.errors import run_to_exit_code


def main() -> int:
    if os.environ.get("GIT_SOUP_ACTIVE"):
        return 0
    from soup_git.commands.follow import follow_move

    return follow_move("ORIG_HEAD", "HEAD", merged=True)


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
