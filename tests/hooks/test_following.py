"""post-checkout, post-merge, post-rewrite: data and weights follow what git itself does."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tests.two_branches import POLITE_ROWS, ROWS, flip

ROWS_FILE = "data/train.jsonl"
WEIGHTS = "adapters/support/adapter_model.safetensors"


def named_md5() -> str:
    return Path(f"{WEIGHTS}.dvc").read_text().split("md5: ")[1].split()[0]


def md5_of(path: str) -> str:
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("words", [("switch", "-q", "politer"), ("checkout", "-q", "politer"), ("switch", "-q", "--detach", "politer")])  # fmt: skip
def test_after_switch_and_checkout(words, pinned, git):
    git(*words)
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5()
    git("switch", "-q", "main")
    assert Path(ROWS_FILE).read_text() == ROWS
    assert md5_of(WEIGHTS) == named_md5()


def test_after_merge(pinned, git):
    git("merge", "-q", "politer")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5()


def test_after_pull(pinned, git, soup):
    git("clone", "-q", ".", "../clone")
    clone = pinned.parent / "clone"
    soup("init", cwd=clone)
    git("config", "core.bare", "false")
    shutil.copytree(".dvc/cache", clone / ".dvc" / "cache")
    soup("checkout", cwd=clone)
    git("merge", "-q", "politer")
    git("pull", "-q", cwd=clone)
    assert (clone / ROWS_FILE).read_text() == POLITE_ROWS


def test_after_rebase(pinned, git):
    git("switch", "-q", "-c", "side")
    Path("notes.txt").write_text("x\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Add notes")
    git("rebase", "-q", "politer")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    assert md5_of(WEIGHTS) == named_md5()


def test_after_a_rebase_that_was_stopped_and_gave_our_own_version(pinned, git):
    """HEAD then names what it named before, and the files are those that it is onto."""
    before = named_md5()
    git("switch", "-q", "-c", "side")
    Path("notes.txt").write_text("x\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Add notes")
    git("switch", "-q", "-c", "onto", "politer")
    assert named_md5() != before
    Path("notes.txt").write_text("y\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Add other notes")
    git("switch", "-q", "side")
    chained = Path(".git/hooks/post-rewrite.before-soup")
    chained.write_text("#!/bin/sh\ncat >told\n")
    chained.chmod(0o755)
    assert git("rebase", "-q", "onto", check=False).returncode == 1
    assert md5_of(WEIGHTS) != before
    git("checkout", "REBASE_HEAD", "--", ".")
    git("-c", "core.editor=true", "rebase", "--continue")
    assert named_md5() == before
    assert md5_of(WEIGHTS) == before
    assert Path(ROWS_FILE).read_text() == ROWS
    assert git("rev-parse", "HEAD").stdout.strip() in Path("told").read_text()


def test_a_file_of_a_path_checkout_is_left_alone(pinned, git):
    git("checkout", "-q", "politer", "--", f"{ROWS_FILE}.dvc")
    assert Path(ROWS_FILE).read_text() == ROWS


def test_local_changes_stay_and_are_named(pinned, git):
    Path(ROWS_FILE).write_text("mine\n")
    done = git("switch", "-q", "politer")
    assert Path(ROWS_FILE).read_text() == "mine\n"
    assert ROWS_FILE in done.stderr
    assert md5_of(WEIGHTS) == named_md5()


def test_what_is_not_here_is_said_and_git_goes_on(pinned, git):
    shutil.rmtree(".dvc/cache")
    done = git("switch", "politer")
    assert "git soup checkout" in done.stderr
    assert git("branch", "--show-current").stdout == "politer\n"
    assert Path(ROWS_FILE).read_text() == ROWS


def test_a_fresh_clones_only_copy_is_kept(pinned, git, soup):
    md5 = hashlib.md5(ROWS.encode()).hexdigest()
    (pinned / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    git("switch", "-q", "politer")
    assert Path(ROWS_FILE).read_text() == POLITE_ROWS
    git("switch", "-q", "main")
    assert Path(ROWS_FILE).read_text() == ROWS


def test_a_damaged_object_is_not_restored(pinned, git):
    md5 = hashlib.md5(POLITE_ROWS.encode()).hexdigest()
    flip(pinned / ".dvc/cache/files/md5" / md5[:2] / md5[2:])
    done = git("switch", "politer")
    assert Path(ROWS_FILE).read_text() == ROWS
    assert "git soup checkout" in done.stderr


def test_equal_bytes_that_git_holds_now_are_not_removed(pinned, git, dvc, soup):
    git("switch", "-q", "-c", "small")
    dvc("remove", f"{ROWS_FILE}.dvc")
    git("add", "-f", ROWS_FILE, "data")
    soup("lock", "write")
    git("commit", "-qam", "Keep the rows in git")
    git("switch", "-q", "main")
    assert Path(ROWS_FILE).read_text() == ROWS
    git("switch", "-q", "small")
    assert Path(ROWS_FILE).read_text() == ROWS


def test_a_pointer_in_conflict_does_not_stand_in_gits_way(pinned, git):
    Path(f"{ROWS_FILE}.dvc").write_text("<<<<<<< ours\n=======\n>>>>>>> theirs\n")
    git("commit", "-qam", "x", "--no-verify")
    done = git("switch", "politer", check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


def test_before_the_workspace_and_in_another_repository(pinned, git):
    git("switch", "-q", "--detach", "main~2")
    git("switch", "-q", "main")
    assert Path(ROWS_FILE).is_file()
    git("init", "-q", "../plain")
    plain = pinned.parent / "plain"
    git("-c", f"core.hooksPath={pinned / '.git' / 'hooks'}", "commit", "-q", "--allow-empty", "-m", "x", cwd=plain)  # fmt: skip


def test_the_pull_of_another_machine_without_our_python(pinned, git):
    hook = Path(".git/hooks/post-checkout")
    text = hook.read_text()
    line = next(line for line in text.splitlines() if line.startswith("python="))
    hook.write_text(text.replace(line, "python=/nowhere"))
    assert git("switch", "politer").returncode == 0


def test_hooks_load_neither_typer_nor_dvc_nor_numpy(pinned):
    import subprocess
    import sys

    code = (
        "import sys; from soup_git.hooks import post_checkout, pre_commit; pre_commit.main();"
        "post_checkout.main(['HEAD', 'HEAD', '1']);"
        "print([m for m in ('typer', 'click', 'dvc', 'numpy', 'yaml', 'pydantic', 'torch') if m in sys.modules])"
    )
    env = {k: v for k, v in os.environ.items() if k != "GIT_SOUP_ACTIVE"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env
    )
    assert done.stdout == "[]\n", done.stderr
