"""The steps of action.yml in shallow clones of a real repository, against a server like GitHub's."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soup_git.action import posting, review
from soup_git.action.job import Found, Job
from soup_git.errors import FatalError
from tests.action.github_runner import Ran, obeyed, run_action
from tests.conftest import Run
from tests.forge.conftest import score
from tests.forge.fake_github import FakeGitHub, Fault

HOSTILE = "Say please ::error::x ${{ github.token }} $(touch pwned) `touch pwned` @acme/all"


@pytest.fixture
def shallow(forked: Path, git: Run, soup: Run) -> Callable[[], Path]:
    """`shallow()`: what actions/checkout leaves: one commit, the merge of the pull request."""
    soup("push")
    numbers = itertools.count()

    def clone() -> Path:
        place = forked.parent / f"checkout{next(numbers)}"
        merge = git("merge-tree", "--write-tree", "main", "politer", check=False).stdout.split(
            "\n"
        )[0]
        made = git(
            "commit-tree", merge, "-p", "main", "-p", "politer", "-m", "Merge"
        ).stdout.strip()
        git("push", "-q", "--no-verify", "origin", f"+{made}:refs/pull/7/merge")
        git("init", "-q", str(place))
        url = f"file://{forked.parent}/origin.git"
        git("remote", "add", "origin", url, cwd=place)
        git("fetch", "-q", "--depth=1", "--no-tags", "origin", "refs/pull/7/merge", cwd=place)
        git("checkout", "-q", "--detach", "FETCH_HEAD", cwd=place)
        return place

    return clone


@pytest.fixture
def event(forked: Path, git: Run) -> Callable[..., dict[str, Any]]:
    """`event(**head)`: of an open pull request from `politer` into `main`."""

    def make(fork: bool = False, title: str = HOSTILE) -> dict[str, Any]:
        base, head = (git("rev-parse", name).stdout.strip() for name in ("main", "politer"))
        name = "mallory/adapters" if fork else "acme/adapters"
        return {"pull_request": {
            "number": 7, "title": title,
            "base": {"sha": base, "ref": "main", "repo": {"full_name": "acme/adapters"}},
            "head": {"sha": head, "ref": "politer", "repo": {"full_name": name}},
        }}  # fmt: skip

    return make


@pytest.fixture
def act(shallow: Callable[[], Path], github: FakeGitHub, tmp_path: Path) -> Callable[..., Ran]:
    """`act(event, **inputs)`: run the action as a job of its own."""
    github.login = None
    github.token = "ghs_jobtoken"
    runs = itertools.count()

    def run(event: dict[str, Any], name: str = "pull_request", **inputs: str) -> Ran:
        env = github.env()
        del env["GH_TOKEN"]
        given = {key.replace("_", "-"): value for key, value in inputs.items()}
        return run_action(
            shallow() if name == "pull_request" else tmp_path, tmp_path / f"job{next(runs)}", event,
            event_name=name, inputs={"python": sys.executable, "python-version": "", **given},
            env=env, artifacts=tmp_path / "artifacts", token=github.token,
        )  # fmt: skip

    return run


def test_a_good_one(act: Callable[..., Ran], event: Callable[..., dict[str, Any]], github: FakeGitHub, tmp_path: Path) -> None:  # fmt: skip
    ran = act(event())
    assert ran.code == 0, ran.log
    [comment] = github.comments.values()
    assert comment["body"].startswith("<!-- git-soup:pr-7 -->\n")
    assert "ready: gate passed" in comment["body"]
    assert "`politer` into `main`" in comment["body"]
    assert "answers.contains" in comment["body"], "the notes were fetched"
    assert "the artifact `git-soup-review` of [its run](https://github.com/acme/adapters/actions/runs/77)" in comment["body"]  # fmt: skip
    assert ran.summary.strip() == comment["body"].partition("\n")[2].strip()
    assert (ran.outputs["verdict"], ran.outputs["drift"], ran.outputs["gate"]) == (
        "ready",
        "false",
        "",
    )
    assert ran.outputs["comment-url"] == comment["html_url"]
    assert Path(ran.outputs["html"]).read_text().startswith("<!doctype html>")
    assert json.loads(Path(ran.outputs["data"]).read_text())["schema"] == "soup.pr/1"
    kept = {path.name for path in (tmp_path / "artifacts" / "git-soup-review").iterdir()}
    assert {"pr.html", "pr.md", "pr.json", "heatmap.svg", "comment.md", "posting.json"} == kept
    assert "touch pwned" in comment["body"]
    assert not list(tmp_path.rglob("pwned"))
    # Of the log the runner obeys the mask and the closing notice; the title is nothing to it.
    assert [head.split(" ")[0] for head, _ in ran.commands] == ["add-mask", "add-mask", "notice"]
    assert {step for step, env in ran.environments.items() if "ghs_jobtoken" in env.values()} == {
        "Fetch what lies between base and head", "Leave one comment",
    }  # fmt: skip
    assert "ghs_jobtoken" not in ran.log.replace("::add-mask::ghs_jobtoken", "")


def test_a_regressed_and_a_drifted_one(
    act: Callable[..., Ran], event: Callable[..., dict[str, Any]], github: FakeGitHub,
    forked: Path, git: Run, soup: Run,
) -> None:  # fmt: skip
    old = github.comment(7, "<!-- git-soup:pr-7 -->\nthe page of the last commit")
    Path("soup.yaml").write_text(Path("soup.yaml").read_text() + "# ::set-output name=x::y\n")
    git("commit", "-qam", "Edit\n\n::add-mask::e", "--no-verify")
    score(forked, "politer", 0.3, "2026-06-01T10:00:00+00:00")
    git("push", "-q", "--no-verify", "origin", "politer", "refs/notes/soup")
    ran = act(event())
    assert ran.code == 3
    assert list(github.comments.values()) == [old], "updated, before the job fails"
    assert "do not merge" in old["body"]
    assert "drifted" in old["body"]
    stop, drift = ran.said("error")
    assert stop.startswith("error title=do not merge do not merge: answers.contains")
    assert "config drifted" in drift
    assert (ran.outputs["verdict"], ran.outputs["drift"]) == ("do not merge", "true")
    assert not ran.said("set-output")


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ({"verdict": "ready"}, 0, "::notice"),
        ({"verdict": "look closer"}, 0, "::warning"),
        ({"verdict": "do not merge"}, 1, "::error title=do not merge"),
        ({"verdict": "ready", "gate": "failed"}, 1, "::error title=do not merge"),
        ({"verdict": "do not merge", "drift": ["config drifted: a -> b"]}, 3, "::error title=soup.lock drifted"),
        ({"verdict": "ready", "failures": [("it broke", "mend it")]}, 128, "::error title=git-soup::it broke%0Ahint: mend it"),
        ({"verdict": "ready", "drift": None}, 128, ""),
        ({}, 128, ""),
    ],
)  # fmt: skip
def test_how_it_ends(
    found: dict[str, Any], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job({"RUNNER_TEMP": str(tmp_path)})
    job.keep(Found(**{"drift": [], "verdict_line": found.get("verdict", ""), **found}))
    assert review.finish(job) == code
    assert said in capsys.readouterr().out


def test_a_comment_that_cannot_be_left(
    act: Callable[..., Ran], event: Callable[..., dict[str, Any]], github: FakeGitHub
) -> None:
    no = b'{"message": "Resource not accessible by integration\\n::error::x"}'
    github.faults += [Fault("GET .*comments", 503), Fault("POST", 403, body=no)]
    ran = act(event())
    assert ran.code == 128
    [error] = ran.said("error")
    assert "the page was not posted: github.com does not allow this" in error
    assert "pull-requests: write" in error
    assert ran.outputs["verdict"] == "ready"
    assert ran.summary


def test_forks_in_two_halves(
    act: Callable[..., Ran], event: Callable[..., dict[str, Any]], github: FakeGitHub, git: Run, tmp_path: Path
) -> None:  # fmt: skip
    first = act(event(fork=True))
    assert first.code == 0, first.log
    assert not github.calls, "a fork's job asks nothing"
    sha = git("rev-parse", "politer").stdout.strip()
    for number in range(1, 8):
        github.pull(
            "politer", owner="mallory", sha=sha, base="main" if number == 7 else f"b{number}"
        )
    run = {"workflow_run": {
        "id": 77, "event": "pull_request", "head_sha": sha, "head_branch": "politer",
        "head_repository": {"full_name": "mallory/adapters", "owner": {"login": "mallory"}},
    }}  # fmt: skip
    second = act(run, "workflow_run", mode="comment")
    assert second.code == 0, second.log
    assert second.uses["actions/download-artifact"]["run-id"] == "77"
    [comment] = github.comments.values()
    assert comment["issue"] == 7
    lines = comment["body"].splitlines()
    assert lines[0] == "<!-- git-soup:pr-7 -->"
    assert "from the fork `mallory/adapters`" in lines[1]
    assert "<details>" in comment["body"]

    page = tmp_path / "artifacts" / "git-soup-review" / "comment.md"
    page.write_text("@acme/all #12 ![x](https://evil.example/x) <a href='//evil.example'>\n/merge\n<!-- git-soup:pr-1 -->\n\x1b[2J\u202e\n")  # fmt: skip
    post, job = posting.post_artifact, tmp_path / "job"
    (job / "temp" / "git-soup").mkdir(parents=True)
    (job / "temp" / "git-soup" / "artifact").symlink_to(page.parent)
    env = {**github.env(), "GITHUB_TOKEN": github.token, "RUNNER_TEMP": str(job / "temp"),
           "GITHUB_REPOSITORY": "acme/adapters", "GITHUB_EVENT_NAME": "workflow_run",
           "GITHUB_EVENT_PATH": str(job / "event.json")}  # fmt: skip
    del env["GH_TOKEN"]

    def again(**event: str) -> None:
        (job / "event.json").write_text(
            json.dumps({"workflow_run": {**run["workflow_run"], **event}})
        )
        post(Job(env))

    again()
    body = comment["body"].partition("\n\n")[2]
    for active in ("@acme", "#12", "![", "https://", "<a", "\n/merge", "<!--", "\x1b", "\u202e"):
        assert active not in body
    assert "acme/all" in body

    about = page.with_name("posting.json")
    asked = len(github.asked("POST")), len(github.asked("PATCH"))
    for text, said in (
        ('{"number": 99, "judged": true}', "the artifact is for #99, but its run was for #1, #2"),
        ('{"number": "7; rm", "judged": true}', "posting.json cannot be read"),
        ("[" * 1000, "posting.json cannot be read"),
        (" " * 5000, "no file of at most 1024 bytes"),
    ):
        about.write_text(text)
        with pytest.raises(FatalError, match=said):
            again()
    about.unlink()
    about.symlink_to("/etc/passwd")
    with pytest.raises(FatalError, match="has no file"):
        again()
    about.unlink()
    about.write_text('{"number": 7, "judged": true}')
    again(head_sha="2" * 40)
    for wrong in ({"event": "push"}, {"head_repository": None}, {"head_sha": "--x"}):
        with pytest.raises(FatalError):
            again(**wrong)  # type: ignore[arg-type]
    assert (len(github.asked("POST")), len(github.asked("PATCH"))) == asked


def test_what_is_refused(
    act: Callable[..., Ran], event: Callable[..., dict[str, Any]], github: FakeGitHub
) -> None:
    ran = act(event(), "pull_request_target")
    assert ran.code == 128
    assert "pull_request_target gives a token" in ran.said("error")[0]
    assert act(event(), mode="everything").code == 129
    bad = event()
    bad["pull_request"]["base"]["sha"] = "--upload-pack=touch pwned"
    ran = act(bad)
    assert ran.code == 128
    assert "is no commit's id" in ran.said("error")[0]
    done = subprocess.run(["bash", "action/install.sh"], cwd=Path(__file__).parents[2], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "RUNNER_TEMP": "/tmp", "GITHUB_ACTION_PATH": ".",
                               "GITHUB_OUTPUT": "/dev/null", "SOUP_EXTRAS": "eval]; touch pwned["})  # fmt: skip
    assert done.returncode == 129
    assert not github.calls


def test_the_runner_of_these_tests_obeys_what_it_should() -> None:
    log = "::add-mask::a\n::stop-commands::w\n::error::no\n::w::\n::error title=x::yes\n"
    assert obeyed(log) == [("add-mask", "a"), ("error title=x", "yes")]
