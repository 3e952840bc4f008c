"""Files: the old one or the new one, never half; and no path that leaves the repository."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.storage.files import (
    beside,
    copy_bytes,
    inside,
    move_into_place,
    target_inside,
    temporary_in,
    write_atomically,
)


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(("umask", "mode", "wanted"), [(0o022, 0o666, 0o644), (0o077, 0o666, 0o600), (0o002, 0o444, 0o444)])  # fmt: skip
def test_modes_follow_the_umask(tmp_path: Path, umask: int, mode: int, wanted: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", b"", mode=mode)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == wanted


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    link.symlink_to(f"/proc/self/fd/{reader}")
    try:
        for path in (pipe, link, Path(f"/dev/fd/{reader}")):
            write_atomically(path, b"a page")
            assert os.read(reader, 100) == b"a page"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), beside(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_reader_that_has_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"


def test_a_kill_between_write_and_rename_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = (
        "import os, signal, sys; from pathlib import Path; from soup_git.storage.files import beside\n"
        "with beside(Path(sys.argv[1])) as t:\n t.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from soup_git.storage.files import write_atomically\n"
        "from soup_git.errors import run_to_exit_code\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "sys.exit(run_to_exit_code(lambda: write_atomically(Path(sys.argv[1]), b'x' * 5000) or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, str(path)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 128
    assert done.stderr.startswith("fatal: ")
    assert "hint: df" in done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_moved_temporary_stays_and_another_goes(tmp_path: Path) -> None:
    with temporary_in(tmp_path / "t") as one, temporary_in(tmp_path / "t"):
        move_into_place(one, tmp_path / "t" / "kept", mode=0o444)
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["kept"]


def test_copies_are_equal_and_independent(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(3 << 20))
    (tmp_path / "b").write_bytes(b"longer before" * 400_000)
    copy_bytes(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (tmp_path / "a").write_bytes(b"")
    assert (tmp_path / "b").stat().st_size == 3 << 20


# -- paths ----------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for folder in (root / "sub" / ".git", root / ".git", tmp_path / "outside"):
        folder.mkdir(parents=True)
    (root / "to-outside").symlink_to(tmp_path / "outside")
    (root / "to-sub").symlink_to("sub")
    (root / "to-git").symlink_to(".git")
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    (root / "loop").symlink_to("loop")
    return root


def test_inside(root: Path, tmp_path: Path) -> None:
    assert inside(root, root / "sub" / "x") == "sub/x"
    assert inside(root, root / "sub" / ".." / "x") == "x"
    assert inside(root, root / "to-sub" / "x") == "sub/x"
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", root / "x") == "x"
    assert inside(root, tmp_path / "alias" / "x") == "x"


@pytest.mark.parametrize("path", [".", "..", "../repo2/x", "/etc/passwd", "to-outside", "to-outside/x", "dangling", ".git/config", "to-git/config", "sub/.git/x"])  # fmt: skip
def test_not_inside(root: Path, path: str) -> None:
    with pytest.raises(FatalError) as caught:
        inside(root, root / path)
    assert caught.value.hint


def test_a_sibling_with_the_same_beginning_is_outside(root: Path) -> None:
    with pytest.raises(FatalError):
        inside(root, root.with_name("repository") / "x")


def test_target_inside(root: Path) -> None:
    assert target_inside(root, "sub/new/x") == root / "sub" / "new" / "x"
    assert target_inside(root, ".gitignore") == root / ".gitignore"


@pytest.mark.parametrize(
    "path",
    ["", ".", "..", "/etc/passwd", "../x", "sub/../x", "sub//x", "sub/", "./x", ".git/hooks/x", ".GIT/hooks/x", "sub/.git/x", "a\0b", "to-outside/x", "to-sub/x", "to-git/x", "dangling", "dangling/x", "loop", "loop/x"],
)  # fmt: skip
def test_not_a_target(root: Path, path: str) -> None:
    with pytest.raises(FatalError):
        target_inside(root, path)
    assert sorted(p.name for p in root.iterdir()) == [
        ".git",
        "dangling",
        "loop",
        "sub",
        "to-git",
        "to-outside",
        "to-sub",
    ]
