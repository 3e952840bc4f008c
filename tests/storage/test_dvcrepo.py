"""DVC's pointers and cache, written and read natively: held against DVC itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from soup_git.core.digests import md5_hex
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import parse_pointer, pointer_text
from soup_git.storage.dvcobjects import folder_md5_of, md5_of_file, walk
from soup_git.storage.dvcrepo import DvcRepo

MD5 = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def dvc(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    home = tmp_path_factory.mktemp("home")
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "XDG_"))
    }
    env = {**inherited, "HOME": str(home), "DVC_NO_ANALYTICS": "1"}

    def run(folder: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=folder, env=env, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def repo_at(root: Path) -> DvcRepo:
    return DvcRepo(root, root, root / ".git")


def make_data(root: Path) -> None:
    (root / "adapter").mkdir()
    (root / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    (root / "rows.jsonl").write_text('{"a": 1}\r\n')
    (root / "empty_1.bin").write_bytes(b"")
    for name in ("data/b/x.txt", "data/b-c", "data/b.txt", "data/é ü.txt", "data/B", "data/b/y/z"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "data" / "link").symlink_to("b.txt")
    (root / "data" / "link-out").symlink_to("../rows.jsonl")
    (root / "data" / "link-folder").symlink_to("b")


TARGETS = ("adapter/adapter_model.safetensors", "rows.jsonl", "empty_1.bin", "data")


def objects(root: Path) -> dict[str, bytes]:
    cache = root / ".dvc" / "cache" / "files" / "md5"
    return {
        p.relative_to(cache).as_posix(): p.read_bytes() for p in cache.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory, dvc: Callable[..., str]) -> Path:
    """What `dvc add` writes."""
    root = tmp_path_factory.mktemp("theirs")
    make_data(root)
    dvc(root, "init", "--no-scm", "--quiet")
    dvc(root, "add", "--quiet", *TARGETS)
    return root


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, theirs: Path) -> Path:
    """The same, written natively."""
    root = tmp_path_factory.mktemp("ours")
    make_data(root)
    (root / ".dvc").mkdir()
    shutil.copy(theirs / ".dvc" / "config", root / ".dvc" / "config")
    repo = repo_at(root)
    for target in TARGETS:
        path = root / target
        if path.is_dir():
            md5, size, count = repo.store_folder(path)
            text = pointer_text(path.name, md5, size, count)
        else:
            md5, _ = repo.store_file(path)
            text = pointer_text(path.name, md5, path.stat().st_size)
        path.with_name(path.name + ".dvc").write_text(text)
    return root


@pytest.mark.parametrize("target", TARGETS)
def test_pointers_are_the_text_that_dvc_add_writes(ours: Path, theirs: Path, target: str) -> None:
    assert (ours / f"{target}.dvc").read_text() == (theirs / f"{target}.dvc").read_text()


def test_cache_objects_are_those_of_dvc_add(ours: Path, theirs: Path) -> None:
    assert objects(ours) == objects(theirs)


def test_dvc_status_is_clean_after_a_native_write(ours: Path, dvc: Callable[..., str]) -> None:
    assert json.loads(dvc(ours, "status", "--json")) == {}


def test_dvc_checks_out_what_was_stored_natively(
    ours: Path, dvc: Callable[..., str], tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(ours, root)
    for target in TARGETS:
        shutil.rmtree(root / target) if (root / target).is_dir() else (root / target).unlink()
    dvc(root, "checkout", "--quiet")
    for target in TARGETS:
        wanted, found = ours / target, root / target
        for path in walk(wanted) if wanted.is_dir() else [wanted]:
            assert (found / path.relative_to(wanted)).read_bytes() == path.read_bytes()


def test_pointers_of_dvc_are_read(theirs: Path) -> None:
    repo = repo_at(theirs)
    for target in TARGETS:
        [output] = parse_pointer((theirs / f"{target}.dvc").read_bytes(), f"{target}.dvc")
        assert output.path == target
        assert repo.has(output.md5)
        assert repo.verify(output.md5)
        if not output.is_folder:
            assert output.md5 == md5_of_file(theirs / target)
            assert output.size == (theirs / target).stat().st_size
    files = repo.folder_files(folder_md5_of(theirs / "data"))
    assert files == {
        p.relative_to(theirs / "data").as_posix(): md5_of_file(p) for p in walk(theirs / "data")
    }


# -- the cache ------------------------------------------------------------------------------


def test_a_rotten_object_is_written_anew(tmp_path: Path) -> None:
    repo = repo_at(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"good")
    folder, _, _ = repo.store_folder(tmp_path / "d")
    for md5 in (md5_hex(b"good"), folder):
        path = repo.object_path(md5)
        path.chmod(0o644)
        path.write_bytes(b"evil")
        assert not repo.verify(md5)
    repo.store_folder(tmp_path / "d")
    assert repo.verify(md5_hex(b"good"))
    assert repo.verify(folder)
    assert repo.object_path(folder).stat().st_mode & 0o222 == 0


def test_nothing_is_left_when_a_store_fails(tmp_path: Path) -> None:
    repo = repo_at(tmp_path)
    (tmp_path / "f").write_bytes(b"x")

    def refuse(path: Path) -> tuple[str, None]:
        raise FatalError("no")

    with pytest.raises(FatalError):
        repo.store_file(tmp_path / "f", refuse)
    assert objects(tmp_path) == {}


def test_the_stored_bytes_are_those_that_were_hashed(tmp_path: Path) -> None:
    """The file changes while it is stored: the object still has its own name."""
    repo = repo_at(tmp_path)
    (tmp_path / "f").write_bytes(b"before")

    def change(copy: Path) -> tuple[str, int]:
        (tmp_path / "f").write_bytes(b"after")
        return md5_of_file(copy), 7

    md5, found = repo.store_file(tmp_path / "f", change)
    assert (md5, found) == (md5_hex(b"before"), 7)
    assert repo.read(md5) == b"before"


def test_a_link_to_nowhere_is_refused_as_dvc_refuses_it(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").symlink_to("nowhere")
    with pytest.raises(FatalError, match="not there") as caught:
        repo_at(tmp_path).store_folder(tmp_path / "d")
    assert caught.value.hint


@pytest.mark.parametrize(
    "kind", ["copy", "hardlink", '"hardlink,copy"', "reflink,copy", "symlink", "reflink,symlink"]
)
def test_restored_files_have_the_objects_bytes(tmp_path: Path, kind: str) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(f"[cache]\n    type = {kind}\n")
    repo = repo_at(tmp_path)
    (tmp_path / "f").write_bytes(b"bytes")
    md5, _ = repo.store_file(tmp_path / "f")
    repo.restore_file(md5, tmp_path / "new" / "g")
    repo.restore_file(md5, tmp_path / "f")
    assert (tmp_path / "new" / "g").read_bytes() == b"bytes"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["g"]
    linked = (tmp_path / "new" / "g").stat().st_ino == repo.object_path(md5).stat().st_ino
    assert linked == ("link" in kind.replace("reflink", ""))
    assert (tmp_path / "new" / "g").is_symlink() == ("symlink" in kind)


def test_the_cache_folder_is_where_dvc_has_it(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    assert repo_at(tmp_path).cache_dir == tmp_path / ".dvc" / "cache"
    (tmp_path / ".dvc" / "config").write_text("[cache]\n    dir = ../../shared\n")
    assert repo_at(tmp_path).cache_dir == tmp_path.parent / "shared"
    (tmp_path / ".dvc" / "config.local").write_text("[cache]\n    dir = /elsewhere\n")
    assert repo_at(tmp_path).cache_dir == Path("/elsewhere")
    (tmp_path / ".dvc" / "config.local").write_text("[cache\n")
    with pytest.raises(FatalError, match="not a DVC configuration"):
        _ = repo_at(tmp_path).cache_dir


# -- hostile --------------------------------------------------------------------------------

LISTINGS = {
    "..": [{"md5": MD5, "relpath": "../x"}],
    "absolute": [{"md5": MD5, "relpath": "/etc/passwd"}],
    "git": [{"md5": MD5, "relpath": ".Git/hooks/x"}],
    "dot": [{"md5": MD5, "relpath": "./x"}],
    "empty": [{"md5": MD5, "relpath": ""}],
    "nul": [{"md5": MD5, "relpath": "a\0b"}],
    "number": [{"md5": MD5, "relpath": 3}],
    "md5 path": [{"md5": "../../x", "relpath": "x"}],
    "md5 folder": [{"md5": MD5 + ".dir", "relpath": "x"}],
    "md5 missing": [{"relpath": "x"}],
    "a map": {"x": MD5},
    "text": ["x"],
    "a number": 3,
}


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_hostile_folder_objects(tmp_path: Path, listing: object) -> None:
    repo = repo_at(tmp_path)
    data = json.dumps(listing).encode()
    md5 = md5_hex(data) + ".dir"
    repo.store_bytes(data, md5)
    for ask in (repo.folder_files, repo.has):
        with pytest.raises(FatalError, match="cache object") as caught:
            ask(md5)
        assert caught.value.hint


def test_a_deep_folder_object(tmp_path: Path) -> None:
    repo = repo_at(tmp_path)
    repo.store_bytes(b"[" * 100_000, MD5 + ".dir")
    with pytest.raises(FatalError, match="no list of files"):
        repo.folder_files(MD5 + ".dir")


SLOW = """\
import pathlib, signal, sys, time

def stop(*_):
    time.sleep(1.5)  # a step that takes its time
    pathlib.Path("saved").touch()
    sys.exit(130)

signal.signal(signal.SIGINT, stop)
pathlib.Path("ready").touch()
time.sleep(60)
"""
REPRO = """\
import sys
import time
from pathlib import Path
from soup_git.storage.dvcrepo import DvcRepo
here = Path.cwd()
sys.exit(DvcRepo(here, here, here / ".git").repro())
"""


def test_ctrl_c_waits_for_the_stage_that_hears_it_too(
    tmp_path: Path, dvc: Callable[..., str]
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    dvc(tmp_path, "init", "-q")
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: python slow.py}}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", REPRO],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (tmp_path / "saved").exists()
    locks = json.loads((tmp_path / ".dvc" / "tmp" / "rwlock").read_text())
    assert not any(locks.values())
