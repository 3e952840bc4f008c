"""pre-push REMOTE URL: no commit leaves whose weights or data nobody else could get."""

from __future__ import annotations

import os
import sys

from soup_git.errors import run_to_exit_code


def main(arguments: list[str]) -> int:
    lines = sys.stdin.read().splitlines() or _told_by_pre_commit()
    if os.environ.get("GIT_SOUP_ACTIVE") or not lines:
        return 0
    from soup_git.commands.prepush import check_push

    remote = os.environ.get("PRE_COMMIT_REMOTE_NAME", "")
    return check_push(arguments[0] if arguments else remote, lines)


def _told_by_pre_commit() -> list[str]:
    """What pre-commit (pre-commit.com) read from git's lines, which it keeps to itself."""
    local, to, remote, there = (
        os.environ.get(f"PRE_COMMIT_{key}", "")
        for key in ("LOCAL_BRANCH", "TO_REF", "REMOTE_BRANCH", "FROM_REF")
    )
    # Of a branch whose first commit is new there, it gives the names alone.
    return [f"{local} {to or local} {remote} {there or '0' * 40}"] if local and remote else []


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
