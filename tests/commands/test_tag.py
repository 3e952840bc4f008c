"""`git soup tag`: versions that never move, labels that do, both git's own tags."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import runner

FOLDER = "adapters/support"


@pytest.fixture(scope="module")
def template(repo_template, tmp_path_factory, make_adapter):
    root = tmp_path_factory.mktemp("tag") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git = runner("git", cwd=root)
    for seed in (1, 2):
        make_adapter(root / FOLDER, seed=seed)
        git("soup", "add", FOLDER)
        git("commit", "-qm", f"Train {seed}")
    return root


@pytest.fixture
def trained(template, git, in_tmp_path, monkeypatch):
    shutil.copytree(template, in_tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(in_tmp_path / "repo")
    git("update-index", "-q", "--refresh")
    return [git("rev-parse", rev).stdout.strip() for rev in ("HEAD~1", "HEAD")]


def rows(soup):
    report = json.loads(soup("tag", "--json").stdout)
    assert report["schema"] == "soup.tags/1"
    return [(r["name"], r["version"], r["labels"], r["commit"]) for r in report["tags"]]


def test_a_version_is_an_annotated_tag_that_says_what_it_is(trained, git, soup):
    record = {
        "schema": "soup.eval/1", "adapter": FOLDER, "weights": "a" * 32, "suite": "gate",
        "suite_sha": "b" * 64, "at": "2026-04-01T00:00:00+00:00",
        "metrics": {"judge.score": {"value": 8.2, "stderr": 0.2, "n": 50}},
    }  # fmt: skip
    git("notes", "--ref=soup", "add", "-m", json.dumps(record), "HEAD")
    said = soup("tag", "support").stdout
    assert said.startswith(f"support/v1 is {trained[1][:7]} {FOLDER} md5:")
    assert git("cat-file", "-t", "support/v1").stdout == "tag\n"
    assert git("rev-parse", "support/v1^{commit}").stdout.strip() == trained[1]
    text = git("tag", "-l", "--format=%(taggername)%0a%(contents)", "support/v1").stdout
    md5 = json.loads(soup("show", "HEAD", "--json").stdout)["weights_md5"]
    assert text.startswith("Carl Committer\nsupport v1\n\n")
    assert f"Soup-Weights: md5:{md5} " in text
    assert "Soup-Base-Model: tiny/base\n" in text
    assert "Soup-Metric: judge.score 8.2 ±0.2\n" in text
    assert git("fsck", "--strict").returncode == 0
    assert git("describe").stdout == "support/v1\n"


def test_the_next_number_and_one_that_is_named(trained, git, soup):
    soup("tag", "support", "HEAD~1")
    soup("tag", "support", "--as", "v5")
    assert soup("tag", "support", "--as", "v6").stdout.startswith("support/v6 is")
    done = soup("tag", "support", "--as", "v5", check=False)
    assert done.returncode == 128
    assert "a version never moves" in done.stderr
    assert [(v, c) for _, v, _, c in rows(soup)] == [("v1", trained[0]), ("v5", trained[1]), ("v6", trained[1])]  # fmt: skip


def test_a_label_moves_and_its_past_stays_in_the_reflog(trained, git, soup):
    soup("tag", "support", "HEAD~1")
    soup("tag", "support")
    assert "support/prod is" in soup("tag", "support", "v1", "--as", "prod").stdout
    moved = soup("tag", "support", "v2", "--as", "prod").stdout
    assert f"moved from {trained[0][:7]} to {trained[1][:7]}" in moved
    assert git("rev-parse", "support/prod").stdout.strip() == trained[1]
    assert git("cat-file", "-t", "support/prod").stdout == "commit\n"
    assert git("rev-parse", "refs/tags/support/prod@{1}").stdout.strip() == trained[0]
    assert "already" in soup("tag", "support", "v2", "--as", "prod").stdout
    soup("tag", "support", "v2", "--as", "staging")
    assert rows(soup) == [
        ("support", "v1", [], trained[0]),
        ("support", "v2", ["prod", "staging"], trained[1]),
    ]
    table = soup("tag").stdout.splitlines()
    assert table[0].split() == ["name", "version", "labels", "commit", "date"]
    assert table[2].split() == ["support", "v2", "prod,", "staging", trained[1][:7], "2026-01-02"]


def test_the_moved_label_travels_as_it_says(trained, git, soup, in_tmp_path):
    git("init", "-q", "--bare", "../hub")
    git("remote", "add", "origin", "../hub")
    with Path(".dvc/config").open("a") as config:
        config.write("[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n")
    soup("push")
    for rev in ("HEAD~1", "HEAD"):
        said = soup("tag", "support", rev, "--as", "prod").stdout.splitlines()[1]
        git(*said.partition(" publishes")[0].split()[1:])
    assert git("rev-parse", "support/prod", cwd=in_tmp_path / "hub").stdout.strip() == trained[1]


def test_labels_without_a_version_are_listed_and_other_tags_are_not(trained, git, soup):
    git("tag", "release/candidate", "HEAD~2")
    git("tag", "-a", "-m", "x", "api/v2")
    git("tag", "plain")
    soup("tag", "support", "--as", "prod")
    assert rows(soup) == [("support", None, ["prod"], trained[1])]


def test_a_tag_in_the_way_is_said_and_left(trained, git, soup):
    git("tag", "support")
    for words in (["tag", "support"], ["tag", "support", "--as", "prod"]):
        done = soup(*words, check=False)
        assert done.returncode == 128
        assert "fatal: a tag called support is in the way" in done.stderr
    assert git("tag").stdout == "support\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["support", "nothing"], "names no commit"),
        (["support", "HEAD~2"], "has 0 adapters"),
        (["a b"], "not a valid adapter name"),
        (["support", "--as", "a..b"], "not a valid label name"),
        (["support", "--adapter", "adapters/none"], "no adapter at"),
    ],
)
def test_what_cannot_be_released(trained, git, soup, words, why):
    done = soup("tag", *words, check=False)
    assert done.returncode == 128
    assert why in done.stderr
    assert git("tag").stdout == ""


def test_of_several_adapters_the_one_of_that_name(trained, git, soup, make_adapter):
    make_adapter("adapters/legal", seed=5)
    soup("add", "adapters/legal")
    git("commit", "-qm", "Another")
    assert "adapters/legal" in soup("tag", "legal").stdout
    assert "has 2 adapters" in soup("tag", "release", check=False).stderr
    assert FOLDER in soup("tag", "release", "--adapter", f"./{FOLDER}/").stdout


def test_the_same_adapter_is_released_once_unless_a_version_is_named(trained, git, soup):
    soup("tag", "support", "HEAD~1")
    soup("tag", "support")
    for revision, version in (("HEAD", "v2"), ("HEAD~1", "v1")):
        again = soup("tag", "support", revision)
        assert again.stdout.startswith(f"support/{version} is ")
        assert again.stdout.endswith(" already\n")
    soup("tag", "support", "--as", "v3")
    soup("tag", "support", "--as", "prod")
    labels = {
        row["version"]: row["labels"] for row in json.loads(soup("tag", "--json").stdout)["tags"]
    }
    assert labels == {"v1": [], "v2": [], "v3": ["prod"]}


def test_several_people_releasing_at_once_get_a_number_for_each_adapter(trained, git):
    started = [
        subprocess.Popen(["git", "soup", "tag", "support", revision], stdout=subprocess.PIPE)
        for revision in ("HEAD", "HEAD~1") * 2
    ]
    said = [process.communicate()[0].decode().split()[0] for process in started]
    assert set(said) == {"support/v1", "support/v2"}
    assert said[:2] == said[2:]
    assert not list(Path(".git").rglob("*.lock"))
