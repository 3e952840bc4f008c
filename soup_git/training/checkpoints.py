"""The state folder of a run: complete checkpoints, and what they were made with.

    STATE/run.json            what decides the bytes of this run; a resume must agree with it
    STATE/stopped.json        why training.eval_gate or training.loss_watchdog ended it
    STATE/failed.json         the curve up to the step whose loss was not finite
    STATE/lock                held while a process trains here
    STATE/saving/             a checkpoint being written; never read
    STATE/checkpoint-120/     a complete one: adapter_model.safetensors and adapter_config.json
                              (what is committed), optimizer, scheduler, random generators,
                              trainer_state.json, curve.json

A checkpoint is written in `saving`, flushed to the disk and then renamed, so a folder
called checkpoint-N is complete whatever killed the process, and whenever.

optimizer.pt, scheduler.pt and rng_state.pth are PyTorch's zip files with a pickle inside.
transformers loads them with `weights_only=True`, which builds tensors and plain values
and calls nothing else; and the folder is this machine's own, under git's common
directory: nothing in it is ever fetched, cloned or checked out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soup_git.errors import ExitCode, FatalError

_NAME = re.compile(r"checkpoint-(\d+)")
STOPPED = "stopped.json"
_FAILED = "failed.json"


@contextlib.contextmanager
def held(state_dir: Path) -> Iterator[None]:
    """The state folder, for this process alone; another run in it is waited for."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write("another process trains this run; waiting until it is done\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(saving(state_dir), ignore_errors=True)
        yield


def saving(state_dir: Path) -> Path:
    return state_dir / "saving"


def step_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def complete(state_dir: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    folders = [f for f in state_dir.glob("checkpoint-*") if step_of(f) >= 0]
    return sorted(folders, key=step_of)


def publish(state_dir: Path, step: int) -> Path:
    """Make the checkpoint that `saving` holds a complete one, all or nothing."""
    written = saving(state_dir) / f"checkpoint-{step}"
    for path in (*written.iterdir(), written):
        _flush(path)
    folder = state_dir / written.name
    if folder.exists():
        shutil.rmtree(folder)
    written.rename(folder)
    _flush(state_dir)
    return folder


def keep(state_dir: Path, count: int) -> None:
    """Remove all complete checkpoints but the newest `count`."""
    for folder in complete(state_dir)[:-count]:
        # Not a checkpoint any more before its files begin to go.
        doomed = saving(state_dir) / folder.name
        doomed.parent.mkdir(exist_ok=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def clear(state_dir: Path) -> None:
    """Forget the run."""
    for folder in complete(state_dir):
        shutil.rmtree(folder)
    (state_dir / "run.json").unlink(missing_ok=True)
    (state_dir / STOPPED).unlink(missing_ok=True)


def stop(state_dir: Path, error: FatalError, judges: dict[str, Any]) -> None:
    """Remember that `judges` ended this run, so that starting it again does not pass them by."""
    kept = {"why": str(error), "hint": error.hint, "judges": judges}
    (state_dir / STOPPED).write_text(json.dumps(kept), encoding="utf-8")


def note_failure(state_dir: Path, curve: dict[str, Any]) -> None:
    """Keep what `git soup why` reads of a run that ended in a loss that is not finite."""
    (state_dir / _FAILED).write_text(json.dumps(curve))


def forget_failure(state_dir: Path) -> None:
    (state_dir / _FAILED).unlink(missing_ok=True)


def refuse_stopped(state_dir: Path, judges: dict[str, Any]) -> None:
    """Raise what ended the run before, unless what judged it then was changed."""
    path = state_dir / STOPPED
    if not path.is_file():
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    if kept["judges"] == judges:
        path.touch()
        raise FatalError(kept["why"], hint=kept["hint"], code=ExitCode.CHECK_FAILED)
    path.unlink()


def agree(state_dir: Path, decides: dict[str, Any]) -> None:
    """Record what decides the bytes of a run, or refuse to resume one with other values."""
    path = state_dir / "run.json"
    if not path.is_file():
        # Checkpoints that nobody can say the inputs of are not resumed.
        clear(state_dir)
    if not complete(state_dir):
        if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(decides)):
            clear(state_dir)  # what was said of the run before is not said of this one
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(decides, indent=2, sort_keys=True) + "\n")
        _flush(temporary)
        temporary.replace(path)
        return
    before = json.loads(path.read_text())
    changed = [
        f"{key}: {json.dumps(before.get(key))} -> {json.dumps(decides.get(key))}"
        for key in sorted(before.keys() | decides.keys())
        if before.get(key) != decides.get(key)
    ]
    if changed:
        raise FatalError(
            "the interrupted run was started with other values, so going on from step "
            f"{step_of(complete(state_dir)[-1])} would not give what either config says\n"
            + "\n".join(changed),
            hint="set them back, or start anew: git soup train --restart",
        )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
