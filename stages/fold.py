"""Stage `fold`: `python -m soup_git.stages.fold CONFIG FOLDER` puts a trained adapter into its base.

FOLDER is a model then, for the configs of later stages to name as their base.
"""

from __future__ import annotations

import sys

from soup_git.errors import ExitCode, FatalError, run_to_exit_code


def main() -> int:
    from soup_git.storage.files import target_inside
    from soup_git.storage.workspace import Workspace
    from soup_git.training.config import load_config
    from soup_git.training.folding import fold

    if len(sys.argv) != 3:
        raise FatalError(
            "two arguments are needed: the config that trained the adapter, and the new folder",
            hint="python -m soup_git.stages.fold sft/soup.yaml models/sft",
            code=ExitCode.USAGE,
        )
    root = Workspace.open().root
    config, output = (target_inside(root, argument) for argument in sys.argv[1:])
    fold(load_config(config), root, output)
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
