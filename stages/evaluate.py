"""Stage `evaluate`: `python -m soup_git.stages.evaluate SUITE METRICS` scores the trained adapter."""

from __future__ import annotations

import sys
from pathlib import Path

from soup_git.errors import ExitCode, FatalError, run_to_exit_code


def main() -> int:
    from soup_git.commands.eval import EvalRequest, adapter_here, evaluate
    from soup_git.render.report import as_table
    from soup_git.storage.workspace import Workspace

    if len(sys.argv) != 3:
        raise FatalError(
            "two arguments are needed: the suite, and the file for its scores",
            hint="python -m soup_git.stages.evaluate eval/suite.yaml eval/metrics.json",
            code=ExitCode.USAGE,
        )
    suite, metrics = map(Path, sys.argv[1:])
    workspace = Workspace.open()
    request = EvalRequest([adapter_here(workspace)], suite, write_note=False, metrics=metrics)
    # The adapter is no commit's yet: its note is written by `git soup eval` after the commit.
    sys.stderr.write(as_table(evaluate(workspace, request)))
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
