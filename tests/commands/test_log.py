"""`git soup log`: which commits made which adapter, drawn by git itself."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import runner

FOLDER = "adapters/support"


def in_days():
    """Environments a day apart."""
    for day in range(1, 29):
        when = f"2026-03-{day:02}T12:00:00+01:00"
        yield {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}


@pytest.fixture(scope="module")
def template(repo_template, tmp_path_factory, make_adapter):
    """main: added, noise, updated, merged side (updated there, then noise), released."""
    root = tmp_path_factory.mktemp("log") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git, soup, days = runner("git", cwd=root), runner("git", "soup", cwd=root), in_days()

    def train(seed, message, folder=FOLDER):
        make_adapter(root / folder, seed=seed)
        soup("add", folder)
        git("commit", "-qm", message, env=next(days))

    def noise():
        git("commit", "-q", "--allow-empty", "-m", "Nothing of ours", env=next(days))

    train(1, "Add it")
    noise()
    git("checkout", "-q", "-b", "side")
    train(2, "Try another", "adapters/other")
    noise()
    git("checkout", "-q", "main")
    train(3, "Train it more")
    git("merge", "-q", "-m", "Join them", "side", env=next(days))
    noise()
    return root


@pytest.fixture
def story(template, git, in_tmp_path, monkeypatch):
    shutil.copytree(template, in_tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(in_tmp_path / "repo")
    git("update-index", "-q", "--refresh")
    return {s: c for c, s in (
        line.split(" ", 1) for line in git("log", "--all", "--format=%H %s").stdout.splitlines()
    )}  # fmt: skip


def rows(soup, *words):
    report = json.loads(soup("log", *words, "--json").stdout)
    assert report["schema"] == "soup.log/1"
    return report["commits"]


def test_only_commits_that_changed_an_adapter_with_their_parents(story, soup):
    found = {row["subject"]: row for row in rows(soup)}
    parents = {
        s: [next(k for k, v in story.items() if v == p) for p in r["parents"]]
        for s, r in found.items()
    }
    assert parents == {
        "Join them": ["Train it more", "Try another"],
        "Try another": ["Add it"],
        "Train it more": ["Add it"],
        "Add it": [],
    }
    kinds = {s: [(a["kind"], a["path"]) for a in r["adapters"]] for s, r in found.items()}
    assert kinds == {
        "Join them": [("merged", "adapters/other")],
        "Try another": [("added", "adapters/other")],
        "Train it more": [("updated", FOLDER)],
        "Add it": [("added", FOLDER)],
    }
    step = found["Add it"]["adapters"][0]
    assert (step["base"], step["rank"], len(step["weights"])) == ("tiny/base", 8, 32)


def test_the_graph_is_gits(story, git, soup):
    said = soup("log", "--graph").stdout.splitlines()
    firsts = [line for line in said if re.search(r"[0-9a-f]{7} 2026-", line)]
    theirs = git("log", "--graph", "--topo-order", "--format=%h", "--", "*adapter.manifest").stdout
    ours = [re.match(r"(\W+)([0-9a-f]{7})", line).groups() for line in firsts]
    commits = [m.groups() for line in theirs.splitlines() if (m := re.match(r"(\W+)([0-9a-f]{7})", line))]  # fmt: skip
    assert ours == commits
    assert firsts[-1] == f"* {story['Add it'][:7]} 2026-03-01 added adapters/support"
    assert said[-1] == "  Ada Author: Add it"
    assert any(line.startswith("|\\") for line in said)


def test_one_adapter_one_revision_a_range_and_a_number(story, git, soup):
    def subjects(*words):
        return [row["subject"] for row in rows(soup, *words)]

    assert subjects(FOLDER) == ["Train it more", "Add it"]
    assert subjects("HEAD:adapters/other") == ["Try another"]
    assert subjects("side") == ["Try another", "Add it"]
    assert subjects("side..main") == ["Join them", "Train it more"]
    assert subjects("-n", "1") == ["Join them"]
    assert set(subjects("--all", "side:adapters/other")) == {"Try another"}
    assert len(soup("log", "-n", "1", "--graph").stdout.splitlines()) == 2


def test_a_line_a_commit(story, git, soup):
    lines = soup("log", "--oneline", "-2").stdout.splitlines()
    listed = json.loads(soup("log", "-n", "2", "--json").stdout)["commits"]
    assert [line.split()[0] for line in lines] == [commit["commit"][:7] for commit in listed]
    assert all("commit  date" not in line for line in lines)
    drawn = soup("log", "--oneline", "--graph", "-1").stdout
    assert drawn.startswith("* ")
    assert drawn.count("\n") == 1


def test_a_renamed_adapter_keeps_its_past(story, git, soup):
    git("mv", FOLDER, "adapters/helper")
    git("commit", "-qam", "Call it helper", "--no-verify")
    found = rows(soup, "HEAD:adapters/helper")
    assert [row["subject"] for row in found] == ["Call it helper", "Train it more", "Add it"]
    step = found[0]["adapters"][0]
    assert (step["kind"], step["renamed_from"]) == ("renamed", FOLDER)


def test_refs_labels_and_results(story, git, soup):
    git("tag", "support/v1", "main~1")
    git("branch", "politer", "main~1")
    record = {
        "schema": "soup.eval/1", "adapter": FOLDER, "weights": "a" * 32, "suite": "gate",
        "suite_sha": "b" * 64, "at": "2026-04-01T00:00:00+00:00",
        "metrics": {"judge.score": {"value": 8.2, "stderr": 0.2, "n": 50}},
    }  # fmt: skip
    git("notes", "--ref=soup", "add", "-m", json.dumps(record), "main~1")
    blob = git("rev-parse", f"{story['Train it more']}:{FOLDER}/adapter.manifest").stdout.strip()
    record["metrics"] = {"judge.score": {"value": 7.4, "stderr": 0.2, "n": 50}}
    git("notes", "--ref=soup", "add", "-m", f"not ours\n{json.dumps(record)}", blob)
    found = {row["subject"]: row for row in rows(soup)}
    assert found["Join them"]["refs"] == ["politer", "tag: support/v1"]
    assert found["Join them"]["metrics"]["judge.score"] == {"value": 8.2, "stderr": 0.2, "n": 50}
    assert found["Train it more"]["evaluated"] == "judge.score 7.4 ±0.2"
    table = soup("log").stdout
    assert "judge.score 8.2 ±0.2" in table
    assert "politer, tag: support/v1" in table


def test_pins_are_part_of_it(pinned, soup, git):
    soup("branch", "eu", "--base", "models/tiny")
    found = rows(soup, "eu")
    assert found[0]["kind"] in {"branched", "changed"}
    assert {row["kind"] for row in rows(soup, "main")} <= {"added", "pinned", "trained", "branched"}


def test_hostile_messages_draw_nothing(story, git, soup, make_adapter):
    evil = "* \x01fake \x1b[31m\u202e"
    make_adapter(FOLDER, seed=9)
    soup("add", FOLDER)
    git("commit", "-qm", evil, env={"GIT_AUTHOR_NAME": "E\x1bve\x02 | *"})
    git("update-ref", "refs/heads/x\u202e", "HEAD")
    for words in (["log", "--graph"], ["log"], ["log", "--format", "markdown"]):
        said = soup(*words).stdout
        assert not set(said) & set("\x01\x02\x1b\u202e")
    lines = soup("log", "--graph").stdout.splitlines()
    assert lines[1].endswith("* \\x01fake \\x1b[31m\\u202e")
    assert len(rows(soup)) == 5


def test_the_users_log_settings_do_not_matter(story, git, soup):
    before = soup("log", "--graph").stdout
    for key, value in (
        ("log.follow", "true"), ("log.showSignature", "true"), ("format.pretty", "fuller"),
        ("color.ui", "always"), ("log.decorate", "full"), ("diff.renames", "false"),
        ("log.diffMerges", "combined"), ("log.date", "relative"),
    ):  # fmt: skip
        git("config", key, value)
    assert soup("log", "--graph").stdout == before


@pytest.mark.parametrize("words", [["nothing"], ["main..nothing"], ["--", "-x"], ["HEAD:nothing"]])
def test_what_names_nothing(story, soup, words):
    done = soup("log", *words, check=False)
    assert done.returncode in {128, 129}
    assert "hint: " in done.stderr
    assert done.stdout == ""


def test_before_the_first_commit_and_without_adapters(in_tmp_path, git, soup):
    git("init", "-q")
    soup("init")
    assert "no commit yet" in soup("log", check=False).stderr
    Path("x").touch()
    git("add", "x")
    git("commit", "-qm", "x")
    assert soup("log").stdout == "no commit here changed an adapter yet\n"
