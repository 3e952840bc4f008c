"""The process that finds a batch size: `python -m soup_git.stages.batchsize CONFIG SCRATCH BYTES`.

A step that takes too much memory may get its process killed by the system, and must not take
the one that asked along. BYTES is the memory that there is to spare. SCRATCH/result.json holds
what went well so far, after each size, or why no size could be tried.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from soup_git.errors import ExitCode, run_to_exit_code


def main() -> int:
    config_file, scratch, spare = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    # stdout is a report's, or DVC's: whatever a library prints is talk.
    os.dup2(2, 1)
    from soup_git.storage.files import write_atomically
    from soup_git.training.config import load_config
    from soup_git.training.rules import smallest_batch

    config = load_config(config_file)
    config = config.with_batch_size(smallest_batch(config))
    from soup_git.training import machine

    machine.prepare_process(config)
    from soup_git.training import batchprobe, memory

    def tell(result: dict[str, object]) -> None:
        write_atomically(scratch / "result.json", json.dumps(result).encode())

    try:
        batchprobe.search(config, Path.cwd(), scratch, spare, lambda found: tell(found.as_dict()))
    except (RuntimeError, MemoryError, OSError) as error:
        if not memory.is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        tell({"never_began": said[0] if said else type(error).__name__})
        return ExitCode.CHECK_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
