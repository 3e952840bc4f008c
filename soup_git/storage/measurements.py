"""What was measured on this machine: a small file for each probe and each batch size found.

Under git's common folder, beside other facts of this clone: never committed, never shared,
because another machine is another answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from soup_git.core.batchsearch import Search
from soup_git.core.measurement import Measurement
from soup_git.storage.files import bytes_of, write_atomically
from soup_git.storage.workspace import Workspace

_Kept = TypeVar("_Kept")


def machine_name() -> str:
    """This machine, as far as the speed of its steps goes and without asking torch."""
    system = os.uname()
    return f"{system.nodename} {system.machine} {len(os.sched_getaffinity(0))}"


def stored(workspace: Workspace, key: str) -> Measurement | None:
    """The measurement of that key; None where there is none, or one of another version."""
    return _read(_place(workspace, key), Measurement.from_dict)


def store(workspace: Workspace, key: str, measured: Measurement) -> None:
    write_atomically(_place(workspace, key), _text(measured.as_dict()))


def stored_search(workspace: Workspace, key: str) -> Search | None:
    """The search for a batch size of that key, as `stored`."""
    return _read(_place(workspace, key), Search.from_dict)


def store_search(workspace: Workspace, key: str, found: Search) -> None:
    write_atomically(_place(workspace, key), _text(found.as_dict()))


def _read(path: Path, parse: Callable[[Any], _Kept]) -> _Kept | None:
    data = bytes_of(path)
    if data is None:
        return None
    try:
        return parse(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return None


def _text(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def _place(workspace: Workspace, key: str) -> Path:
    return workspace.git.common_dir / "soup" / "measured" / f"{key}.json"
