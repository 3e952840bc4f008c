"""What `git soup profile` measured on this machine: a small file for each thing measured.

Under git's common folder, beside other facts of this clone: never committed, never shared,
because another machine is another answer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from soup_git.core.measurement import Measurement
from soup_git.storage.files import bytes_of, write_atomically
from soup_git.storage.workspace import Workspace


def machine_name() -> str:
    """This machine, as far as the speed of its steps goes and without asking torch."""
    system = os.uname()
    return f"{system.nodename} {system.machine} {len(os.sched_getaffinity(0))}"


def stored(workspace: Workspace, key: str) -> Measurement | None:
    """The measurement of that key; None where there is none, or one of another version."""
    data = bytes_of(_place(workspace, key))
    if data is None:
        return None
    try:
        return Measurement.from_dict(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return None


def store(workspace: Workspace, key: str, measured: Measurement) -> None:
    text = json.dumps(measured.as_dict(), indent=2, sort_keys=True) + "\n"
    write_atomically(_place(workspace, key), text.encode())


def _place(workspace: Workspace, key: str) -> Path:
    return workspace.git.common_dir / "soup" / "measured" / f"{key}.json"
