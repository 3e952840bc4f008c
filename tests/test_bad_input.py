"""What others wrote, and disks that are full: a clear error, nothing executed, nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pinned import _pinned_template, dvc, object_of, photo, pinned, refused
from tests.two_branches import CONFIG

__all__ = ["_pinned_template", "dvc", "object_of", "photo", "pinned", "refused"]

WEIGHTS = "adapters/support/adapter_model.safetensors"


def hostile_branch(git, **files: str | None) -> None:
    """A branch `evil` on top of `main`, with files as somebody else pushed them; we are on `main`."""
    git("checkout", "-q", "-b", "evil")
    for name, text in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
            git("add", "-f", name)
    git("commit", "-qam", "Evil", "--no-verify")
    git("-c", "core.hooksPath=/dev/null", "checkout", "-q", "main")


def pointer(path: str, md5: str = "0" * 32) -> str:
    return f"outs:\n- md5: {md5}\n  size: 4\n  hash: md5\n  path: {path}\n"


# -- branches of others -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../../out.txt", "/etc/out.txt", "..", "a/../../b", ".git/hooks/post-checkout", ".GIT/config", "'a\\0b'", "{}", "[x]", "7"])  # fmt: skip
def test_a_pointer_that_leaves_its_folder(path, pinned, soup, git, photo, refused):
    hostile_branch(git, **{"x.txt.dvc": pointer(path)})
    before = photo()
    refused(soup("checkout", "evil", check=False), 128, "x.txt.dvc")
    assert photo() == before
    assert not (pinned.parent / "out.txt").exists()


@pytest.mark.parametrize("wdir", ["..", "../x", "/tmp", ".git", "a/../.."])
def test_a_pointer_whose_wdir_lies_outside(wdir, pinned, soup, git, photo, refused):
    hostile_branch(git, **{"x.txt.dvc": f"wdir: {wdir}\n{pointer('x.txt')}"})
    before = photo()
    refused(soup("checkout", "evil", check=False), 128, "x.txt.dvc")
    assert photo() == before


@pytest.mark.parametrize("text", ["", "outs:\n", "outs: 7\n", "- 1\n", "a: [", "&a [*a]\n", "outs:\n- md5: 1\n  path: x\n", "[" * 10_000, "!!python/object/apply:os.system ['touch executed']\n", "\x00"])  # fmt: skip
def test_a_pointer_that_is_none(text, pinned, soup, git, photo, refused):
    hostile_branch(git, **{"x.txt.dvc": text})
    before = photo()
    refused(soup("checkout", "evil", check=False), 128, "x.txt.dvc")
    assert photo() == before
    assert not Path("executed").exists()


@pytest.mark.parametrize("relpath", ["../../out.txt", "/etc/out.txt", ".git/config", "a//b", "", "."])  # fmt: skip
def test_a_folder_object_that_leaves_its_folder(relpath, pinned, soup, git, photo, refused):
    data = b"evil"
    md5 = hashlib.md5(data).hexdigest()
    listing = json.dumps([{"md5": md5, "relpath": relpath}]).encode()
    for content, name in ((data, md5), (listing, hashlib.md5(listing).hexdigest() + ".dir")):
        path = Path(".dvc/cache/files/md5", name[:2], name[2:])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    hostile_branch(git, **{"rows.dvc": pointer("rows", name)})
    before = photo()
    refused(soup("checkout", "evil", check=False), 128, "outside its folder")
    assert photo() == before
    assert not (pinned.parent / "out.txt").exists()


def test_a_link_in_a_branch_leads_no_write_outside(pinned, soup, git, object_of):
    outside = pinned.parent / "outside"
    outside.mkdir()
    md5 = object_of("data/train.jsonl").parent.name + object_of("data/train.jsonl").name
    git("checkout", "-q", "-b", "evil")
    Path("leak").symlink_to(outside)
    Path("leak.txt.dvc").write_text(pointer("leak/out.txt", md5))
    git("add", "-f", "leak", "leak.txt.dvc")
    git("commit", "-qm", "Evil", "--no-verify")
    git("-c", "core.hooksPath=/dev/null", "checkout", "-q", "main")
    done = soup("checkout", "evil", check=False)
    assert done.returncode == 128, done.stderr
    assert "Traceback" not in done.stderr
    git("switch", "-q", "--force", "evil", check=False)
    soup("checkout", check=False)
    soup("status", check=False)
    assert list(outside.iterdir()) == []


def test_a_link_where_a_branch_has_a_folder(pinned, soup, git, photo):
    outside = pinned.parent / "outside"
    outside.mkdir()
    soup("checkout", "politer")
    git("checkout", "-q", "-b", "linked")
    git("rm", "-qr", "--cached", "adapters")
    Path("adapters").rename("../moved")
    Path("adapters").symlink_to(outside)
    git("add", "-f", "adapters")
    git("commit", "-qm", "A link instead", "--no-verify")
    done = soup("checkout", "politer", check=False)
    assert "Traceback" not in done.stderr
    assert list(outside.iterdir()) == []


def test_escapes_reach_no_terminal(pinned, soup, git, make_adapter):
    evil = "evil\x1b]0;owned\x07\x1b[2J\u202e\r"
    make_adapter("adapters/support", seed=3, base=evil)
    soup("add", "adapters/support")
    Path("soup.yaml").write_text(json.dumps({"base": evil, "data": {"train": "data/train.jsonl"}}))
    for words in (["lock", "write"], ["lock", "check"], ["status"], ["show", "adapters/support"], ["branch", "more"], ["branches"], ["checkout", "--force", "more"], ["fsck"], ["env", "check"], ["branch", evil], ["show", evil], ["add", evil], ["checkout", evil]):  # fmt: skip
        done = soup(*words, check=False)
        for character in "\x1b\x07\u202e":
            assert character not in done.stdout + done.stderr, words
        assert "Traceback" not in done.stderr, done.stderr


def test_a_config_of_dvc_that_is_none(pinned, soup, refused):
    Path(".dvc/config").write_text("no section\n")
    for words in (["fsck"], ["checkout", "politer"], ["add", "adapters/support"]):
        refused(soup(*words, check=False), 128, ".dvc/config")


def test_a_detached_head_and_a_commit_that_is_gone(pinned, soup, git, refused):
    git("checkout", "-q", "--detach")
    soup("status")
    soup("lock", "check")
    soup("branches")
    refused(soup("branch", "more", "--from", "f" * 40, check=False), 128)


# -- full disks ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(pinned: Path, git, tmp_path: Path) -> Iterator[Path]:
    """The workspace on a disk of its own that has a few blocks left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)  # fmt: skip
    if mounted.returncode:
        pytest.skip("mounting a small disk needs rights that this user lacks")
    try:
        subprocess.run(["cp", "-a", str(pinned), str(disk / "repo")], check=True)
        git("update-index", "-q", "--refresh", cwd=disk / "repo")
        yield disk / "repo"
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(root: Path, leave: int) -> Path:
    """Fill the disk but for `leave` bytes."""
    free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
    path = root.parent / "filler"
    path.write_bytes(b"x" * max(0, free - leave))
    return path


