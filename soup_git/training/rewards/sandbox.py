"""Runs code that a model wrote: a process of its own with next to no rights, for a few seconds."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SECONDS = 5
MEGABYTES = 512
_PATIENCE = 3  # wall-clock seconds per second of CPU time: the machine may be busy
_CONFINE = Path(__file__).with_name("confine.py")
# An environment that holds nothing of ours. Python's hashes are the same in every run, so that
# an answer that depends on the order of a set gets the same reward when training is repeated;
# `-I` would ignore that, and means no more than `-s -P` in an empty environment.
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}
_PYTHON = (sys.executable, "-s", "-P", "-B")


@dataclass(frozen=True)
class Ran:
    """What became of the code. `missing` is what the kernel here cannot take away from it."""

    finished: bool
    printed: str
    missing: tuple[str, ...] = ()


def run(code: str, tests: str = "") -> Ran:
    """Run `code`, then `tests` with its names. Finished: neither raised, exited or ran too long.

    There is no network, and no file but Python's own can be read, where the kernel offers
    that; nothing can be written outside a folder that is removed afterwards. 5 s of CPU time,
    512 MiB, 1 MiB per file, no other process.
    """
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="soup-answer-") as name:
        folder = Path(name)
        (folder / "answer.py").write_text(code, encoding="utf-8", errors="replace")
        if tests:
            (folder / "tests.py").write_text(tests, encoding="utf-8", errors="replace")
        said = folder / "printed"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [*_PYTHON, str(_CONFINE), str(SECONDS), str(MEGABYTES)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(f"{secret}\n".encode(), timeout=SECONDS * _PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        printed = said.read_bytes().decode("utf-8", "replace")
    before, mark, after = printed.rpartition(f"\n{secret} ")
    if process.returncode or not mark:
        return Ran(False, printed)
    return Ran(True, before, tuple(after.split()))
