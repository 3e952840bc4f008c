"""`git soup merge REV…`: a merge commit, of one revision or of many."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from soup_git.core.dvcyaml import freeze_stage
from soup_git.core.yamltext import load_yaml
from soup_git.errors import FatalError
from tests.versions import (
    ADAPTER,
    BOTH,
    WEIGHTS,
    _sides_template,
    best_of_rank,
    commit_change,
    nudge,
    sides,
    updates,
)

__all__ = ["_sides_template", "sides"]


@pytest.fixture
def three(sides, git, soup) -> Path:
    """`main`, `politer` and `third`, each retrained since the commit they share; on `main`."""
    git("switch", "-qc", "third", "main~1")
    commit_change(git, soup, lambda: nudge(ADAPTER, 5, [BOTH, "layers.0.mlp"]), "Train third")
    Path("notes.txt").write_text("of third\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Notes")
    git("switch", "-q", "main")
    return sides


def pointer() -> str:
    return Path(ADAPTER, f"{WEIGHTS}.dvc").read_text().partition("md5: ")[2].split()[0].strip("'")


def weights_md5() -> str:
    return hashlib.md5(Path(ADAPTER, WEIGHTS).read_bytes()).hexdigest()


def test_one_revision_is_gits_own_merge_with_the_settings_passed(sides, git, soup):
    done = soup(
        "merge", "politer", "--strategy", "ties", "--weights", "0.5", "-m", "Merge the polite one"
    )
    assert "Merge made by the 'ort' strategy." in done.stdout
    assert "(ties from merge base" in done.stderr
    assert done.stderr.count("was merged, not trained") == 1
    assert git("log", "-1", "--format=%s").stdout == "Merge the polite one\n"
    assert len(git("log", "-1", "--format=%P").stdout.split()) == 2
    assert weights_md5() == pointer()
    assert git("status", "--porcelain").stdout == ""
    assert git("config", "soup.merge.strategy", check=False).stdout == ""
    assert "recipe side 0.5 md5:" in Path(ADAPTER, "adapter.manifest").read_text()
    assert "identical" in soup("verify").stdout


def test_no_commit_leaves_the_commit_to_the_user(sides, git, soup):
    head = git("rev-parse", "HEAD").stdout
    soup("merge", "politer", "--no-commit")
    assert git("rev-parse", "HEAD").stdout == head
    assert weights_md5() == pointer()
    git("commit", "-q", "--no-edit")
    assert "clean" in soup("fsck").stdout


def test_a_conflict_is_gits_own(repo, git, soup, make_adapter):
    git("switch", "-qc", "politer")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=2), "theirs")
    git("switch", "-q", "main")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=1), "ours")
    assert soup("merge", "politer", check=False).returncode == 1
    git("merge", "--abort")
    assert git("status", "--porcelain").stdout == ""


def test_several_revisions_are_one_commit_of_all(three, git, soup):
    found = []
    for name in ("main~1", "main", "politer", "third"):
        git("checkout", "-q", name)
        found.append(updates(ADAPTER))
    git("switch", "-q", "main")
    parents = [git("rev-parse", name).stdout.strip() for name in ("main", "politer", "third")]
    done = soup("merge", "politer", "third")
    assert "1 from main, 1 from politer, 2 combined (linear from merge base" in done.stderr
    assert git("log", "-1", "--format=%P").stdout.split() == parents
    assert git("log", "-1", "--format=%s").stdout == "Merge 'politer' and 'third'\n"
    assert Path("notes.txt").read_text() == "of third\n"
    assert weights_md5() == pointer()
    assert git("status", "--porcelain").stdout == ""
    assert "clean" in soup("fsck").stdout
    assert "identical" in soup("verify").stdout
    base, *versions = found
    for module, value in updates(ADAPTER).items():
        steps = [v[module] - base[module] for v in versions if (v[module] != base[module]).any()]
        exact = base[module] + sum(steps) / max(1, len(steps))
        wanted = best_of_rank(exact, 8)
        assert abs(value - wanted).max() < 1e-5 * abs(wanted).max()
    assert "Already up to date" in soup("merge", "politer", "third").stderr


def test_several_in_conflict_change_nothing(three, git, soup, photo, make_adapter):
    git("switch", "-q", "third")
    Path("README.md").write_text("third\n")
    git("commit", "-qam", "readme")
    git("switch", "-q", "main")
    Path("README.md").write_text("ours\n")
    git("commit", "-qam", "readme")
    before = photo()
    done = soup("merge", "politer", "third", check=False)
    assert done.returncode == 1
    assert "README.md" in done.stderr
    assert "hint: git soup merge them one at a time" in done.stderr
    git("reset", "-q", "--hard", "HEAD~1")
    git("switch", "-q", "third")
    commit_change(git, soup, lambda: make_adapter(ADAPTER, seed=8, rank=4), "smaller")
    git("switch", "-q", "main")
    before = photo()
    done = soup("merge", "politer", "third", check=False)
    assert done.returncode == 1
    assert f"{ADAPTER}/adapter.manifest is in conflict, and nothing was changed" in done.stderr
    after = photo()
    assert {k: v for k, v in after.items() if "soup" not in k} == {
        k: v for k, v in before.items() if "soup" not in k
    }


def test_a_rename_in_one_of_several_is_not_guessed_at(three, git, soup):
    git("switch", "-q", "third")
    git("mv", ADAPTER, "adapters/help")
    shutil.rmtree(ADAPTER, ignore_errors=True)
    git("commit", "-qm", "Rename")
    git("switch", "-q", "main")
    done = soup("merge", "politer", "third", check=False)
    assert done.returncode == 1
    assert "in conflict, and nothing was changed" in done.stderr
    assert git("status", "--porcelain").stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("politer", "--rank", "4"), "--rank K is for -o DIR; without it --rank keep or grow"),
        (("politer", "--json"), "--json means nothing without -o DIR"),
        (("politer", "--expr", "a"), "--expr means nothing without -o DIR"),
        (("politer", "x", "--no-commit"), "--no-commit is for one revision"),
        (("main", "politer", "-o", "m", "--freeze"), "--freeze means nothing with -o DIR"),
    ],
)
def test_options_of_the_other_form_are_refused(words, said, sides, soup):
    done = soup("merge", *words, check=False)
    assert done.returncode == 129
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "'nowhere' names no commit here"),
        (("politer", "--strategy", "tie"), "is no strategy"),
        (("politer", "--weights", "1,2,3"), "3 weights for 2 sides"),
        (("politer", "--density", "0"), "no share in (0, 1]"),
        (("--", "--abort"), "names no commit"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_git_starts(words, said, sides, soup, refused):
    refused(soup("merge", *words, check=False), 128, said)


def test_local_changes_stop_git_and_nothing_is_lost(sides, git, soup):
    path = Path(ADAPTER, "adapter.manifest")
    path.write_text(path.read_text() + "mine\n")
    done = soup("merge", "politer", check=False)
    assert done.returncode == 128
    assert "would be overwritten" in done.stderr
    assert path.read_text().endswith("mine\n")


def test_freeze_says_when_there_is_nothing_to_freeze(sides, soup):
    done = soup("merge", "politer", "--freeze")
    assert "there is nothing to freeze" in done.stderr


# -- dvc.yaml ---------------------------------------------------------------------------------

PIPELINE = b"""\
# ours
vars:
  - soup.yaml
stages:
  train:
    cmd: python -m train
    deps:
      - ${data.train}
  other:
    cmd: x
"""


def test_freezing_adds_one_line():
    frozen = freeze_stage(PIPELINE, "train")
    assert frozen == PIPELINE.replace(b"  train:\n", b"  train:\n    frozen: true\n")
    assert load_yaml(freeze_stage(frozen, "other"))["stages"]["other"]["frozen"] is True


@pytest.mark.parametrize(
    "text",
    [PIPELINE.replace(b"  train:\n", b"  train: # x\n"), b"stages: {train: {cmd: x}}\n", b"[", b""],
)
def test_a_layout_that_does_not_show_where_is_refused(text):
    with pytest.raises(FatalError, match="was not frozen") as caught:
        freeze_stage(text, "train")
    assert "write frozen: true" in caught.value.hint
