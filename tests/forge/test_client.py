"""The client against a server that refuses, stumbles, drips and lies."""

from __future__ import annotations

import threading
import time

import pytest

from soup_git.errors import FatalError
from soup_git.forge import comments, pulls
from soup_git.forge.address import Repository
from soup_git.forge.api import Api
from soup_git.forge.client import Client, Patience
from tests.forge.fake_github import FakeGitHub, Fault, serving

HUB = Repository("github.com", "acme", "adapters")
QUICK = Patience(request=5.0, attempts=4, first_wait=0.01, longest_wait=1.0, altogether=20.0)


def client(github: FakeGitHub, patience: Patience = QUICK, token: str = "") -> Client:
    return Client(Api(github.address, token or github.token, "GH_TOKEN"), HUB, patience)


def test_one_comment_is_made_then_updated_then_left(github: FakeGitHub) -> None:
    github.pull("topic")
    for number in range(205):
        github.comment(1, f"talk {number}", login="bob")
    first = comments.post(client(github), 1, "topic", "page 1\n")
    second = comments.post(client(github), 1, "topic", "page 2\n")
    third = comments.post(client(github), 1, "topic", "page 2\n")
    assert [one.state for one in (first, second, third)] == ["created", "updated", "unchanged"]
    assert first.url == second.url == third.url
    assert len(github.comments) == 206
    assert github.comments[max(github.comments)]["body"] == "<!-- git-soup:topic -->\npage 2\n"
    assert len(github.asked("POST")) == len(github.asked("PATCH")) == 1
    assert {call.headers["authorization"] for call in github.calls} == {f"Bearer {github.token}"}
    assert not any(github.token in call.path for call in github.calls)


def test_a_marker_that_somebody_else_wrote_is_not_ours(github: FakeGitHub) -> None:
    planted = github.comment(1, "<!-- git-soup:topic -->\ntake me", login="mallory")
    quoted = github.comment(1, "> <!-- git-soup:topic -->\nas it said")
    posted = comments.post(client(github), 1, "topic", "page")
    assert posted.state == "created"
    assert (planted["body"], quoted["body"]) == ("<!-- git-soup:topic -->\ntake me", "> <!-- git-soup:topic -->\nas it said")  # fmt: skip
    github.login = None  # an app: only a bot's comment can be its own
    posted = comments.post(client(github), 1, "topic", "page")
    assert posted.state == "created"
    assert comments.post(client(github), 1, "topic", "page").state == "unchanged"


