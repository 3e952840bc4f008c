"""A command run in a forked copy of this warm interpreter, killed at a step of its own.

A step is what another process can see afterwards: a file renamed, linked, removed or written
in place, or a git command that changes refs, index, files or settings. What lies between two
steps (temporary files, loose objects) differs in nothing that counts. `sys.addaudithook` sees each before it happens, so the n-th run dies
right before its n-th step and the whole sequence is walked, with nothing in the product that
knows of it. Forking instead of starting saves each of some hundred runs half a second.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TRACES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate"}
_GIT_WRITES = {
    "add", "checkout", "config", "fetch", "merge", "push", "rebase", "switch", "update-index", "update-ref",
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    code: int | None
    """None when it was killed."""
    out: str
    err: str


def in_a_fork(run: Callable[[], int], *, kill_at: int = 0) -> Ended:
    """Run in a child process; `kill_at` n: it dies by SIGKILL right before its n-th step."""
    return start(run, kill_at=kill_at)()


def start(run: Callable[[], int], *, kill_at: int = 0) -> Callable[[], Ended]:
    """Start a child process; calling what is returned waits for its end."""
    streams = [os.memfd_create("out"), os.memfd_create("err")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads only wait here
        child = os.fork()
    if child == 0:
        code = 70
        try:
            for target, stream in enumerate(streams, 1):
                os.dup2(stream, target)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
            if kill_at:
                _die_at(kill_at)
            code = run()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def wait() -> Ended:
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in streams:
            with os.fdopen(stream, "rb") as file:
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return Ended(None, *texts)
        return Ended(os.WEXITSTATUS(status), *texts)

    return wait


def _die_at(step: int) -> None:
    left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if _leaves_a_trace(event, arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _leaves_a_trace(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        path, _, flags = arguments
        name = str(path)
        passing = name.startswith("/dev/") or "/.soup-" in name or "soup-index-" in name
        return bool(flags & _WRITES) and not passing
    if event == "subprocess.Popen":
        words = [str(word) for word in arguments[1]]
        return not _GIT_WRITES.isdisjoint(words) or "dvc" in words
    passing = "soup-index-" in str(arguments[0]) if arguments else False
    return event in _TRACES and not passing


def soup(*words: str) -> Callable[[], int]:
    """`git soup WORDS`, in this interpreter."""

    def run() -> int:
        from soup_git.cli import run as parse_and_run
        from soup_git.errors import run_to_exit_code

        return run_to_exit_code(lambda: parse_and_run(list(words)))

    return run


def warm_up(verbs: Sequence[str]) -> None:
    """Import what the verbs import late, once, for all forks."""
    import importlib

    importlib.import_module("soup_git.cli")
    importlib.import_module("soup_git.storage.merging")
    for verb in verbs:
        importlib.import_module(f"soup_git.commands.{verb}")
