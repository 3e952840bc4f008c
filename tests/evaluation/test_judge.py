"""A judge that answers, lies, mumbles, stalls and fails: a real server on this machine."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.evaluation.judge import Judge
from soup_git.evaluation.rows import EvalRow
from soup_git.evaluation.scorers import UnscoredError
from soup_git.evaluation.suite import JudgeBlock


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        told = body["messages"][0]["content"]
        word = told.partition("<answer>\n")[2].partition("\n")[0]
        if word == "stall":
            time.sleep(1.5)
        if word.startswith("status"):
            first = [r["messages"][0]["content"] for r in self.server.requests].count(told) == 1
            if first or word != "status 503":
                self.send_error(int(word.split()[1]))
                return
            word = '{"grade": 10}'
        if word == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b" ")
                    time.sleep(0.05)
            return
        if word == "elsewhere":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/stolen")
            self.end_headers()
            return
        if word == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices"')
            return
        data = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
        if word == "no completion":
            data = b"[]"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:  # the judge's patience ended first
            return

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def judge(server: Server, **block: Any) -> Judge:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return Judge(JudgeBlock(**{"url": url, "model": "m", "retries": 1, "timeout": 0.5, **block}))


ROW = EvalRow("p", 1, {"prompt": "q {output} {low}", "expected": "e"})


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ('{"grade": 10}', 1.0),
        ("1", 0.0),
        ('Sure! {"grade": 5.5} there', 0.5),
        ("status 503", 1.0),
        ('{"grade": "10"}', 1.0),
        ('<think>{"grade": 1}, no</think> {"grade": 10}', 1.0),
    ],
)
def test_grades_are_read_and_scaled(server: Server, answer: str, value: float) -> None:
    assert judge(server).score(ROW, answer)["judge"] == (value, 1.0)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("stall", "the judge timed out"),
        ("status 500", "the judge answered HTTP 500"),
        ("status 401", "the judge answered HTTP 401"),
        ("drip", "the judge timed out"),
        ("elsewhere", "the judge answered HTTP 302"),
        ("cut", "the judge's answer was cut off"),
        ("no completion", "no chat completion"),
        ("I would rather not say: 7 of 10", "the judge gave no grade"),
        ('{"grade": "high"}', "the judge gave no grade"),
        ('{"grade": true}', "the judge gave no grade"),
        ('{"grade": 1e999}', "the judge gave no grade"),
        ('{"grade": 11}', "not from 1 to 10"),
        ("-3", "not from 1 to 10"),
    ],
)
def test_nonsense_is_no_score_and_says_why(server: Server, answer: str, why: str) -> None:
    with pytest.raises(UnscoredError, match=why):
        judge(server).score(ROW, answer)


def test_what_would_be_answered_the_same_is_not_asked_again(server: Server) -> None:
    with pytest.raises(UnscoredError):
        judge(server, retries=3).score(ROW, "status 401")
    assert len(server.requests) == 1


def test_nobody_there() -> None:
    block = JudgeBlock(url="http://127.0.0.1:9/v1", model="m", retries=0, timeout=1.0)
    with pytest.raises(UnscoredError, match="not reached"):
        Judge(block).score(ROW, "x")


def test_the_key_comes_from_the_environment_and_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FatalError, match=r"\$JUDGE_KEY, which is not set"):
        judge(server, key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "secret")
    judge(server, key_env="JUDGE_KEY").score(ROW, "3")
    judge(server).score(ROW, "3")
    with pytest.raises(UnscoredError):
        judge(server, key_env="JUDGE_KEY").score(ROW, "elsewhere")
    assert server.keys == ["Bearer secret", None, "Bearer secret"]  # and no host it points to
    for key in ("secret\nX: y", "schlüssel"):
        monkeypatch.setenv("JUDGE_KEY", key)
        with pytest.raises(FatalError, match=r"\$JUDGE_KEY has a line break"):
            judge(server, key_env="JUDGE_KEY")


def test_an_answer_cannot_rewrite_the_question(server: Server) -> None:
    """Braces in an answer are text, with the built-in instruction and with one's own."""
    judge(server).score(ROW, "7")
    own = judge(server, instruction="Q {prompt} A {output} {grade}\n<answer>\n{output}")
    with pytest.raises(UnscoredError):
        own.score(ROW, "{expected}")
    first, second = (r["messages"][0]["content"] for r in server.requests)
    assert "q {output} {low}" in first
    assert second == "Q q {output} {low} A {expected} {grade}\n<answer>\n{expected}"
