"""merge.soup.driver %O %A %B %P: merge one file into %A; any exit but 0 is a conflict to git."""

from __future__ import annotations

import sys
from pathlib import Path

from soup_git.errors import run_to_exit_code


def main(arguments: list[str]) -> int:
    from soup_git.commands.mergedriver import drive

    origin, ours, theirs, path = arguments
    return drive(Path(origin), Path(ours), Path(theirs), path)


if __name__ == "__main__":
    # git takes an exit above 128 for a driver that died, and ends the merge half done.
    sys.exit(min(1, run_to_exit_code(lambda: main(sys.argv[1:]))))
