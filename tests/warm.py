"""`git soup` in a process of its own that need not start Python: forked from one that waits.

Most of a short command's time is the start of the interpreter and its imports, and the tests
run thousands. One server per test process imports the package once, computes nothing, and
forks for each call: own folder, environment, streams and exit code, as a user's process has.
What a start really loads is probed elsewhere, in fresh processes (`test_architecture.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOMS = ("arithmetic", "cli", "commands", "core", "data", "render", "storage")


# -- the side of the tests --------------------------------------------------------------------


class WarmSoup:
    """Starts the server when it is first asked; `stop` ends it."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self._address = str(Path(self._folder.name, "soup"))

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: str
    ) -> subprocess.CompletedProcess[str]:
        if self._server is None:
            self._server = self._started()
        streams = [os.memfd_create(name) for name in ("in", "out", "err")]
        try:
            os.write(streams[0], stdin.encode())
            os.lseek(streams[0], 0, os.SEEK_SET)
            call = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(self._address)
                body = json.dumps(call).encode()
                socket.send_fds(client, [len(body).to_bytes(8, "big")], streams)
                client.sendall(body)
                code = int.from_bytes(_exactly(client, 4), "big", signed=True)
            out, err = (_text(stream) for stream in streams[1:])
        finally:
            for stream in streams:
                os.close(stream)
        return subprocess.CompletedProcess(["git", "soup", *arguments], code, out, err)

    def _started(self) -> subprocess.Popen[bytes]:
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, self._address], stdin=subprocess.PIPE
        )
        while not Path(self._address).exists():
            if server.poll() is not None:
                raise RuntimeError("the warm interpreter did not start")
            time.sleep(0.01)
        return server

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait()
        self._folder.cleanup()


def _text(stream: int) -> str:
    with os.fdopen(os.dup(stream), encoding="utf-8") as file:
        file.seek(0)
        return file.read()


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise RuntimeError("the warm interpreter went away")
        data += more
    return data


# -- the server -------------------------------------------------------------------------------


def serve(address: str) -> None:
    _load()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{address}.new")
    listener.listen(16)
    Path(f"{address}.new").rename(address)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            # A child of its own that waits for the command, so that calls may overlap.
            if os.fork():
                os._exit(0)
            listener.close()
            _answer(connection)
            os._exit(0)
        connection.close()
        os.wait()


def _load() -> None:
    """Import what commands of every kind import; torch and DVC are nobody's at the start."""
    for room in _ROOMS:
        package = importlib.import_module(f"soup_git.{room}")
        for found in pkgutil.iter_modules(package.__path__, f"soup_git.{room}."):
            importlib.import_module(found.name)


def _answer(connection: socket.socket) -> None:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    call = json.loads(_exactly(connection, int.from_bytes(head, "big")))
    child = os.fork()
    if child == 0:
        _become(call, streams)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    connection.sendall(code.to_bytes(4, "big", signed=True))


def _become(call: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Run one command as a process that was started for it, and exit as it does."""
    code: Any = 128
    try:
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        os.closerange(3, 256)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(call["cwd"])
        os.environ.clear()
        os.environ.update(call["env"])
        time.tzset()
        sys.argv = ["git-soup", *call["arguments"]]
        sys.stdin, sys.stdout, sys.stderr = _opened(0, "r"), _opened(1, "w"), _opened(2, "w")
        from soup_git.__main__ import main

        main()
    except SystemExit as end:
        code = end.code if end.code is not None else 0
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(int(code))


def _opened(number: int, mode: str) -> io.TextIOWrapper:
    errors = "backslashreplace" if number == 2 else "surrogateescape"
    raw = os.fdopen(number, f"{mode}b", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=number == 2)


if __name__ == "__main__":
    serve(sys.argv[1])
