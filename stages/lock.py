"""Stage `lock`: after training, pin what the adapter was made from."""

from __future__ import annotations

import sys

from soup_git.errors import run_to_exit_code


def main() -> int:
    from soup_git.commands.lock import Overrides, write
    from soup_git.core.lock import LOCK
    from soup_git.storage.insideexperiment import keep_in_experiment
    from soup_git.storage.workspace import Workspace

    workspace = Workspace.open()
    write(workspace, Overrides(), None)
    keep_in_experiment(workspace, LOCK)
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
