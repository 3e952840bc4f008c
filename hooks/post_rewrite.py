"""post-rewrite amend|rebase: after the commits moved, bring along data and weights."""

from __future__ import annotations

import os
import sys

from soup_git.errors import run_to_exit_code


def main(arguments: list[str]) -> int:
    if os.environ.get("GIT_SOUP_ACTIVE") or arguments[:1] != ["rebase"]:
        return 0
    from soup_git.commands.follow import follow_move

    return follow_move("ORIG_HEAD", "HEAD", via=_onto(sys.stdin.readline()), merged=True)


def _onto(first: str) -> str | None:
    """Where the rebase began to apply: below the first commit that git says it wrote."""
    words = first.split()
    return f"{words[1]}^" if len(words) > 1 else None


if __name__ == "__main__":
    sys.exit(run_to_exit_code(lambda: main(sys.argv[1:])))
