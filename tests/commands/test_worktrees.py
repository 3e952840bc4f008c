"""Linked work trees: one cache, weights by link, nothing read twice, nothing believed blindly."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from soup_git.commands.checkout import repair
from soup_git.storage import workspace as workspace_module
from soup_git.storage.dvcobjects import md5_of_file
from soup_git.storage.workspace import Workspace

WEIGHTS = "adapters/support/adapter_model.safetensors"


@pytest.fixture
def linked(pinned, git) -> Path:
    git("worktree", "add", "-q", "../politer", "politer")
    return pinned.parent / "politer"


def test_worktree_add_alone_gives_a_ready_folder(linked, pinned, soup, git, object_of, dvc):
    assert soup("checkout", cwd=linked).stderr.startswith("nothing to repair")
    assert "clean  adapters/support" in soup("status", cwd=linked).stdout
    assert git("status", "--porcelain", cwd=linked).stdout == ""
    assert not (linked / ".dvc" / "cache").exists()
    assert (linked / "data/train.jsonl").stat().st_nlink == 1, "data is a copy"
    assert json.loads(dvc("status", "--json", cwd=linked).stdout) == {}
    soup("checkout", "politer", cwd=pinned, check=False)
    assert soup("init", "--check", cwd=linked).returncode == 0


def test_without_the_hook_a_bare_checkout_does_it(pinned, soup, git):
    git("-c", "core.hooksPath=/nowhere", "worktree", "add", "-q", "../bare", "politer")
    bare = pinned.parent / "bare"
    assert not (bare / WEIGHTS).exists()
    soup("checkout", cwd=bare)
    assert "clean  adapters/support" in soup("status", cwd=bare).stdout


def test_weights_are_links_and_are_not_read_again(linked, pinned, soup, git, monkeypatch):
    cache = pinned / ".dvc" / "cache" / "files" / "md5"
    weights = linked / WEIGHTS
    objects = [p for p in cache.rglob("*") if p.is_file() and p.samefile(weights)]
    if not objects:
        pytest.skip("this file system made a reflink")
    assert weights.stat().st_mode & 0o222 == 0
    assert (pinned / WEIGHTS).stat().st_nlink == 1, "the main work tree keeps a copy of its own"

    def read_once(path: Path) -> str:
        assert not path.samefile(weights), f"{path} was read again"
        return md5_of_file(path)

    git("-c", "core.hooksPath=/nowhere", "worktree", "add", "-q", "--detach", "../third", "politer")
    third = Workspace.open(pinned.parent / "third")
    monkeypatch.setattr(workspace_module, "md5_of_file", read_once)
    repair(third, force=False)
    assert (third.root / WEIGHTS).samefile(weights)
    repair(Workspace.open(linked), force=False)
    third.git.close()


def test_a_byte_that_flips_through_a_link_is_named_everywhere(linked, soup):
    weights = linked / WEIGHTS
    times = weights.stat()
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-10, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    weights.chmod(0o444)
    assert "modified  adapters/support" in soup("status", cwd=linked).stdout
    done = soup("fsck", check=False)
    assert done.returncode == 1
    assert "its bytes are not md5:" in done.stdout
    assert soup("checkout", cwd=linked, check=False).returncode == 128


def test_what_is_set_for_the_main_work_tree_holds_in_the_others(pinned, soup, git, dvc):
    elsewhere = pinned.parent / "elsewhere"
    shutil.move(pinned / ".dvc" / "cache", elsewhere)
    Path(".dvc/config.local").write_text(
        "[cache]\n    dir = ../../elsewhere\n['remote \"s\"']\n    url = ../../s\n    jobs = 3\n"
    )
    git("worktree", "add", "-q", "../linked", "politer")
    linked = pinned.parent / "linked"
    assert (linked / WEIGHTS).is_file()
    local = (linked / ".dvc" / "config.local").read_text()
    assert f"dir = {elsewhere}" in local
    assert f"url = {pinned.parent / 's'}" in local
    assert "jobs = 3" in local
    assert json.loads(dvc("status", "--json", cwd=linked).stdout) == {}


def test_a_cache_type_that_is_configured_is_kept_to(pinned, git):
    Path(".dvc/config.local").write_text("[cache]\n    type = copy\n")
    git("worktree", "add", "-q", "../linked", "politer")
    assert (pinned.parent / "linked" / WEIGHTS).stat().st_nlink == 1


def test_training_output_replaces_the_link_and_not_the_object(linked, soup, make_adapter):
    (linked / WEIGHTS).unlink()
    make_adapter(linked / "adapters/support", seed=9)
    soup("add", "adapters/support", cwd=linked)
    soup("fsck")
