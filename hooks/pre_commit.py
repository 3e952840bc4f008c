"""pre-commit: what is about to be committed agrees with its lock, and its bytes are kept."""

from __future__ import annotations

import os
import sys

from soup_git.errors import run_to_exit_code


def main() -> int:
    if os.environ.get("GIT_SOUP_ACTIVE"):
        return 0
    from soup_git.commands.precommit import check_staged

    return check_staged()


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
