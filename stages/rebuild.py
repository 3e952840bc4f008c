"""One of the processes in which `git soup verify` trains again what several trained before.

`python -m soup_git.stages.rebuild CONFIG OUTPUT STATE`, in the scratch work tree. Nothing is
recorded: what comes out is compared and goes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from soup_git.storage.workers import run_as_worker


def main() -> int:
    from soup_git.training import memory
    from soup_git.training.config import load_config
    from soup_git.training.train import train

    file, output, state = map(Path, sys.argv[1:4])
    config = load_config(file)
    with memory.named(config):
        train(config, workspace_root=Path.cwd(), output=output, state_dir=state, resume=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_as_worker(main))
