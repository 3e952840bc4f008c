"""`git-soup`: what git runs for `git soup`."""

from __future__ import annotations

import sys

from soup_git.errors import run_to_exit_code


def main() -> None:
    from soup_git.cli import run

    sys.exit(run_to_exit_code(lambda: run(sys.argv[1:])))


if __name__ == "__main__":
    main()
