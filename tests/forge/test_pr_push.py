"""`git soup pr --push` as it is typed, against a server that speaks as GitHub's API does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import Run
from tests.forge.fake_github import FakeGitHub, Fault
from tests.pinned import Refused

GH = f"""\
#!{sys.executable}
# Stands for GitHub's program: `gh auth token`, and `gh api`, which asks the server of the test.
import os, sys, urllib.error, urllib.request
words = sys.argv[1:]
open(os.environ["GH_LOG"], "a").write(" ".join(words) + "\\n")
if words[:2] == ["auth", "token"]:
    print("gho_stored")
    sys.exit(0 if os.environ.get("GH_HOSTS") == words[3] else 1)
body = sys.stdin.buffer.read() or None
token = "Bearer " + os.environ["GH_STORED"]
request = urllib.request.Request(
    os.environ["GH_SERVER"] + "/" + words[-1], data=body, method=words[words.index("--method") + 1],
    headers={{"Authorization": token}},
)
try:
    answer = urllib.request.urlopen(request)
except urllib.error.HTTPError as error:
    answer = error
sys.stdout.write(f"HTTP/2.0 {{answer.status}} {{answer.reason}}\\r\\n")
for name, value in answer.headers.items():
    sys.stdout.write(f"{{name}}: {{value}}\\r\\n")
sys.stdout.write("\\r\\n" + answer.read().decode())
sys.exit(answer.status >= 400)
"""


def pushed(root: Path) -> dict[str, str]:
    """Ref -> commit of what the remote has."""
    out = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname) %(objectname)"],
        cwd=root.parent / "origin.git", check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return dict(line.split() for line in out.splitlines())


def test_pushed_opened_commented_and_updated(
    forked: Path, soup: Run, git: Run, github: FakeGitHub
) -> None:
    head = git("rev-parse", "politer").stdout.strip()
    github.branches["politer"] = head
    before = pushed(forked)
    done = soup("pr", "Say please\n::error::x", "--push", env=github.env())
    there = pushed(forked)
    assert there["refs/heads/politer"] == head
    page = there["refs/soup/prs/say-please-error-x"]
    assert set(there) - set(before) == {"refs/heads/politer", "refs/soup/prs/say-please-error-x"}
    assert f"opened   {github.pulls[0]['html_url']}" in done.stdout
    assert done.stdout.startswith("look closer: ") or done.stdout.startswith("ready: ")
    [opened] = [call.body for call in github.calls if call.path.endswith("/pulls")]
    assert (opened["title"], opened["head"], opened["base"]) == ("Say please ::error::x", "politer", "main")  # fmt: skip
    [comment] = github.comments.values()
    lines = comment["body"].splitlines()
    assert lines[0] == "<!-- git-soup:say-please-error-x -->"
    assert f"https://github.com/acme/adapters/raw/{page}/heatmap.svg" in comment["body"]
    assert git("cat-file", "-t", f"{page}:heatmap.svg").stdout == "blob\n"

    done = soup("pr", "Say please\n::error::x", "--push", "--json", env=github.env())
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.pr-posted/1"
    assert (report["pull_request_state"], report["comment_state"]) == ("found", "unchanged")
    assert pushed(forked) == there
    git("commit", "-q", "--allow-empty", "-m", "More")
    report = json.loads(soup("pr", "Say please\n::error::x", "--push", "--json", env=github.env()).stdout)  # fmt: skip
    assert (report["number"], report["comment_state"]) == (1, "updated")
    assert pushed(forked)["refs/soup/prs/say-please-error-x"] == report["page"] != page
    assert git("rev-list", "--count", f"{page}..{report['page']}").stdout != "0\n", (
        "its history stays"
    )
    assert len(github.comments) == len(github.pulls) == 1
    assert github.token not in done.stdout + done.stderr


def test_through_gh(forked: Path, soup: Run, git: Run, github: FakeGitHub, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(GH)
    program.chmod(0o755)
    log = tmp_path / "gh.log"
    first = os.environ["PATH"].partition(os.pathsep)[0]
    env = {
        "PATH": f"{first}{os.pathsep}{program.parent}{os.pathsep}{os.environ['PATH']}",
        "GH_LOG": str(log), "GH_SERVER": github.address, "GH_STORED": github.token,
        "GH_HOSTS": "github.com",
    }  # fmt: skip
    github.pull("politer", sha=git("rev-parse", "politer").stdout.strip())
    github.faults.append(Fault("POST", 403, {"Retry-After": "0"}))
    report = json.loads(soup("pr", "--push", "--json", env=env).stdout)
    assert (report["number"], report["pull_request_state"], report["comment_state"]) == (1, "found", "created")  # fmt: skip
    assert "git-soup:politer" in github.comments[min(github.comments)]["body"]
    words = log.read_text()
    assert "auth token --hostname github.com" in words
    assert "gho_stored" not in words
    assert "answers.contains" not in words, "the page goes by stdin"
    done = soup("pr", "--push", env={**env, "GH_HOSTS": "elsewhere"}, check=False)
    assert (done.returncode, done.stdout) == (128, "")
    assert "nobody is logged in at github.com" in done.stderr


def test_in_a_fork_the_pull_request_is_above(
    forked: Path, soup: Run, git: Run, github: FakeGitHub
) -> None:
    git("remote", "set-url", "origin", "git@github.com:ada/adapters.git")
    git("config", f"url.{forked.parent}/origin.git.insteadOf", "git@github.com:ada/adapters.git")
    github.pull("politer", owner="ada")
    github.forks["ada/adapters"] = "acme/adapters"
    report = json.loads(soup("pr", "--push", "--json", env=github.env()).stdout)
    assert (report["repository"], report["number"]) == ("acme/adapters", 1)
    [comment] = github.comments.values()
    assert "https://github.com/ada/adapters/raw/" in comment["body"]


def test_what_is_refused_before_anything_is_pushed(
    forked: Path, soup: Run, git: Run, github: FakeGitHub, refused: Refused
) -> None:
    before = pushed(forked)
    refused(soup("pr", "--push", check=False), 128, "nobody is logged in", "gh auth login")
    refused(soup("pr", "--push", "--head", "politer~0", env=github.env(), check=False), 128, "is no branch here")  # fmt: skip
    assert soup("pr", "--push", "--no-ref", check=False).returncode == 129
    assert soup("pr", "--remote", "origin", check=False).returncode == 129
    wrong = {**github.env(), "GITHUB_SERVER_URL": "https://git.acme.example"}
    refused(soup("pr", "--push", env=wrong, check=False), 128, "not the API of github.com")
    git("remote", "add", "other", "https://user:hunter2@elsewhere.example/x")
    done = soup("pr", "--push", "--remote", "other", env=github.env(), check=False)
    refused(done, 128, "other is no repository on a GitHub server")
    assert "hunter2" not in done.stderr
    assert not github.calls
    done = soup("pr", "--push", env=github.env("ghp_expired"), check=False)
    refused(done, 128, "does not accept the token in GH_TOKEN", "gh auth login")
    assert "ghp_expired" not in done.stderr
    assert pushed(forked) == before
