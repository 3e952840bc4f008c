from __future__ import annotations

import http.client
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.ui.shop_window import build


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Served:
    """A running `git soup ui`."""

    process: subprocess.Popen[str]
    root: Path
    url: str
    cookie: str = ""

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return self.url.rpartition("token=")[2]

    def ask(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """One request, sent as it is written; `Host` and `Cookie` are ours unless given."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie, **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value:
                    connection.putheader(name, value)
            connection.endheaders()
            found = connection.getresponse()
            named = {name.lower(): value for name, value in found.getheaders()}
            return Answer(found.status, named, found.read())
        finally:
            connection.close()

    def unlock(self) -> Answer:
        """Bring the key, as a browser does, and keep the cookie."""
        answer = self.ask(f"/?token={self.token}", Cookie="")
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return answer

    def stop(self) -> tuple[int, str, str]:
        """Ctrl-C: (exit code, stdout after the address, stderr)."""
        self.process.send_signal(signal.SIGINT)
        out, said = self.process.communicate(timeout=30)
        return self.process.returncode, out, said


def start(root: Path, script: Path, *options: str, **env: str) -> Served:
    process = subprocess.Popen(
        [script, "ui", *(options or ("--no-open",))],
        cwd=root, env={**os.environ, **env}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"git soup ui did not start: {process.communicate()[1]}")
    return Served(process, root, line.strip())


@pytest.fixture(scope="session")
def shop(repo_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(repo_template, tmp_path_factory.mktemp("window") / "shop")


@pytest.fixture(scope="session")
def served(shop: Path, git_soup_script: Path) -> Iterator[Served]:
    """One server for all tests that only ask; its cookie is kept."""
    server = start(shop, git_soup_script)
    server.unlock()
    yield server
    code, _, said = server.stop()
    assert (code, "Traceback" in said) == (0, False), said
