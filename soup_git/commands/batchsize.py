"""`training.batch_size: auto`: found once, and written into the config that asked for it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from soup_git.commands.estimating import batch_key
from soup_git.commands.machinechecks import free_memory
from soup_git.core.batchsearch import Search, decide
from soup_git.core.durations import spoken
from soup_git.core.yamledit import with_value
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import say
from soup_git.storage.files import bytes_of, write_atomically
from soup_git.storage.insideexperiment import keep_in_experiment
from soup_git.storage.measurements import store_search, stored_search
from soup_git.storage.shell import run_as_user
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.training.schema import SoupConfig

KILLED = {-9, 128 + 9}
"""How a process ends that the system took the memory from."""
_KEY = "training.batch_size"


def settled(workspace: Workspace, home: Workspace, file: Path) -> SoupConfig | ExitCode:
    """The config in `file` with a number for its batch size, which `file` says from now on.

    An exit code where the process that searched has said itself what is wrong. What is found
    is kept in `home`: a stage of a queued experiment runs in a workspace that goes away.

    Raises FatalError where not even the smallest batch fits, and where `file` changed meanwhile.
    """
    from soup_git.training.config import load_config

    config, before = load_config(file), file.read_bytes()
    if config.training.batch_size != "auto":
        return config
    found = find(workspace, home, config, file)
    if isinstance(found, ExitCode):
        return found
    size, device = found
    if file.read_bytes() != before:
        raise FatalError(
            f"{file.name} changed while its batch size was searched",
            hint="the same command again: what was found is remembered",
        )
    text = with_value(
        before.decode("utf-8"), tuple(_KEY.split(".")), size, f"auto: found on {device}"
    )
    write_atomically(file, text.encode("utf-8"), mode=file.stat().st_mode & 0o777)
    path = file.relative_to(workspace.root).as_posix()
    keep_in_experiment(workspace, path)
    say(f"{path} says {_KEY}: {size} now")
    return load_config(file)


def find(
    workspace: Workspace, home: Workspace, config: SoupConfig, file: Path
) -> tuple[int, str] | ExitCode:
    """Rows per forward pass, and the device that they were found on; searched only once.

    An exit code where the process that searched has said itself what is wrong. Raises FatalError
    where not even the smallest batch fits.
    """
    key = batch_key(workspace, config)
    known = stored_search(home, key)
    before = decide(known) if known is not None else None
    if known is not None and before is not None and before.size is not None:
        say(f"{_KEY}: auto: {before.size}, as found on {known.device} before: {before.why}")
        return before.size, known.device
    say(f"{_KEY}: auto: steps of more and more rows are tried, the longest first")
    began = time.monotonic()
    place = home.git.common_dir / "soup"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="batch-size-", dir=place) as name:
        scratch = Path(name)
        words = [sys.executable, "-P", "-m", "soup_git.stages.batchsize", str(file), name]
        code = run_as_user([*words, str(free_memory())], workspace.root, os.environ)
        found = _told(scratch, code)
    if isinstance(found, ExitCode):
        return found
    decision = decide(found)
    if decision.size is None:
        from soup_git.training.memory import what_to_lower

        lower = "; ".join(f"{change.key}: {change.value}" for change in what_to_lower(config))
        raise config.refuse(
            _KEY, f"auto: not even the smallest batch fits: {decision.why}", hint=f"lower {lower}"
        )
    if code == 0:  # a kill may have had another reason than memory, and another time
        store_search(home, key, found)
    took = spoken(time.monotonic() - began)
    say(f"{_KEY}: auto: {decision.size}, found on {found.device} in {took}: {decision.why}")
    return decision.size, found.device


def _told(scratch: Path, code: int) -> Search | ExitCode:
    """What the process that searched has written; of one that was killed, up to there."""
    raw = json.loads(bytes_of(scratch / "result.json") or b"{}")
    killed = "the system killed the search (signal 9), as it does with what takes the last memory"
    if code == 0:
        return Search.from_dict(raw)
    if "device" in raw and code in KILLED:
        return replace(Search.from_dict(raw), out_of_memory=killed)
    if "never_began" in raw or code in KILLED:
        return Search("", 0, (), out_of_memory=str(raw.get("never_began", killed)))
    return ExitCode.INTERRUPTED if code == ExitCode.INTERRUPTED else ExitCode.FATAL
