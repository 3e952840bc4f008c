"""The pre-commit hook: what is committed agrees with its lock and its bytes are kept."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.two_branches import CONFIG, POLITE_ROWS, ROWS

WEIGHTS = "adapters/support/adapter_model.safetensors"


@pytest.fixture
def commit(git):
    """`commit(*words)`: `git commit`, not checked."""
    return lambda *words: git("commit", *(words or ("-m", "x")), check=False)


def refuses(done, git, *words) -> None:
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    assert "fatal: " in done.stderr
    assert "hint: " in done.stderr
    for word in words:
        assert word in done.stderr
    assert git("log", "-1", "--format=%s").stdout == "Train support\n"


def test_a_commit_that_touches_nothing_of_ours(pinned, git, commit):
    Path("README.md").write_text("x\n")
    assert commit("-am", "x").returncode == 0


def test_an_edited_config_without_its_lock(pinned, soup, git, commit):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    refuses(commit("-am", "x"), git, "config drifted", "git soup lock write && git add soup.lock")
    soup("lock", "write")
    git("add", "soup.lock")
    assert commit("-am", "x").returncode == 0, "and it goes on as the hint says"


def test_only_what_is_staged_counts(pinned, git, commit):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    Path("README.md").write_text("x\n")
    git("add", "README.md")
    assert commit().returncode == 0


def test_a_path_given_to_commit_counts_alone(pinned, git, commit):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    Path("README.md").write_text("x\n")
    refuses(commit("-m", "x", "soup.yaml"), git, "config drifted")
    assert commit("-m", "x", "README.md").returncode == 0


def test_data_that_dvc_added_again_without_its_lock(pinned, soup, git, commit, dvc):
    Path("data/train.jsonl").write_text(POLITE_ROWS)
    dvc("add", "--quiet", "data/train.jsonl")
    refuses(commit("-am", "x"), git, "dataset drifted", "data/train.jsonl")
    soup("lock", "write")
    assert commit("-am", "x").returncode == 0


def test_a_config_that_is_removed(pinned, git, commit):
    git("rm", "-q", "soup.yaml")
    refuses(commit(), git, "config drifted", "missing")


def test_a_lock_over_data_that_was_never_added(repo, soup, git, make_adapter):
    Path("data").mkdir()
    Path("data/train.jsonl").write_text(ROWS)
    Path("soup.yaml").write_text("data: {train: data/train.jsonl}\n")
    soup("lock", "write")
    git("add", "soup.lock", "soup.yaml")
    done = git("commit", "-m", "x", check=False)
    assert done.returncode != 0
    assert "git add data/train.jsonl" in done.stderr
    git("add", "data/train.jsonl")
    git("commit", "-m", "x")


def test_a_lock_with_conflict_markers(pinned, git, commit):
    Path("soup.lock").write_text("<<<<<<< ours\n{}\n=======\n{}\n>>>>>>> theirs\n")
    refuses(commit("-am", "x"), git, "conflict markers", "git soup lock write")


def test_environment_drift_is_one_line_and_no_refusal(pinned, soup, git, commit):
    soup("lock", "write", "--env-hash", "c" * 64)
    Path("soup.yaml").write_text(CONFIG)
    done = commit("-am", "x")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("env ")]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter.manifest", "adapter_model.safetensors.dvc"])  # fmt: skip
def test_one_file_of_an_adapter_alone(name, pinned, soup, git, commit, make_adapter):
    make_adapter("adapters/support", seed=4, rank=4)
    soup("add", "adapters/support")
    git("reset", "-q")
    git("add", f"adapters/support/{name}")
    refuses(commit(), git, "git soup add adapters/support")


def test_a_name_that_git_quotes_is_checked_too(repo, soup, git, make_adapter):
    make_adapter("ä b/one", seed=4)
    soup("add", "ä b/one")
    manifest = Path("ä b/one/adapter.manifest")
    manifest.write_text(manifest.read_text().replace("\nalpha 16\n", "\nalpha 17\n"))
    git("add", str(manifest))
    done = git("commit", "-m", "x", check=False)
    assert done.returncode != 0
    assert "its header is not what" in done.stderr


def test_weights_that_nobody_has(pinned, soup, git, commit, make_adapter):
    make_adapter("adapters/support", seed=4)
    soup("add", "adapters/support")
    shutil.rmtree(".dvc/cache")
    refuses(commit(), git, "not in the DVC cache")


def test_no_verify_skips_it(pinned, git):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    git("commit", "-qam", "x", "--no-verify")


def test_in_a_linked_work_tree(pinned, git):
    git("worktree", "add", "-q", "../linked", "politer")
    linked = pinned.parent / "linked"
    (linked / "soup.yaml").write_text(CONFIG + "# edited\n")
    done = git("commit", "-am", "x", cwd=linked, check=False)
    assert done.returncode != 0
    assert "config drifted" in done.stderr


def test_merge_commits_and_rebases_run_through(pinned, git):
    git("checkout", "-q", "-b", "side")
    Path("notes.txt").write_text("x\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Add notes")
    git("checkout", "-q", "politer")
    git("merge", "-q", "--no-edit", "side")
    git("rebase", "-q", "main")


# -- the pre-commit tool ------------------------------------------------------------------------


@pytest.fixture
def pre_commit_tool(pinned: Path, git):
    """The real pre-commit with one local hook that needs no environment."""
    Path(".pre-commit-config.yaml").write_text(
        "repos:\n- repo: local\n  hooks:\n  - id: theirs\n    name: theirs\n    language: system\n"
        "    entry: sh -c 'echo theirs >> .git/ran'\n    always_run: true\n    pass_filenames: false\n"
    )
    git("add", ".pre-commit-config.yaml")
    git("commit", "-qm", "Use pre-commit", "--no-verify")

    def install() -> None:
        import sys

        subprocess.run([sys.executable, "-m", "pre_commit", "install"], check=True, capture_output=True)  # fmt: skip

    return install


def test_installed_afterwards_or_before_both_run(pre_commit_tool, pinned, soup, git):
    ran = Path(".git/ran")
    pre_commit_tool()
    for again in (False, True):
        ran.unlink(missing_ok=True)
        assert soup("init", "--check").returncode == 0
        Path("soup.yaml").write_text(CONFIG + f"# {again}\n")
        done = git("commit", "-qam", "x", check=False)
        assert done.returncode != 0
        assert "config drifted" in done.stderr
        soup("lock", "write")
        git("commit", "-qam", "x")
        assert "theirs" in ran.read_text()
        soup("init")


def test_installed_before_both_run(pre_commit_tool, pinned, soup, git):
    Path(".git/hooks/pre-commit").unlink()
    pre_commit_tool()
    assert soup("init", "--check", check=False).returncode == 1
    soup("init")
    git("commit", "-q", "--allow-empty", "-m", "x")
    assert Path(".git/ran").read_text() == "theirs\n"
    pre_commit_tool()
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    assert git("commit", "-qam", "x", check=False).returncode != 0
