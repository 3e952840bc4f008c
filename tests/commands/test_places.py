"""The places that git allows: told by variables, linked, bare, a submodule, under any name."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeAdapter, Run
from tests.pinned import Refused, refused
from tests.versions import ADAPTER, WEIGHTS, _sides_template, nudge, sides

__all__ = ["_sides_template", "refused", "sides"]

LOOKING = (
    ("status",), ("branches",), ("log",), ("show", f"HEAD:{ADAPTER}"), ("fsck",), ("lock", "show"),
    ("diff", f"HEAD~1:{ADAPTER}", f"HEAD:{ADAPTER}"), ("blame", f"HEAD:{ADAPTER}"), ("gc",),
    ("init", "--check"), ("checkout",),
    ("pr", "X", "--base", "HEAD~1", "--adapter", ADAPTER, "--no-ref"),
)  # fmt: skip
"""Verbs that say the same from wherever they are asked."""


FEW = LOOKING[:1] + LOOKING[4:6]


def answers(
    soup: Run, cwd: Path, asked: tuple[tuple[str, ...], ...] = LOOKING, **env: str
) -> list[tuple[int, str]]:
    done = [soup(*words, check=False, cwd=cwd, env=env) for words in asked]
    return [(one.returncode, one.stdout) for one in done]


@pytest.mark.parametrize(
    ("place", "git_dir", "work_tree"),
    [
        ("adapters/support", "../../.git", "../.."),
        (".", ".git", ""),
        ("..", "repo/.git", "repo"),
        ("adapters", "{root}/.git", ".."),
    ],
)
def test_where_git_is_told_to_look(
    place: str, git_dir: str, work_tree: str, sides: Path, soup: Run
) -> None:
    plain = answers(soup, sides)
    told = {"GIT_DIR": git_dir.format(root=sides)}
    told |= {"GIT_WORK_TREE": work_tree} if work_tree else {}
    assert answers(soup, sides / place, **told) == plain


@pytest.fixture(params=["separate", "bare"])
def apart(request: pytest.FixtureRequest, sides: Path, git: Run) -> dict[str, str]:
    """The work tree has no .git: the variables that say where git's folder is, from `sides`."""
    shutil.move(sides / ".git", sides.parent / "apart.git")
    if request.param == "bare":
        git("--git-dir", "../apart.git", "config", "core.bare", "true")
    return {"GIT_DIR": "../apart.git", "GIT_WORK_TREE": "."}


def test_a_work_tree_apart_from_gits_folder(
    apart: dict[str, str], sides: Path, soup: Run, git: Run, refused: Refused
) -> None:
    soup("init", env=apart)
    assert all(code == 0 for code, _ in answers(soup, sides, **apart))
    nudge(ADAPTER, 8)
    soup("add", ADAPTER, env=apart)
    # What only the index names is in use: another work tree is not looked for instead.
    weights = Path(ADAPTER, WEIGHTS).read_bytes()
    soup("gc", "--prune", "--older-than", "now", env=apart)
    soup("lock", "write", "--base-sha", "a" * 64, env=apart)
    git("commit", "-qam", "In the hook, too", env=apart)
    Path(ADAPTER, WEIGHTS).unlink()
    soup("checkout", env=apart)
    assert Path(ADAPTER, WEIGHTS).read_bytes() == weights
    soup("merge", "politer", env=apart)
    soup("verify", "--adapter", ADAPTER, "--no-note", env=apart)
    soup("fsck", env=apart)


def test_dvc_is_told_where_git_is(
    apart: dict[str, str], sides: Path, soup: Run, refused: Refused
) -> None:
    """DVC itself looks for .git alone; what the hint says makes both work."""
    Path("dvc.yaml").write_text("stages:\n  one:\n    cmd: echo 1 > one\n    outs: [one]\n")
    done = soup("plan", check=False, env=apart)
    refused(done, 128, "DVC does not look at GIT_DIR")
    [hint] = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
    typed = hint.removeprefix("hint: ").partition(";")[0]
    subprocess.run(["sh", "-c", typed], check=True, env={**os.environ, **apart}, cwd=sides)
    assert soup("plan", check=False).returncode == 3
    assert soup("status").returncode == 0


