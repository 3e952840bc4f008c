"""refs/notes/soup: many readers and writers, git's own among them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from soup_git.core.notes import EvalRecord, Metric
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import NOTES, append_notes, merge_notes, note, read_notes
from soup_git.storage.workspace import Workspace
from tests.pinned import _pinned_template, dvc

__all__ = ["_pinned_template", "dvc"]


def record(value: float, at: str = "2026-05-14T10:00:00+00:00", weights: str = "a" * 32):
    metrics = {"judge.score": Metric(value, 0.2, 50)}
    return EvalRecord("adapters/support", weights, "evals/gate.yaml", "b" * 64, metrics, at)


@pytest.fixture
def here(pinned) -> Workspace:
    return Workspace.open(pinned)


@pytest.fixture
def pinned(_pinned_template, in_tmp_path, monkeypatch) -> Path:
    import shutil

    shutil.copytree(_pinned_template, in_tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(in_tmp_path / "repo")
    return in_tmp_path / "repo"


def test_a_result_is_on_the_commit_and_on_the_manifest(here, git, soup):
    head = here.git.commit("HEAD")
    note(here, head, [record(7.4)])
    assert '"judge.score"' in git("log", "-1", "--notes=soup").stdout
    blob = git("rev-parse", "HEAD:adapters/support/adapter.manifest").stdout.strip()
    assert read_notes(here.git, [head, blob, "0" * 40]) == {head: [record(7.4)], blob: [record(7.4)]}  # fmt: skip
    assert "judge.score 7.4 ±0.2" in soup("branches").stdout
    git("fsck", "--strict", "--no-dangling")
    note(here, head, [record(7.4)])
    assert git("rev-list", "--count", NOTES).stdout == "1\n", "twice is once"


def test_a_squash_keeps_the_result(here, git, soup):
    git("switch", "-q", "politer")
    note(here, here.git.commit("HEAD"), [record(8.2)])
    git("switch", "-q", "main")
    git("switch", "-q", "-c", "squashed", "main")
    git("checkout", "-q", "politer", "--", ".")
    git("commit", "-qm", "Squash politer")
    for _ in range(2):
        rows = {r["name"]: r for r in json.loads(soup("branches", "--json").stdout)["branches"]}
        assert rows["squashed"]["last_eval"]["metrics"]["judge.score"]["value"] == 8.2
        assert rows["main"]["last_eval"] is None


def test_gits_own_notes_and_ours_share_the_ref(here, git):
    git("notes", "--ref=soup", "add", "-m", "Looks good to me")
    head = here.git.commit("HEAD")
    append_notes(here.git, {head: [record(1).line()]})
    git("notes", "--ref=soup", "append", "-m", record(2).line())
    assert git("notes", "--ref=soup", "show").stdout.startswith("Looks good to me\n")
    assert read_notes(here.git, [head])[head] == [record(1), record(2)]
    git("notes", "--ref=soup", "remove")
    assert read_notes(here.git, [head]) == {}


def test_many_notes_lie_in_folders_and_git_reads_them(here, git):
    ids = [f"{n:040x}" for n in range(1, 301)]
    append_notes(here.git, {oid: ["x"] for oid in ids[:200]})
    assert "/" not in git("ls-tree", "-r", "--name-only", NOTES).stdout
    append_notes(here.git, {oid: ["x"] for oid in ids[100:]})
    names = git("ls-tree", "-r", "--name-only", NOTES).stdout.split()
    assert sorted(name.replace("/", "") for name in names) == ids
    assert all("/" in name for name in names)
    head = here.git.commit("HEAD")
    append_notes(here.git, {head: [record(1).line()]})
    assert git("notes", "--ref=soup", "show").stdout.strip() == record(1).line()
    git("notes", "--ref=soup", "append", "-m", record(2).line())
    assert read_notes(here.git, [head])[head] == [record(1), record(2)]


def test_writers_at_the_same_time_lose_nothing(here, git):
    head = here.git.commit("HEAD")

    def write(n: int) -> None:
        repo = GitRepo(here.root)
        for k in range(4):
            append_notes(repo, {head: [record(n + k / 10).line()]})
        repo.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert len(read_notes(here.git, [head])[head]) == 24


def test_two_histories_merge_as_git_would(here, git):
    head, other = here.git.commit("main"), here.git.commit("politer")
    append_notes(here.git, {head: ["first"], other: ["second"]})
    git("update-ref", "refs/notes/origin/soup", NOTES)
    append_notes(here.git, {head: ["ours"]})
    git("notes", "--ref=origin/soup", "append", "-m", "theirs", head)
    git("notes", "--ref=origin/soup", "remove", other)
    git("update-ref", "refs/notes/by-git", NOTES)
    git("notes", "--ref=by-git", "merge", "-q", "-s", "cat_sort_uniq", "refs/notes/origin/soup")
    assert merge_notes(here.git, "refs/notes/origin/soup")
    assert git("notes", "--ref=soup", "show", head).stdout == "first\nours\ntheirs\n"
    trees = git("rev-parse", f"{NOTES}^{{tree}}", "refs/notes/by-git^{tree}").stdout.split()
    assert trees[0] == trees[1]
    assert not merge_notes(here.git, "refs/notes/origin/soup")
    assert not merge_notes(here.git, "refs/notes/nobody/soup")
    git("update-ref", "-d", NOTES)
    assert merge_notes(here.git, "refs/notes/origin/soup")
    assert git("rev-parse", NOTES).stdout == git("rev-parse", "refs/notes/origin/soup").stdout
