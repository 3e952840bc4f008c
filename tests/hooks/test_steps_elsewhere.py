"""cherry-pick, revert, rebase, stash and am put a step elsewhere: ours + (theirs − base), whole.

The versions share their A, so that every sum of updates has the adapter's own rank, and numpy's
dense sums are what git's operation means.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import runner
from tests.versions import ADAPTER, commit_change, nudge, updates

B = ["lora_B"]
Updates = Mapping[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="session")
def _history(repo_template: Path, tmp_path_factory, make_adapter) -> Path:
    """Tags P - C - D on `main`, and X after P on `x`."""
    root = tmp_path_factory.mktemp("steps") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    with contextlib.chdir(root):
        git, soup = runner("git"), runner("git", "soup")
        commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=1, layers=1), "P")
        git("tag", "P")
        for seed, name in enumerate(("C", "D"), start=2):
            commit_change(git, soup, lambda seed=seed: nudge(ADAPTER, seed, B), name)
            git("tag", name)
        git("switch", "-qc", "x", "P")
        commit_change(git, soup, lambda: nudge(ADAPTER, 9, B), "X")
        git("tag", "X")
    return root


@pytest.fixture
def history(_history: Path, in_tmp_path: Path, git, monkeypatch) -> Path:
    """On `x`."""
    root = in_tmp_path / "repo"
    shutil.copytree(_history, root, symlinks=True)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root


@pytest.fixture
def at(soup, git):
    """Module -> dense update, of a revision."""

    def read(revision: str) -> Updates:
        head = git("symbolic-ref", "--short", "HEAD").stdout.strip()
        git("switch", "-q", "--detach", revision)
        soup("checkout")
        found = updates(ADAPTER)
        git("switch", "-q", head)
        return found

    return read


def summed(*parts: tuple[float, Updates]) -> Updates:
    return {module: sum(w * of[module] for w, of in parts) for module in parts[0][1]}


def is_near(found: Updates, wanted: Updates) -> None:
    assert found.keys() == wanted.keys()
    for module, value in wanted.items():
        assert np.linalg.norm(found[module] - value) < 1e-6 * np.linalg.norm(value)


def manifest(git, revision: str) -> str:
    return git("show", f"{revision}:{ADAPTER}/adapter.manifest").stdout


def test_a_picked_step_comes_whole_whatever_merges_are_told(history, git, soup, at):
    done = git(
        "-c", "soup.merge.weights=0.25", "-c", "soup.merge.strategy=ties", "cherry-pick", "C"
    )
    assert "2 combined (their step, whole, rank 8" in done.stderr
    is_near(at("HEAD"), summed((1, at("X")), (1, at("C")), (-1, at("P"))))
    text = manifest(git, "HEAD")
    assert "recipe strategy linear\n" in text and text.count("recipe side 1.0 md5:") == 2
    soup("checkout")
    assert "identical" in soup("verify").stdout


def test_a_revert_takes_a_step_out_whole(history, git, at):
    git("switch", "-q", "main")
    git("revert", "--no-edit", "C")
    is_near(at("HEAD"), summed((1, at("D")), (-1, at("C")), (1, at("P"))))


def test_a_rebase_is_its_picks(history, git, at):
    git("cherry-pick", "C", "D")
    picked = git("rev-parse", "HEAD^{tree}").stdout
    is_near(at("HEAD"), summed((1, at("X")), (1, at("D")), (-1, at("P"))))
    git("switch", "-qc", "topic", "D")
    for how in ("--merge", "--apply"):
        git("reset", "-q", "--hard", "D")
        git("rebase", how, "X")
        assert git("rev-parse", "HEAD^{tree}").stdout == picked
    git("reset", "-q", "--hard", "D")
    git("pull", "--rebase", "-q", ".", "X")
    assert git("rev-parse", "HEAD^{tree}").stdout == picked


def test_reverts_of_picks_give_back_the_bytes_that_were_there(history, git):
    git("cherry-pick", "C")
    git("cherry-pick", "D")
    git("revert", "--no-edit", "HEAD~1")
    assert manifest(git, "HEAD") != manifest(git, "X")
    git("revert", "--no-edit", "HEAD~1")
    assert manifest(git, "HEAD") == manifest(git, "X")
    assert git("diff", "--stat", "X", "HEAD", "--", ADAPTER).stdout == ""


def test_the_bytes_come_back_where_the_rank_holds_no_sum(history, git, make_adapter, soup, at):
    """Unrelated factors: what was picked is cut, what the recipes say is not."""
    git("switch", "-qc", "y", "P")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=30, layers=1), "Y")
    git("tag", "Y")
    git("switch", "-qc", "other", "P")
    for seed in (31, 32):
        commit_change(git, soup, lambda seed=seed: make_adapter(ADAPTER, seed=seed, layers=1), "o")
    git("switch", "-q", "y")
    git("cherry-pick", "other~1")
    lost = summed((1, at("HEAD")), (-1, at("Y")), (-1, at("other~1")), (1, at("P")))
    assert max(map(np.linalg.norm, lost.values())) > 1.0
    git("cherry-pick", "other")
    git("revert", "--no-edit", "HEAD~1")
    git("revert", "--no-edit", "HEAD~1")
    assert manifest(git, "HEAD") == manifest(git, "Y")


def test_a_pick_that_is_reverted_after_another_training(history, git, soup, at):
    git("cherry-pick", "C")
    soup("checkout")
    commit_change(git, soup, lambda: nudge(ADAPTER, 40, B), "W")
    trained = at("HEAD")
    git("revert", "--no-edit", "HEAD~1")
    is_near(at("HEAD"), summed((1, trained), (-1, at("HEAD~2")), (1, at("X"))))


def test_a_stash_comes_whole(history, git, soup, at):
    nudge(ADAPTER, 50, B)
    stashed = updates(ADAPTER)
    soup("add", ADAPTER)
    git("stash")
    soup("checkout")
    commit_change(git, soup, lambda: nudge(ADAPTER, 51, B), "later")
    wanted = summed((1, at("HEAD")), (1, stashed), (-1, at("X")))
    git("stash", "pop")
    soup("checkout")
    is_near(updates(ADAPTER), wanted)


def test_local_changes_are_carried_along_whole(history, git, soup, at):
    before = summed((1, at("D")), (-1, at("X")))
    soup("checkout")
    nudge(ADAPTER, 60, B)
    soup("add", ADAPTER)
    git("reset", "-q")
    local = updates(ADAPTER)
    done = git("checkout", "-m", "main")
    assert "conflict" not in done.stderr
    soup("checkout")
    is_near(updates(ADAPTER), summed((1, local), (1, before)))


def test_a_patch_is_a_step(history, git, at):
    Path("../patch").write_text(git("format-patch", "-1", "--stdout", "C").stdout)
    git("am", "-3", "../patch")
    is_near(at("HEAD"), summed((1, at("X")), (1, at("C")), (-1, at("P"))))


def test_a_rebase_makes_merges_anew(history, git, at):
    git("merge", "-q", "C")
    git("switch", "-qc", "onto", "P")
    git("commit", "-q", "--allow-empty", "-m", "elsewhere")
    git("switch", "-q", "x")
    merged = manifest(git, "HEAD")
    git("rebase", "--rebase-merges", "-f", "onto")
    assert git("rev-list", "--merges", "--count", "onto..HEAD").stdout == "1\n"
    assert manifest(git, "HEAD") == merged
    is_near(at("HEAD"), summed((0.5, at("X")), (0.5, at("C"))))
