"""A server that answers as GitHub's REST API does, and records what it was asked.

It stands for the world outside: pulls and comments in memory, GitHub's own refusals, and
faults that a test queues for the next requests.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

SERVER = "https://github.com"


@dataclass
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Fault:
    """The answer to the next request whose `METHOD path` matches; `drip` seconds between its bytes."""

    pattern: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"message": "queued"}'
    wait: float = 0.0
    drip: float = 0.0
    done_first: bool = False
    """GitHub did what it was asked, and then the answer got lost."""


@dataclass
class FakeGitHub:
    address: str = ""
    repository: str = "acme/adapters"
    forks: dict[str, str] = field(default_factory=dict)
    """Another repository -> the one that it is a fork of; nothing else is in it."""
    login: str | None = "ada"
    """Who the token speaks for; None for an app, which may not ask."""
    token: str = "ghp_secretsecretsecret"
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    """Branch of the repository -> commit."""
    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: dict[int, dict[str, Any]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def asked(self, method: str) -> list[str]:
        return [call.path.partition("?")[0] for call in self.calls if call.method == method]

    def env(self, token: str | None = None) -> dict[str, str]:
        return {
            "GITHUB_API_URL": self.address,
            "GITHUB_SERVER_URL": SERVER,
            "GH_TOKEN": self.token if token is None else token,
        }

    def pull(self, branch: str, *, base: str = "main", owner: str = "acme", sha: str = "1" * 40, **more: Any) -> dict[str, Any]:  # fmt: skip
        number = len(self.pulls) + 1
        made = {
            "number": number,
            "html_url": f"{SERVER}/{self.repository}/pull/{number}",
            "state": "open",
            "head": {"ref": branch, "sha": sha, "user": {"login": owner},
                     "repo": {"full_name": f"{owner}/adapters"}},
            "base": {"ref": base, "repo": {"full_name": self.repository}},
            **more,
        }  # fmt: skip
        self.pulls.append(made)
        return made

    def comment(self, number: int, body: str, *, login: str | None = None) -> dict[str, Any]:
        name = login or self.login or "github-actions[bot]"
        key = 1000 + len(self.calls) + len(self.comments)
        kind = "Bot" if name.endswith("[bot]") else "User"
        made = {
            "id": key,
            "html_url": f"{SERVER}/{self.repository}/pull/{number}#issuecomment-{key}",
            "body": body,
            "user": {"login": name, "type": kind},
            "issue": number,
        }
        self.comments[key] = made
        return made

    # -- what it answers ----------------------------------------------------------------------

    def answer(self, call: Call) -> tuple[int, Any]:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"message": f"Bad credentials {call.headers.get('authorization')}"}
        parts = urlsplit(call.path)
        asked = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/user":
            no = {"message": "Resource not accessible by integration"}
            return (200, {"login": self.login}) if self.login else (403, no)
        found = re.fullmatch(r"/repos/([^/]+/[^/]+)(/.*)?", parts.path)
        if found is not None and found[1] in self.forks:
            whole = {"fork": True, "parent": {"full_name": self.forks[found[1]]}}
            return 200, ([] if found[2] else {**whole, "default_branch": "main"})
        if found is None or found[1].lower() != self.repository.lower():
            return 404, {"message": "Not Found"}
        return self._of_repository(call, found[2] or "", asked)

    def _of_repository(self, call: Call, rest: str, asked: dict[str, str]) -> tuple[int, Any]:
        if rest == "":
            return 200, {"fork": False, "default_branch": "main"}
        if found := re.fullmatch(r"/pulls(?:/(\d+))?", rest):
            return self._of_pulls(call, found[1], asked)
        if found := re.fullmatch(r"/issues/(\d+)/comments", rest):
            return self._of_issue(call, int(found[1]), asked)
        if found := re.fullmatch(r"/issues/comments/(\d+)", rest):
            return self._of_comment(call, int(found[1]))
        return 404, {"message": "Not Found"}

    def _of_pulls(self, call: Call, number: str | None, asked: dict[str, str]) -> tuple[int, Any]:
        if number is not None:
            found = [pull for pull in self.pulls if pull["number"] == int(number)]
            return (200, found[0]) if found else (404, {"message": "Not Found"})
        if call.method == "POST":
            return self._open(call.body)
        owner, _, branch = asked.get("head", "").partition(":")
        listed = [pull for pull in self.pulls if pull["state"] == "open"]
        if branch:
            heads = [(p["head"]["user"]["login"], p["head"]["ref"]) for p in listed]
            listed = [p for p, head in zip(listed, heads, strict=True) if head == (owner, branch)]
        return 200, _page(listed, asked)

    def _of_issue(self, call: Call, number: int, asked: dict[str, str]) -> tuple[int, Any]:
        if call.method == "GET":
            listed = [c for c in self.comments.values() if c["issue"] == number]
            return 200, _page(listed, asked)
        if len(call.body["body"]) > 65536:
            errors = [{"message": "body is too long (maximum is 65536 characters)"}]
            return 422, {"message": "Validation Failed", "errors": errors}
        return 201, self.comment(number, call.body["body"])

    def _of_comment(self, call: Call, key: int) -> tuple[int, Any]:
        if key not in self.comments:
            return 404, {"message": "Not Found"}
        if call.method == "DELETE":
            del self.comments[key]
            return 204, None
        self.comments[key]["body"] = call.body["body"]
        return 200, self.comments[key]

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        owner, _, branch = body["head"].rpartition(":")
        same = [p for p in self.pulls if (p["head"]["ref"], p["base"]["ref"]) == (branch, body["base"])]  # fmt: skip
        wrong = "A pull request already exists for acme:topic." if same else ""
        if branch not in self.branches:
            wrong = "head is invalid"
        if wrong:
            return 422, {"message": "Validation Failed", "errors": [{"message": wrong}]}
        made = self.pull(
            branch, base=body["base"], owner=owner or "acme", sha=self.branches[branch]
        )
        return 201, {**made, "title": body["title"], "body": body["body"]}


def _page(items: list[Any], asked: dict[str, str]) -> list[Any]:
    size, page = int(asked.get("per_page", 30)), int(asked.get("page", 1))
    return items[(page - 1) * size : page * size]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FakeGitHub

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, headers, json.loads(data) if data else None)
        state = self.state
        state.calls.append(call)
        asked = f"{self.command} {self.path}"
        fault = next((f for f in state.faults if re.search(f.pattern, asked)), None)
        if fault is None:
            status, said = state.answer(call)
            self._send(status, {}, b"" if said is None else json.dumps(said).encode(), 0.0)
            return
        state.faults.remove(fault)
        if fault.done_first:
            state.answer(call)
        time.sleep(fault.wait)
        self._send(fault.status, fault.headers, fault.body, fault.drip)

    def _send(self, status: int, headers: dict[str, str], body: bytes, drip: float) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for at in range(0, len(body), 1 if drip else max(1, len(body))):
                self.wfile.write(body[at : at + 1] if drip else body)
                self.wfile.flush()
                time.sleep(drip)
        except OSError:
            self.close_connection = True  # whoever asked went away, as a test wants

    do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the library's names

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(**settings: Any) -> Iterator[FakeGitHub]:
    """A server on a free port of this machine, until the block ends."""
    state = FakeGitHub(**settings)
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