def test_runs_at_the_same_time_leave_one_comment(github: FakeGitHub) -> None:
    runs = [
        threading.Thread(target=comments.post, args=(client(github), 1, "topic", f"page {n}"))
        for n in range(4)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    comments.post(client(github), 1, "topic", "the last")
    assert [comment["body"].partition("\n")[2] for comment in github.comments.values()] == ["the last"]  # fmt: skip


def test_what_passes_is_asked_again(github: FakeGitHub) -> None:
    again = {"Retry-After": "0"}
    github.faults += [
        Fault("GET /user", 502),
        Fault("GET .*comments", 429, again),
        Fault("POST", 403, again, b'{"message": "You have exceeded a secondary rate limit"}'),
        Fault("POST", 500, done_first=True),
        Fault("GET .*comments", 503),
    ]
    assert comments.post(client(github), 1, "topic", "page").state == "unchanged"
    assert len(github.comments) == 1, "the answer to POST was lost, the comment was not"
    github.faults.append(Fault("PATCH", 404))
    assert comments.post(client(github), 1, "topic", "other").state == "updated"


@pytest.mark.parametrize(
    ("status", "body", "headers", "said", "hint"),
    [
        (401, b'{"message": "Bad credentials"}', {}, "does not accept the token in GH_TOKEN", "gh auth login"),
        (403, b'{"message": "Resource not accessible by integration"}', {}, "does not allow this", "pull-requests: write"),
        (404, b"<html>", {}, "acme/adapters at github.com is not there", "git remote -v"),
        (422, b'{"message": "Validation Failed", "errors": [{"message": "\\u001b[31mno\\u202e"}]}', {},
         "Validation Failed; \\x1b[31mno\\u202e", "/pulls"),
        (302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}, "has moved", "git remote set-url"),
        (429, b'{"message": "slow down"}', {"Retry-After": "3600"}, "no more requests for now: slow down", "3600"),
        (403, b'{"message": "limit"}', {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999999999"}, "no more requests", "seconds"),
        (200, b"[[[[", {}, "no answer of GitHub's API", "GITHUB_API_URL"),
        (200, b'{"login": 7}', {}, "no answer of GitHub's API", "GITHUB_API_URL"),
    ],
)  # fmt: skip
def test_a_clear_end(github: FakeGitHub, status: int, body: bytes, headers: dict[str, str], said: str, hint: str) -> None:  # fmt: skip
    # 403 and 404 at /user only say that an app asks, so these meet the next question.
    github.faults.append(Fault("GET /user" if status in {401, 200} else "GET .*comments", status, headers, body))  # fmt: skip
    started = time.monotonic()
    with pytest.raises(FatalError) as caught:
        comments.post(client(github), 1, "topic", "page")
    assert said in str(caught.value)
    assert hint in caught.value.hint
    assert not github.comments
    assert time.monotonic() - started < 1.0


def test_the_token_is_never_said_back(github: FakeGitHub) -> None:
    wrong = "ghp_wrongwrongwrong"
    with pytest.raises(FatalError) as caught:
        comments.post(client(github, token=wrong), 1, "topic", "page")
    assert "Bad credentials Bearer ***" in str(caught.value)
    assert wrong not in f"{caught.value}{caught.value.hint}"


@pytest.mark.parametrize("fault", [Fault("", wait=0.5), Fault("", 200, drip=0.05), Fault("", 503)])
def test_too_slow_has_an_end(github: FakeGitHub, fault: Fault) -> None:
    github.faults += [fault] * 9
    patience = Patience(request=0.1, attempts=3, first_wait=0.01, altogether=3.0)
    with pytest.raises(FatalError, match="did not answer"):
        comments.post(client(github, patience), 1, "topic", "page")
    assert len(github.calls) == 3


def test_nobody_there() -> None:
    with serving() as github:
        pass
    with pytest.raises(FatalError, match="did not answer"):
        comments.post(client(github), 1, "topic", "page")


def test_a_page_that_no_comment_holds_and_a_slug_that_is_no_name(github: FakeGitHub) -> None:
    with pytest.raises(FatalError, match="a comment holds 65536"):
        comments.post(client(github), 1, "topic", "x" * 65536)
    with pytest.raises(FatalError, match="not a valid slug"):
        comments.post(client(github), 1, "topic --> <b>", "page")
    assert not github.calls


def test_the_pull_request_of_a_branch(github: FakeGitHub) -> None:
    assert pulls.of_branch(client(github), "acme", "topic") == []
    github.pull("topic")
    github.pull("topic", owner="mallory")
    github.pull("topic", base="dev")
    github.pull("old", state="closed")
    found = pulls.of_branch(client(github), "acme", "topic")
    assert [one.number for one in found] == [1, 3]
    chosen = pulls.chosen(found, "dev")
    assert chosen is not None
    assert chosen.number == 3
    with pytest.raises(FatalError, match="#1 into main, #3 into dev"):
        pulls.chosen(found, None)
    assert pulls.of_branch(client(github), "acme", "to&state=closed&x=") == []


def test_opening_one(github: FakeGitHub) -> None:
    asked = {"title": "T" * 300, "body": "b", "owner": "acme", "branch": "topic", "base": "main"}
    with pytest.raises(FatalError, match="head is invalid"):
        pulls.open_one(client(github), **asked)
    github.branches["topic"] = "1" * 40
    github.faults.append(Fault("POST", 502, done_first=True))
    made, new = pulls.open_one(client(github), **asked)
    assert (made.number, new, made.base_branch) == (1, True, "main")
    assert len(github.pulls) == 1, "the lost answer opened no second one"
    assert github.calls[-2].body["title"] == "T" * 256
    again, new = pulls.open_one(client(github), **asked)
    assert (again, new) == (made, False)
