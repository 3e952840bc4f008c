"""`git soup verify` of a merged adapter: made again from its recipe. Trained ones: tests/pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def merged(repo: Path, soup, git, make_adapter) -> Path:
    for number, name in enumerate(("a", "b", "c")):
        make_adapter(f"adapters/{name}", seed=number)
    soup("add", "adapters/a", "adapters/b", "adapters/c")
    git("commit", "-qm", "three")
    return repo


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--weights", "0.25,0.5,0.25"),
        ("--strategy", "ties", "--density", "0.4"),
        ("--strategy", "dare", "--seed", "3"),
        ("--strategy", "svd", "--rank", "3"),
        ("--strategy", "ties", "--space", "factors"),
        ("--expr", "a + 0.5*b - c"),
    ],
)
def test_a_recipe_suffices(merged: Path, soup, git, options: tuple[str, ...]) -> None:
    soup("merge", "adapters/a", "adapters/b", "adapters/c", "-o", "adapters/m", *options)
    soup("add", "adapters/m")
    git("commit", "-qm", "merge")
    report = json.loads(soup("verify", "--adapter", "adapters/m", "--json").stdout)
    assert report["verdict"] == "identical"
    assert report["expected_md5"] == report["rebuilt_md5"]


def test_the_verdict_is_noted_once_for_reviewers(merged: Path, soup, git) -> None:
    soup("merge", "adapters/a", "adapters/b", "-o", "adapters/m")
    soup("add", "adapters/m")
    git("commit", "-qm", "merge")
    soup("verify", "--adapter", "adapters/m", "--no-note")
    assert "no note found" in git("notes", "--ref=soup", "show", check=False).stderr.lower()
    assert "noted on" in soup("verify", "--adapter", "adapters/m").stderr
    assert soup("verify", "--adapter", "adapters/m").stderr == ""
    (line,) = git("notes", "--ref=soup", "show").stdout.splitlines()
    assert json.loads(line)["verdict"] == "identical"
    page = json.loads(soup("pr", "--base", "HEAD~1", "--json").stdout)
    assert page["adapters"][0]["reproduction"]["state"] == "identical"
    assert page["adapters"][0]["recipe"]


def test_inputs_that_are_gone_from_the_tree_are_found_in_history(merged: Path, soup, git) -> None:
    soup("merge", "HEAD:adapters/a", "HEAD:adapters/b", "-o", "adapters/m")
    git("tag", "inputs")
    git("rm", "-rq", "adapters/a", "adapters/b", "adapters/c")
    soup("add", "adapters/m")
    git("commit", "-qm", "only the merge")
    assert "identical" in soup("verify").stdout


def test_an_input_that_nobody_tracks_is_named(merged: Path, soup, git, make_adapter) -> None:
    make_adapter("elsewhere", seed=9)
    soup("merge", "adapters/a", "./elsewhere", "-o", "adapters/m")
    soup("add", "adapters/m")
    git("commit", "-qm", "merge")
    done = soup("verify", "--adapter", "adapters/m", check=False)
    assert done.returncode == 128
    assert "elsewhere" in done.stderr
    assert "hint: git soup add" in done.stderr


def test_an_adapter_that_was_added_has_nothing_to_be_rebuilt_from(merged: Path, soup) -> None:
    done = soup("verify", "--adapter", "adapters/a", check=False)
    assert done.returncode == 128
    assert "no soup.lock" in done.stderr


def test_in_a_fresh_clone_what_is_needed_is_fetched(
    repo: Path, soup, git, make_adapter, in_tmp_path
) -> None:
    Path("../store").mkdir()
    Path(".dvc/config").write_text(
        "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    )
    git("init", "-q", "--bare", "../origin.git")
    git("remote", "add", "origin", "../origin.git")
    for seed, branch in ((1, "main"), (2, "ours"), (3, "theirs")):
        git("checkout", "-q", *(["main"] if branch == "main" else ["-b", branch, "main"]))
        make_adapter("adapters/a", seed=seed)
        soup("add", "adapters/a")
        git("commit", "-qam", branch)
    git("merge", "-q", "--no-edit", "ours")
    soup("merge", "HEAD~1:adapters/a", "HEAD^2:adapters/a", "-o", "adapters/m")
    soup("add", "adapters/m")
    git("commit", "-qm", "a merge by hand")
    soup("push", "--all")
    git("clone", "-q", "../origin.git", "../clone", cwd=repo)
    clone = repo.parent / "clone"
    git("checkout", "-q", "theirs", cwd=clone)
    soup("init", cwd=clone)
    for adapter in ("adapters/a", "adapters/m"):
        done = soup("verify", "--adapter", adapter, "--json", cwd=clone)
        assert json.loads(done.stdout)["verdict"] == "identical"
        shutil.rmtree(clone / ".dvc" / "cache", ignore_errors=True)
