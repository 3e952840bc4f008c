"""The inside of the sandbox: gives its own process's rights away, then runs an answer's code.

Called by sandbox.py as `python confine.py SECONDS MEGABYTES` in an empty folder that holds
`answer.py` and perhaps `tests.py`, with a secret on stdin. The secret is printed last, and only
if the code ran to its end: an answer that exits early with success does not know it. Standard
library only; what the kernel here does not offer is said on the same line.
"""

from __future__ import annotations

import ctypes
import os
import resource
import runpy
import socket
import struct
import sys
from pathlib import Path
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
PR_SET_NO_NEW_PRIVS = 38
# Linux's Landlock, by its numbers in linux/landlock.h: the libraries have no names for it.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, PATH_BENEATH = 444, 445, 446, 1
READ, FILE_RIGHTS = 1 << 0 | 1 << 2 | 1 << 3, (13, 13, 14, 15, 15, 16)
_LIBC = ctypes.CDLL(None, use_errno=True)


def main(seconds: int, megabytes: int) -> None:
    secret = sys.stdin.readline().strip()
    missing = [] if _without_network() else ["network"]
    if not _only_here():
        missing.append("files")
    _limits(seconds, megabytes)
    found = runpy.run_path("answer.py", run_name="__main__")
    if Path("tests.py").is_file():
        runpy.run_path("tests.py", init_globals=found)
    sys.stdout.flush()
    sys.stdout.write(f"\n{secret} {' '.join(missing)}\n")


def _limits(seconds: int, megabytes: int) -> None:
    for what, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, megabytes << 20),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def _without_network() -> bool:
    """In a namespace of its own a process has no network but a loopback that is down."""
    if _LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) == 0:
        return True

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError("there is no network here")

    socket.socket = refused  # type: ignore[assignment, misc]
    return False


def _only_here() -> bool:
    """Landlock: read Python's own files and the libraries, write in this folder, nothing else."""
    abi = _LIBC.syscall(CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return False
    every = (1 << FILE_RIGHTS[min(abi, len(FILE_RIGHTS)) - 1]) - 1
    # From the fourth version on it refuses TCP as well, from the sixth other processes' signals.
    handled = struct.pack("=QQQ", every, 3, 3)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    rules = _LIBC.syscall(CREATE_RULESET, handled, len(handled), 0)
    readable = {sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"}
    wanted = dict.fromkeys(readable, READ) | {str(Path.cwd()): every}
    for path, rights in wanted.items():
        if not Path(path).exists():
            continue
        file_rights = rights if Path(path).is_dir() else rights & ~(1 << 3)
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _LIBC.syscall(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", file_rights, descriptor), 0)
        os.close(descriptor)
    _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(_LIBC.syscall(RESTRICT_SELF, rules, 0) == 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