def test_variables_of_one_repository_are_not_anothers(sides: Path, soup: Run, git: Run) -> None:
    """gc asks every work tree for its own index, verify builds in a scratch one."""
    git("worktree", "add", "-q", "../linked", "politer")
    nudge(sides.parent / "linked" / ADAPTER, 8)
    soup("add", ADAPTER, cwd=sides.parent / "linked")
    told = {"GIT_DIR": str(sides / ".git"), "GIT_WORK_TREE": str(sides)}
    soup("gc", "--prune", "--older-than", "now", env=told)
    soup("fsck", cwd=sides.parent / "linked")
    linked = sides.parent / "linked" / ADAPTER / WEIGHTS
    linked.unlink()
    soup("checkout", cwd=sides.parent / "linked")
    assert linked.is_file()
    soup("merge", "politer", env=told)
    soup("verify", "--adapter", ADAPTER, "--no-note", env=told)


def test_an_index_of_ones_own(sides: Path, soup: Run, git: Run) -> None:
    nudge(ADAPTER, 8)
    env = {"GIT_INDEX_FILE": str(sides.parent / "index")}
    git("read-tree", "HEAD", env=env)
    soup("add", ADAPTER, env=env)
    assert git("diff", "--cached", "--name-only", env=env).stdout.count("\n") == 2
    assert git("diff", "--cached", "--name-only").stdout == ""


def test_a_submodule(sides: Path, soup: Run, git: Run) -> None:
    """git lists its own folder below the super repository as the main work tree."""
    top = sides.parent / "super"
    git("init", "-q", top)
    git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", sides, "sub", cwd=top)
    inner = top / "sub"
    shutil.copytree(sides / ".dvc/cache", inner / ".dvc/cache")
    soup("init", cwd=inner)
    soup("checkout", cwd=inner)
    assert [code for code, _ in answers(soup, inner)] == [0] * len(LOOKING)
    git("worktree", "add", "-q", top / "linked", "HEAD", cwd=inner)
    assert (top / "linked" / ADAPTER / WEIGHTS).is_file()
    assert f"{inner}/.dvc/cache" in soup("gc", cwd=top / "linked").stdout


NAMES = ["line\nfeed", "a b'c\"d ümläut", "-x", "\udcff\udcfe"]


@pytest.mark.parametrize("name", NAMES, ids=["line feed", "quotes", "dash", "bytes"])
def test_a_repository_under_any_name(name: str, sides: Path, soup: Run, git: Run) -> None:
    plain = answers(soup, sides, FEW)
    other = sides.parent / name
    sides.rename(other)
    other.joinpath("new").symlink_to("adapters")
    assert answers(soup, other, FEW) == plain
    assert answers(soup, other / "new", FEW) == plain
    nudge(other / ADAPTER, 8)
    soup("add", ADAPTER, cwd=other)
    git("commit", "-qam", "again", cwd=other)
    git("worktree", "add", "-q", f"../{name}.linked", "politer", cwd=other)
    assert (sides.parent / f"{name}.linked" / ADAPTER / WEIGHTS).is_file()
    assert "politer" in soup("branch", "-d", "politer", cwd=other, check=False).stderr


def test_gits_own_folder_is_no_place(sides: Path, soup: Run, refused: Refused, git: Run) -> None:
    refused(soup("status", cwd=sides / ".git", check=False), 128, "git's own folder", "cd ..")
    git("clone", "-q", "--bare", sides, "../bare.git")
    refused(soup("status", cwd=sides.parent / "bare.git", check=False), 128, "bare repository")
    env = {"GIT_DIR": "../nothing"}
    refused(soup("status", env=env, check=False), 128, "not a git repository")


# -- paths in the work tree --------------------------------------------------------------------


