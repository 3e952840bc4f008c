"""Killed right before each step that leaves a trace, a writing command leaves old or new.

For n = 1, 2, … until the command survives: it starts on a fresh copy of the same repository
and dies before its n-th step. Then `git fsck` and `git soup fsck` are clean, every ref is the
old one or a new one whose objects are there, and the command typed again completes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from soup_git.core.notes import EvalRecord, Metric
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import append_notes, read_notes
from tests.conftest import write_adapter
from tests.killing import Ended, in_a_fork, soup, warm_up
from tests.pinned import _pinned_template, dvc
from tests.two_branches import POLITE_CONFIG

__all__ = ["_pinned_template", "dvc"]

WEIGHTS = "adapters/support/adapter_model.safetensors"
KILLS: dict[str, int] = {}


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up(["add", "branch", "checkout", "fsck", "lock", "merge", "pull", "push"])


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of runs need not reach a disk."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsync")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "none")
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 256 << 20:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="soup-crash-", dir=memory) as name:
        yield Path(name)


@pytest.fixture
def state(_pinned_template: Path, in_memory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What each run starts from: `repo`, a bare `origin.git` and the DVC remote `store`."""
    place = in_memory / "state"
    place.mkdir()
    monkeypatch.chdir(in_memory)
    shutil.copytree(_pinned_template, place / "repo", symlinks=True)
    config = "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    (place / "repo" / ".dvc" / "config").write_text(config)
    (place / "store").mkdir()
    git("commit", "-qam", "Keep weights in ../store", root=place / "repo")
    git("init", "-q", "--bare", "../origin.git", root=place / "repo")
    git("remote", "add", "origin", "../origin.git", root=place / "repo")
    return place


def git(*words: str, root: Path | None = None) -> str:
    done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout


def each_step(
    state: Path,
    run: Callable[[], int],
    *,
    finished: Callable[[], None],
    again: Callable[[], int] | None = None,
    folder: str = "repo",
) -> None:
    """Kill `run` before each of its steps, each time on a copy of `state`; `again` completes it."""
    kills = 0
    while True:
        place = state.parent / "run"
        shutil.copytree(state, place, symlinks=True)
        os.chdir(place / folder)
        git("update-index", "-q", "--refresh")
        before = refs()
        ended = in_a_fork(run, kill_at=kills + 1)
        if ended.code is not None:
            assert ended.code == 0, ended.err
            finished()
            new = refs()
            os.chdir(state.parent)
            shutil.rmtree(place)
            break
        kills += 1
        whole(place, kills)
        now = refs()
        assert before.keys() <= now.keys(), kills
        done = in_a_fork(again or run)
        assert done.code == 0, (kills, done.err)
        finished()
        os.chdir(state.parent)
        shutil.rmtree(place)
    assert new.keys() >= now.keys()
    assert kills >= 2
    KILLS[os.environ["PYTEST_CURRENT_TEST"].partition("::")[2]] = kills


def refs() -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ") for line in listed)


def whole(place: Path, kills: int) -> None:
    """Both fsck's are clean, here and on the remote; no lock file and no half file lies about."""
    for root in (place / "origin.git", None):
        git("fsck", "--strict", "--no-dangling", "--connectivity-only", "--no-progress", root=root)
    checked: Ended = in_a_fork(soup("fsck", "--json"))
    assert json.loads(checked.out)["problems"] == [], (kills, checked.out)
    assert not list(Path(".git").rglob("*.lock"))
    assert ".soup-" not in git("status", "--porcelain", "--untracked-files=all")
    published(place, kills)


def published(place: Path, kills: int) -> None:
    """Every object that a ref of the remote names is in the DVC remote."""
    origin = place / "origin.git"
    for line in git("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/soup", root=origin).split():  # fmt: skip
        text = git("show", f"{line}:{WEIGHTS}.dvc", root=origin)
        md5 = text.partition("md5: ")[2][:32]
        assert (place / "store" / "files" / "md5" / md5[:2] / md5[2:]).is_file(), kills


def test_add(state):
    write_adapter(state / "repo" / "adapters/support", seed=100)

    def finished() -> None:
        assert "M  adapters/support/adapter.manifest" in git("status", "--porcelain")

    each_step(state, soup("add", "adapters/support"), finished=finished)


