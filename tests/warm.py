"""`git soup`, `dvc` and the stages in processes of their own that need not start Python.

Most of a short command's time is the start of the interpreter and its imports, and the tests
run thousands. One server for each program and test process imports what it needs once,
computes nothing, and forks for each call: own folder, environment, streams, process group and
exit code, as a user's process has. What a start really loads is probed elsewhere, in fresh
processes (`test_architecture.py`).

`python_launcher` writes a `python` for PATH that hands `-m dvc` and the stages to such servers
and is the real interpreter for all else. It passes signals on, and when it is killed, so is
what it started.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOMS = ("arithmetic", "cli", "commands", "core", "data", "forge", "render", "storage")
_LOADS = {
    "soup": (),
    "dvc": ("dvc.cli", "dvc.commands.repro", "dvc.repo", "dvc.stage.run", "dvc_data.hashfile"),
    "stages": ("trl", "trl.trainer.sft_trainer", "peft", "datasets", "soup_git.training.loop"),
}
"""Server -> the modules it has imported, those of git-soup's light rooms apart."""


# -- the side of the tests --------------------------------------------------------------------


class Warm:
    """Starts its server when it is first asked; `stop` ends it."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._server: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory()
        self.address = str(Path(self._folder.name, program))

    def run(
        self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: str,
        executable: str = sys.executable,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """`git soup ARGUMENTS`; `executable` is what it takes for its own interpreter."""
        self.start()
        streams = [os.memfd_create(name) for name in ("in", "out", "err")]
        try:
            os.write(streams[0], stdin.encode())
            os.lseek(streams[0], 0, os.SEEK_SET)
            call = {
                "arguments": ["git-soup", *arguments], "module": "soup_git",
                "executable": executable, "cwd": str(cwd), "env": dict(env),
            }  # fmt: skip
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(self.address)
                body = json.dumps(call).encode()
                socket.send_fds(client, [len(body).to_bytes(8, "big")], streams)
                client.sendall(body)
                code = int.from_bytes(_exactly(client, 4), "big", signed=True)
            out, err = (_text(stream) for stream in streams[1:])
        finally:
            for stream in streams:
                os.close(stream)
        return subprocess.CompletedProcess(["git", "soup", *arguments], code, out, err)

    def start(self, *, wait: bool = True) -> None:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-P", __file__, self._program, self.address],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        while wait and not Path(self.address).exists():
            if self._server.poll() is not None:
                raise RuntimeError("the warm interpreter did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.communicate()
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


_LAUNCHER = """\
#!{real} -IS
import os, sys
words = [*{before}, *sys.argv[1:]]
module = words[words.index("-m") + 1] if "-m" in words[:2] else ""
address = {addresses}.get(module)
if address is None or any(name.startswith("PYTHON") for name in os.environ):
    os.execv({real!r}, [{real!r}, *words])
import json, signal, socket
server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
server.connect(address)
call = {{
    "arguments": words[words.index("-m") + 1:], "module": module, "executable": {executable},
    "cwd": os.getcwd(), "env": dict(os.environ),
}}
body = json.dumps(call).encode()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: server.send(bytes([number])))
socket.send_fds(server, [len(body).to_bytes(8, "big")], [0, 1, 2])
server.sendall(body)
answer = b""
while len(answer) < 4:
    more = server.recv(4 - len(answer))
    if not more:
        sys.exit("the warm interpreter went away")
    answer += more
code = int.from_bytes(answer, "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


def python_launcher(folder: Path, servers: Mapping[str, Warm]) -> Path:
    """An executable `python` in `folder`: module -> the server that runs it; else the real one."""
    return _launcher(folder / "python", servers, before=[], executable="__file__")


def program_launcher(folder: Path, program: str, module: str, server: Warm) -> Path:
    """An executable `program` in `folder` that is `python -m MODULE`, run by `server`."""
    before = ["-m", module]
    return _launcher(folder / program, {module: server}, before, executable="{real!r}")


def _launcher(
    launcher: Path, servers: Mapping[str, Warm], before: Sequence[str], executable: str
) -> Path:
    text = _LAUNCHER.format(
        real=sys.executable,
        addresses={module: warm.address for module, warm in servers.items()},
        before=before,
        executable=executable.format(real=sys.executable),
    )
    launcher.write_text(text)
    launcher.chmod(0o755)
    return launcher


# -- the server -------------------------------------------------------------------------------


def serve(program: str, address: str) -> None:
    _load(program)
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


def _load(program: str) -> None:
    """Import what commands of every kind import; torch and DVC are nobody's at the start."""
    for room in _ROOMS:
        package = importlib.import_module(f"soup_git.{room}")
        for found in pkgutil.iter_modules(package.__path__, f"soup_git.{room}."):
            importlib.import_module(found.name)
    for name in _LOADS[program]:
        importlib.import_module(name)


def _answer(connection: socket.socket) -> None:
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    call = json.loads(_exactly(connection, int.from_bytes(head, "big")))
    child = os.fork()
    if child == 0:
        _become(call, streams)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    ended = os.pidfd_open(child)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        # A signal to pass on, or nothing: whoever asked was killed, and takes it along.
        numbers = connection.recv(16) if ready else b""
        for number in numbers or [signal.SIGKILL]:
            os.killpg(child, number)
        if not numbers:
            break
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall(code.to_bytes(4, "big", signed=True))


def _become(call: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Run one module as a process that was started for it, and exit as it does."""
    code: Any = 128
    try:
        os.setpgid(0, 0)
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        os.closerange(3, 256)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(call["cwd"])
        os.environ.clear()
        os.environ.update(call["env"])
        time.tzset()
        sys.executable = call["executable"]
        sys.argv = call["arguments"]
        sys.stdin, sys.stdout, sys.stderr = _opened(0, "r"), _opened(1, "w"), _opened(2, "w")
        runpy.run_module(f"{call['module']}", run_name="__main__", alter_sys=False)
        code = 0
    except SystemExit as end:
        code = end.code if end.code is not None else 0
    except BaseException:  # noqa: BLE001 - the interpreter's own last line
        traceback.print_exc()
        code = 1
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
    serve(*sys.argv[1:])