@pytest.mark.parametrize("parent", ["a b'c\"d ümläut", "-x", "a:b*?[x]#$HOME"])
def test_a_folder_under_any_name_that_a_lock_can_hold(
    parent: str, repo: Path, soup: Run, git: Run, make_adapter: MakeAdapter
) -> None:
    place = f"adapters/{parent}/support"
    make_adapter(place, seed=1)
    soup("add", place)
    git("commit", "-qm", "one")
    before = Path(place, WEIGHTS).read_bytes()
    shown = json.loads(soup("show", f"HEAD:{place}", "--json").stdout)
    assert shown == json.loads(soup("show", f"HEAD:./{place}", "--json").stdout) | {
        "spec": shown["spec"]
    }
    nudge(place, 2)
    soup("add", ".", cwd=repo / place)
    git("commit", "-qm", "two")
    assert "changed" in soup("diff", f"HEAD~1:{place}", f"HEAD:{place}").stdout
    assert git("log", "-1", "--format=%h").stdout.strip() in soup("blame", place).stdout
    soup("tag", "support", "--adapter", place)
    [tag] = json.loads(soup("tag", "--json").stdout)["tags"]
    assert tag["adapter"] == place
    git("checkout", "-q", "HEAD~1")
    assert Path(place, WEIGHTS).read_bytes() == before
    soup("fsck")


@pytest.mark.parametrize("parent", ["line\nfeed", "tab\t", "\udcff", "esc\x1b[31m", "cr\r"])
def test_one_that_no_lock_can_hold_is_refused_whole(
    parent: str, repo: Path, soup: Run, git: Run, make_adapter: MakeAdapter, refused: Refused
) -> None:
    make_adapter(f"adapters/{parent}/support", seed=1)
    soup("lock", "write")
    done = soup("add", f"adapters/{parent}/support", check=False)
    refused(done, 128, "cannot be written into a lock: it is not printable", "rename its folders")
    assert git("diff", "--cached", "--name-only").stdout == ""
    for words in (("status", "--json"), ("status",), ("fsck",), ("log",), ("lock", "check")):
        done = soup(*words, check=False)
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stdout + done.stderr
    renamed = Path("adapters", parent).rename("adapters/plain")
    soup("add", renamed / "support")


def test_a_name_that_is_no_name_comes_with_one(
    repo: Path, soup: Run, make_adapter: MakeAdapter, refused: Refused
) -> None:
    make_adapter("adapters/my adapter!", seed=1)
    done = soup("add", "adapters/my adapter!", check=False)
    refused(done, 128, "not a valid adapter name", "hint: my-adapter is one")


def test_a_lock_without_a_dataset_digests_no_dataset(repo: Path, soup: Run) -> None:
    """And not the whole work tree in its place, whose names may be no text."""
    Path(os.fsdecode(b"\xff")).write_text("x")
    soup("lock", "write")
    pins = {pin["pin"]: pin for pin in json.loads(soup("status", "--json").stdout)["pins"]}
    assert pins["dataset"]["actual"] is None


def test_a_dataset_folder_is_digested_as_sha256sum_does_whatever_its_names(
    repo: Path, soup: Run
) -> None:
    names = [b"a\xff", b"b c", "ü".encode()]
    Path("data").mkdir()
    for name in names:
        Path("data", os.fsdecode(name)).write_bytes(name)
    lines = sorted(hashlib.sha256(n).hexdigest().encode() + b"  " + n + b"\n" for n in names)
    Path("soup.yaml").write_text("base: org/base\ndata:\n  train: data\n")
    soup("lock", "write")
    lock = json.loads(Path("soup.lock").read_text())
    assert lock["dataset_sha"] == hashlib.sha256(b"".join(lines)).hexdigest()


# -- what is not allowed -----------------------------------------------------------------------


def test_a_repository_of_somebody_else(sides: Path, soup: Run, refused: Refused, git: Run) -> None:
    """git's own refusal, and its own way out, spelled for a shell."""
    done = soup("status", check=False, env={"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"})
    refused(done, 128, "dubious ownership", f"safe.directory {shlex.quote(str(sides))}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_repository_that_may_only_be_read(sides: Path, soup: Run, refused: Refused) -> None:
    everything = [sides, *sides.rglob("*")]
    modes = [(path, path.lstat().st_mode) for path in everything if not path.is_symlink()]
    for path, mode in modes:
        path.chmod(mode & 0o555)
    try:
        assert [code for code, _ in answers(soup, sides, FEW)] == [0] * len(FEW)
        refused(soup("tag", "support", check=False), 128)
        refused(soup("lock", "write", "--base-sha", "b" * 64, check=False), 128)
    finally:
        for path, mode in modes:
            path.chmod(mode)