def test_branch(state):
    (state / "repo" / "soup.yaml").write_text(POLITE_CONFIG + "# new\n")
    (state / "repo" / "data/train.jsonl").write_text('{"prompt": "x", "completion": "y"}\n')

    def again() -> int:
        there = "refs/heads/new" in refs()
        return soup("branch", *(["--force"] if there else []), "new")()

    def finished() -> None:
        assert "Soup-Dataset" in git("log", "-1", "--format=%B", "new")

    each_step(state, soup("branch", "new"), again=again, finished=finished)


def test_checkout(state):
    def finished() -> None:
        assert git("status", "--porcelain") == ""
        found = json.loads(in_a_fork(soup("status", "--json")).out)
        assert [found["lock"], found["adapters"][0]["state"]] == ["clean", "clean"]

    def again() -> int:
        return soup("checkout", "politer")() or soup("checkout")()

    each_step(state, soup("checkout", "politer"), again=again, finished=finished)


def test_lock_write(state):
    (state / "repo" / "soup.yaml").write_text(POLITE_CONFIG)

    def finished() -> None:
        assert in_a_fork(soup("lock", "check")).code == 0

    each_step(state, soup("lock", "write"), finished=finished)


def test_merge_into_a_folder(state):
    for seed, name in enumerate(("one", "two", "both")):
        write_adapter(state / "repo" / "adapters" / name, seed=seed)

    def finished() -> None:
        assert "recipe" in Path("adapters/both/adapter.manifest").read_text()
        assert in_a_fork(soup("show", "./adapters/both")).code == 0

    words = ("merge", "./adapters/one", "./adapters/two", "-o", "adapters/both", "--force")
    each_step(state, soup(*words), finished=finished)


def record(value: float) -> EvalRecord:
    metrics = {"judge.score": Metric(value, 0.1, 10)}
    at = "2026-05-14T10:00:00+00:00"
    return EvalRecord("adapters/support", "a" * 32, "s.yaml", "b" * 64, metrics, at)


def note(value: float) -> int:
    repo = GitRepo(Path.cwd())
    append_notes(repo, {repo.commit("HEAD"): [record(value).line()]})
    repo.close()
    return 0


def test_note(state):
    os.chdir(state / "repo")
    note(1.0)

    def finished() -> None:
        repo = GitRepo(Path.cwd())
        head = repo.commit("HEAD")
        assert read_notes(repo, [head])[head] == [record(1.0), record(2.0)]
        repo.close()

    each_step(state, lambda: note(2.0), finished=finished)


def test_push(state):
    git("update-ref", "refs/soup/runs/a", "politer", root=state / "repo")
    os.chdir(state / "repo")
    note(1.0)

    def finished() -> None:
        there = git("ls-remote", "origin").split()[1::2]
        assert {"refs/heads/main", "refs/heads/politer", "refs/soup/runs/a", "refs/notes/soup"} <= {*there}  # fmt: skip
        assert json.loads(in_a_fork(soup("push", "--all", "--json")).out)["objects_sent"] == 0

    each_step(state, soup("push", "--all"), finished=finished)


def test_pull(state):
    os.chdir(state / "repo")
    assert in_a_fork(soup("push", "--all")).code == 0
    git("clone", "-q", "../origin.git", "../theirs")
    os.chdir(state / "theirs")
    assert in_a_fork(soup("init")).code == 0
    note(2.0)
    os.chdir(state / "repo")
    note(1.0)
    write_adapter("adapters/support", seed=101)
    assert in_a_fork(soup("add", "adapters/support")).code == 0
    assert in_a_fork(soup("lock", "write")).code == 0
    git("commit", "-qam", "Retrain")
    git("update-ref", "refs/soup/runs/a", "HEAD")
    assert in_a_fork(soup("push")).code == 0
    os.chdir(state.parent)

    def finished() -> None:
        assert git("rev-parse", "HEAD") == git("rev-parse", "refs/soup/runs/a")
        assert Path(WEIGHTS).read_bytes() == Path("../repo", WEIGHTS).read_bytes()
        assert git("status", "--porcelain") == ""
        repo = GitRepo(Path.cwd())
        head = repo.commit("HEAD~1")
        assert read_notes(repo, [head])[head] == [record(1.0), record(2.0)]
        repo.close()

    each_step(state, soup("pull"), finished=finished, folder="theirs")


def test_they_were_many():
    """With the random ones of test_crash.py, about one hundred and fifty."""
    if len(KILLS) == 8:
        assert sum(KILLS.values()) >= 70, KILLS
