"""The door to HTTP: two real servers on this machine, one of which is not to see a secret."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from soup_git.storage import http as door
from soup_git.storage.http import open_moved_url, open_url

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_secret"


class Server(ThreadingHTTPServer):
    """Answers a path with what `moved` says of it, else with a commit; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.moved: dict[str, tuple[int, str]] = {}
        self.seen: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        code, target = self.server.moved.get(self.path, (200, ""))
        body = json.dumps({"sha": COMMIT}).encode()
        self.send_response(code)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    made = Server(), Server()
    for server in made:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


def asked(server: Server, path: str) -> urllib.request.Request:
    return urllib.request.Request(
        server.address + path,
        headers={
            "Authorization": f"Bearer {SECRET}",
            "Cookie": "a=b",
            "Accept": "application/json",
        },
    )


def test_a_secret_stays_with_the_server_that_it_is_for(servers: tuple[Server, Server]) -> None:
    """Also after a way back: who sent us on may not choose who gets the secret again."""
    hub, other = servers
    hub.moved = {
        "/old": (307, "/new"),
        "/away": (302, f"{other.address}/there"),
        "/round": (301, f"{other.address}/back"),
    }
    other.moved = {"/back": (308, f"{hub.address}/end")}
    for path in ("/old", "/away", "/round"):
        with open_moved_url(asked(hub, path), 5) as answer:
            assert json.load(answer)["sha"] == COMMIT
    bearer = f"Bearer {SECRET}"
    assert hub.seen == [
        ("/old", bearer), ("/new", bearer), ("/away", bearer), ("/round", bearer), ("/end", None),
    ]  # fmt: skip
    assert other.seen == [("/there", None), ("/back", None)]


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "", "http://[", "/loop"]
)
def test_what_is_no_place_to_ask_is_not_followed(
    servers: tuple[Server, Server], target: str
) -> None:
    servers[0].moved = {"/loop": (302, target)}
    with pytest.raises(urllib.error.HTTPError) as caught:
        open_moved_url(asked(servers[0], "/loop"), 5)
    caught.value.close()
    assert caught.value.code == 302
    assert len(servers[0].seen) == (6 if target == "/loop" else 1)


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("https://hub.example/a", "/b", True),
        ("https://hub.example/a", "https://hub.example:443/b", True),
        ("https://hub.example/a", "https://hub.example:8443/b", False),
        ("https://hub.example/a", "https://hub.example.evil.org/b", False),
        ("https://hub.example/a", "//evil.org/b", False),
        ("http://hub.example/a", "https://hub.example/b", False),
    ],
)
def test_another_port_scheme_or_name_is_another_server(
    source: str, target: str, kept: bool
) -> None:
    request = urllib.request.Request(source, headers={"Authorization": "x", "Accept": "y"})
    moved = door._moved(request, target)
    assert moved is not None
    assert dict(moved.header_items()) == (
        {"Authorization": "x", "Accept": "y"} if kept else {"Accept": "y"}
    )


@pytest.mark.parametrize("target", ["http://hub.example/b", "https://me:pw@hub.example/b"])
def test_nothing_leaves_tls_or_logs_in(target: str) -> None:
    assert door._moved(urllib.request.Request("https://hub.example/a"), target) is None


def test_what_is_sent_is_never_sent_again(servers: tuple[Server, Server]) -> None:
    post = urllib.request.Request(servers[0].address, data=b"x")
    with pytest.raises(ValueError, match="POST"):
        open_moved_url(post, 5)


def test_plainly_opened_no_redirect_is_followed(servers: tuple[Server, Server]) -> None:
    servers[0].moved = {"/old": (302, "http://[")}
    with pytest.raises(urllib.error.HTTPError) as caught:
        open_url(asked(servers[0], "/old"), 5)
    caught.value.close()
    assert [path for path, _ in servers[0].seen] == ["/old"]


# -- the hub ----------------------------------------------------------------------------------


@pytest.fixture
def pin_of(
    repo: Path, soup: Callable[..., Any], servers: tuple[Server, Server]
) -> Callable[..., dict[str, Any]]:
    """`pin_of(**environment)`: what `lock write` says of a hub model, asked for at the first server."""

    def run(**environment: str) -> dict[str, Any]:
        where = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": servers[0].address, **environment}
        done = soup("lock", "write", "--base-model", "org/old", check=False, env=where)
        lock = Path("soup.lock")
        sha = json.loads(lock.read_text())["base_model_sha"] if lock.is_file() else None
        return {"sha": sha, "code": done.returncode, "said": done.stderr}

    return run


HUB_PATH = "/api/models/org/old/revision/main"


def test_a_renamed_hub_model_is_found_and_its_token_goes_nowhere_else(
    pin_of: Callable[..., dict[str, Any]], servers: tuple[Server, Server]
) -> None:
    import hashlib

    hub, other = servers
    hub.moved = {HUB_PATH: (307, "/api/models/org/new/revision/main")}
    wanted = hashlib.sha256(f"hf:org/old@{COMMIT}".encode()).hexdigest()
    assert pin_of(HF_TOKEN=SECRET)["sha"] == wanted
    assert {token for _, token in hub.seen} == {f"Bearer {SECRET}"}
    hub.moved = {HUB_PATH: (302, f"{other.address}/elsewhere")}
    assert pin_of(HF_TOKEN=SECRET)["sha"] == wanted
    assert other.seen == [("/elsewhere", None)]


def test_a_stored_token_is_used_unless_the_user_said_no(
    pin_of: Callable[..., dict[str, Any]], servers: tuple[Server, Server], tmp_path: Path
) -> None:
    stored = tmp_path / "token"
    stored.write_text(f"{SECRET}\n")
    pin_of(HF_TOKEN_PATH=str(stored))
    pin_of(HF_TOKEN_PATH=str(stored), HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert [token for _, token in servers[0].seen] == [f"Bearer {SECRET}", None]
    stored.write_bytes(b"two\nlines \xff")
    refused = pin_of(HF_TOKEN_PATH=str(stored))
    assert refused["code"] == 128
    assert f"{stored} has a line break" in refused["said"]
    assert "hint: hf auth login" in refused["said"]


def test_a_hub_that_refuses_is_not_called_unreachable(
    pin_of: Callable[..., dict[str, Any]], servers: tuple[Server, Server]
) -> None:
    servers[0].moved = {HUB_PATH: (401, "")}
    assert "the hub answers 401" in pin_of()["said"]
    assert "the hub was not reached" in pin_of(HF_ENDPOINT="http://127.0.0.1:9")["said"]