@pytest.mark.parametrize("leave", [0, 8192, 24_576, 40_960])
def test_a_full_disk(leave, small_disk, soup, git, make_adapter, monkeypatch):
    monkeypatch.chdir(small_disk)
    make_adapter("adapters/support", seed=5)
    make_adapter("adapters/new", seed=6)
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    refs = git("for-each-ref").stdout
    for words in (
        ["add", "adapters/support", "adapters/new"],
        ["branch", "more"],
        ["lock", "write"],
    ):
        filler = fill(small_disk, leave)
        done = soup(*words, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert "bug in git-soup" not in done.stderr, done.stderr
        if done.returncode:
            assert done.returncode == 128, done.stderr
            assert done.stderr.splitlines()[-1].startswith("hint: df ")
            if words[0] == "branch":
                assert git("for-each-ref").stdout == refs
        filler.unlink()
        assert not list(Path(".dvc").rglob("*.tmp"))
        git("fsck", "--strict")
        soup("fsck")
    soup("add", "adapters/support", "adapters/new")
    git("branch", "-qD", "more", check=False)
    soup("branch", "more")


def test_a_full_disk_during_checkout_is_finished_by_a_bare_one(
    small_disk, soup, git, make_adapter, monkeypatch
):
    monkeypatch.chdir(small_disk)
    git("checkout", "-q", "-b", "large")
    make_adapter("adapters/large", seed=5, layers=40)
    soup("add", "adapters/large")
    git("commit", "-qm", "Add a large one")
    git("checkout", "-q", "main")
    filler = fill(small_disk, 100_000)
    done = soup("checkout", "large", check=False)
    assert done.returncode == 128
    assert "could be restored" in done.stderr
    assert "hint: git soup checkout" in done.stderr
    filler.unlink()
    soup("checkout")
    assert git("status", "--porcelain").stdout == ""
    assert Path("adapters/large/adapter_model.safetensors").is_file()
    soup("fsck")


def test_a_file_size_limit_of_the_system(pinned, git_soup_script, git, make_adapter, photo):
    make_adapter("adapters/support", seed=5)
    before = photo()
    done = subprocess.run(
        [git_soup_script, "add", "adapters/support"], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 128
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: df ")
    assert photo() == before
