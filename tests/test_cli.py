"""The command line as a whole: exit codes, help, JSON, and no word on the wrong stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

VERBS = ["init", "add", "show", "status", "fsck", "branch", "branches", "checkout", "lock", "lock write", "lock show", "lock check", "env", "env show", "env check"]  # fmt: skip
REPORTS = ["init", "status", "fsck", "branches", "env show", "lock write"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, flag, repo, soup):
    done = soup(*verb.split(), flag)
    assert done.stdout.startswith(f"Usage: git soup {verb}")
    assert done.stderr == ""


def test_help_of_the_whole(in_tmp_path, soup):
    done = soup("-h")
    for verb in VERBS:
        assert verb.split()[0] in done.stdout


def test_without_a_verb_is_usage(in_tmp_path, soup):
    done = soup(check=False)
    assert (done.returncode, done.stdout) == (129, "")
    assert "Usage: git soup" in done.stderr


@pytest.mark.parametrize("words", [["frobnicate"], ["status", "--frobnicate"], ["status", "extra"], ["lock"], ["lock", "frobnicate"], ["add"], ["status", "--format", "yaml"], ["status", "--format"]])  # fmt: skip
def test_usage_is_129_and_names_the_help(words, repo, soup):
    done = soup(*words, check=False)
    assert (done.returncode, done.stdout) == (129, "")
    assert "error: " in done.stderr
    assert "hint: git soup" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        ("stauts", "git soup status"),
        ("branchs", "git soup branches"),
        ("comit", "git commit: git's own understands adapters here"),
        ("rebase", "git rebase: git's own understands adapters here"),
        ("list", "git soup branches, git soup status"),
        ("frobnicate", "git soup -h"),
        ("log --onelin", "git soup log --oneline"),
        ("tag --abort", "git soup tag -h"),
        ("lock chek", "git soup lock check"),
    ],
)
def test_what_was_meant_is_suggested_and_nothing_else(words, typed, repo, soup):
    done = soup(*words.split(), check=False)
    assert done.returncode == 129
    assert done.stderr.endswith(f"hint: {typed}\n")
    assert "ossible options" not in done.stderr
    assert "Did you mean" not in done.stderr


def test_from_another_folder_as_git(repo, soup, in_tmp_path):
    here = soup("status").stdout
    assert soup("-C", "..", "-C", "repo", "status", cwd=repo).stdout == here
    done = soup("-C", "nowhere", "status", check=False)
    assert (done.returncode, done.stderr) == (
        128, "fatal: cannot change to 'nowhere': No such file or directory\n",
    )  # fmt: skip


def test_version(in_tmp_path, soup):
    assert soup("--version").stdout.startswith("git-soup version ")


@pytest.mark.parametrize("verb", REPORTS)
def test_json_is_sorted_has_a_schema_and_is_alone_on_stdout(verb, repo, soup):
    Path("soup.yaml").write_text("base: org/x\n")
    done = soup(*verb.split(), "--json")
    body = json.loads(done.stdout, parse_constant=pytest.fail)
    assert done.stdout == json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert body["schema"].startswith("soup.")
    assert body["schema"].endswith("/1")
    assert soup(*verb.split(), "--format", "json").stdout == done.stdout


@pytest.mark.parametrize("verb", ["add x", "show x", "status", "fsck", "branch x", "branches", "checkout x", "checkout", "lock write", "lock show", "lock check", "env show", "env check"])  # fmt: skip
def test_outside_a_workspace(verb, in_tmp_path, soup, git):
    for place, words in ((in_tmp_path, ("not a git repository", "git init")), (in_tmp_path / "new", ("workspace", "git soup init"))):  # fmt: skip
        if place.name == "new":
            git("init", "-q", "new")
        done = soup(*verb.split(), cwd=place, check=False)
        assert (done.returncode, done.stdout) == (128, "")
        assert done.stderr.startswith("fatal: ")
        assert done.stderr.splitlines()[1].startswith("hint: ")
        assert all(word in done.stderr for word in words)


def test_in_a_bare_repository(in_tmp_path, soup, git):
    git("init", "-q", "--bare", "bare.git")
    done = soup("status", cwd=in_tmp_path / "bare.git", check=False)
    assert done.returncode == 128
    assert "bare" in done.stderr


def test_a_reader_that_leaves_early(repo, git_soup_script):
    done = subprocess.run(f"{git_soup_script} fsck -h | true; echo ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash", capture_output=True, text=True)  # fmt: skip
    assert "Traceback" not in done.stderr


def test_interrupted_is_130(repo, git_soup_script, make_adapter):
    make_adapter("adapters/big", seed=1, layers=600)
    for _ in range(5):
        process = subprocess.Popen([git_soup_script, "add", "adapters/big"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)  # fmt: skip
        time.sleep(0.45)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate()
        assert process.returncode in {130, 0, -signal.SIGINT}, said
        if process.returncode == 130:
            break
    assert "bug in git-soup" not in said


def test_a_folder_that_may_not_be_written(repo, soup, make_adapter):
    make_adapter("adapters/a", seed=1)
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    Path("adapters/a").chmod(0o555)
    done = soup("add", "adapters/a", check=False)
    assert done.returncode == 128
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_git_that_is_not_there(repo, git_soup_script, tmp_path):
    done = subprocess.run([git_soup_script, "status"], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 128
    assert done.stderr == "fatal: git is not on your PATH\nhint: install git 2.38 or newer\n"
