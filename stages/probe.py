"""The process of `git soup profile`: `python -m soup_git.stages.probe CONFIG SCRATCH STEPS [ROWS]`.

A training that runs out of memory may be killed by the system, and must not take the one
that reports it along. ROWS is the batch size where the config leaves it to be found. What was
measured, or that memory was not enough, is SCRATCH/result.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from soup_git.errors import ExitCode, run_to_exit_code

_STARTED = time.monotonic()


def main() -> int:
    config_file, scratch, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    # stdout is the report's: whatever a library prints is talk.
    os.dup2(2, 1)
    from soup_git.training.config import load_config

    config = load_config(config_file)
    if len(sys.argv) > 4:
        config = config.with_batch_size(int(sys.argv[4]))
    from soup_git.training import machine

    machine.prepare_process(config)
    from soup_git.training import memory, probing

    try:
        found = probing.probe(config, Path.cwd(), scratch, steps, _STARTED)
    except (RuntimeError, MemoryError, OSError) as error:
        if not memory.is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        _write(scratch, {"out_of_memory": said[0] if said else type(error).__name__})
        return ExitCode.CHECK_FAILED
    _write(scratch, found.as_dict())
    return 0


def _write(scratch: Path, result: dict[str, object]) -> None:
    (scratch / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
