"""Each of git's operations that ask a merge driver is told from the others by git's own state."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from soup_git.storage.underway import command_of

DRIVER = """
import sys
from pathlib import Path
from soup_git.errors import FatalError
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.underway import operation

texts = [Path(name).read_bytes() for name in sys.argv[1:4]]
try:
    found = operation(GitRepo.discover(Path.cwd()), sys.argv[4], texts)
except FatalError as error:
    found = f"unknown: {error}"
with open(sys.argv[5], "a") as log:
    log.write(found + "\\n")
Path(sys.argv[2]).write_bytes(b"merged " + texts[1] + texts[2])
sys.exit(int(Path(sys.argv[5] + ".code").read_text()))
"""


class Asked:
    """A repository whose driver notes what it is asked for; `side` and `main` both change FILE."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = root.parent / "log"
        self.answers_with(0)
        driver = root.parent / "driver.py"
        driver.write_text(DRIVER)
        self.git("init", "-q", "-b", "main", ".")
        words = [sys.executable, str(driver), "%O", "%A", "%B", "%P", str(self._log)]
        self.git("config", "merge.asked.driver", " ".join(map(shlex.quote, words)))
        Path(root, ".gitattributes").write_text("file merge=asked\n")
        self.commit("base", [str(i) for i in range(12)])
        self.git("switch", "-qc", "side")
        self.edit("s1", 9)
        self.edit("s2", 10)
        self.git("switch", "-q", "main")
        self.edit("m1", 0)
        self.edit("m2", 1)

    def git(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=self.root, capture_output=True, text=True)

    def commit(self, name: str, lines: list[str], message: str | None = None) -> None:
        Path(self.root, "file").write_text("".join(f"{line}\n" for line in lines))
        self.git("add", ".")
        self.git("commit", "-qm", message or name)
        self.git("tag", name)

    def edit(self, name: str, line: int, message: str | None = None) -> None:
        self.commit(name, self.edited(name, line), message)

    def edited(self, name: str, line: int) -> list[str]:
        lines = Path(self.root, "file").read_text().splitlines()
        lines[line] += name
        return lines

    def answers_with(self, code: int) -> None:
        Path(f"{self._log}.code").write_text(str(code))

    def forget(self) -> None:
        self._log.unlink(missing_ok=True)

    @property
    def answers(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    root = tmp_path / "repo"
    root.mkdir()
    for name in [name for name in os.environ if name.startswith("GITHEAD_")]:
        monkeypatch.delenv(name)
    yield Asked(root)


def _stash(repo: Asked, *options: str) -> None:
    Path(repo.root, "file").write_text("\n".join(repo.edited("stash", 5)) + "\n")
    repo.git("add", ".")
    repo.git("stash")
    repo.edit("later", 7)
    repo.git("stash", "pop", *options)


def _checkout(repo: Asked) -> None:
    Path(repo.root, "file").write_text("\n".join(repo.edited("local", 5)) + "\n")
    repo.git("checkout", "-m", "side")


def _patch(repo: Asked, *command: str) -> None:
    patch = repo.git(*command, "s1~", "s1") if command[0] == "diff" else repo.git(*command, "s1")
    Path(repo.root.parent, "patch").write_text(patch.stdout)
    repo.edit("near", 11)
    how = ["apply", "-3"] if command[0] == "diff" else ["am", "-3"]
    repo.git(*how, "../patch")


def _fixup(repo: Asked) -> None:
    repo.edit("fix", 5, "fixup! m1")
    repo.git("-c", "sequence.editor=:", "rebase", "-i", "--autosquash", "base")


def _rebase_merges(repo: Asked) -> None:
    repo.git("switch", "-qc", "joined", "m1")
    repo.git("merge", "-q", "--no-edit", "s1")
    repo.git("switch", "-qc", "other", "base")
    repo.edit("o", 4)
    repo.git("switch", "-q", "joined")
    repo.forget()
    repo.git("rebase", "--rebase-merges", "other")


def _revert_of_a_merge(repo: Asked) -> None:
    repo.git("merge", "-q", "--no-edit", "side")
    repo.edit("late", 7)
    repo.forget()
    repo.git("revert", "--no-edit", "-m1", "HEAD~1")


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda r: r.git("merge", "--no-edit", "side"), "merge"),
        (lambda r: r.git("merge", "--squash", "side"), "merge"),
        (lambda r: r.git("merge", "-s", "recursive", "--no-edit", "side"), "merge"),
        (lambda r: r.git("pull", "--no-rebase", "--no-edit", ".", "side"), "merge"),
        (lambda r: r.git("merge-tree", "--write-tree", "main", "side"), "merge"),
        (lambda r: r.git("-C", ".", "merge-tree", "--write-tree", "main", "side"), "merge"),
        (lambda r: r.git("cherry-pick", "s1"), "replay"),
        (lambda r: r.git("cherry-pick", "-n", "s1"), "replay"),
        (lambda r: r.git("cherry-pick", "s1", "s2"), "replay replay"),
        (lambda r: r.git("revert", "--no-edit", "m1"), "replay"),
        (lambda r: r.git("rebase", "side"), "replay replay"),
        (lambda r: r.git("pull", "--rebase", ".", "side"), "replay replay"),
        (_fixup, "replay replay"),
        (lambda r: _patch(r, "format-patch", "-1", "--stdout"), "replay"),
        (lambda r: _patch(r, "diff"), "replay"),
        (_stash, "replay"),
        (_checkout, "replay"),
        (_rebase_merges, "replay replay merge"),
        (_revert_of_a_merge, "replay"),
        (lambda r: r.git("rebase", "--exec", "git merge -q --no-edit s2", "s1"), "replay merge replay"),
    ],
)  # fmt: skip
def test_an_operation_is_told(asked: Asked, ask: Callable[[Asked], object], wanted: str) -> None:
    ask(asked)
    assert asked.answers == wanted.split()


@pytest.mark.parametrize(
    ("begin", "wanted"),
    [
        (["merge", "--no-edit", "side"], "merge"),
        (["cherry-pick", "s1"], "replay"),
        (["revert", "--no-edit", "m1"], "replay"),
        (["rebase", "side"], "replay"),
    ],
)
def test_a_conflict_is_made_again_as_what_it_was(
    asked: Asked, begin: list[str], wanted: str
) -> None:
    asked.answers_with(1)
    asked.git(*begin)
    assert asked.answers == [wanted]
    asked.git("checkout", "-m", "--", "file")
    assert asked.answers == [wanted, wanted]


def test_a_conflict_of_a_squash_could_be_one_of_a_stash(asked: Asked) -> None:
    asked.answers_with(1)
    asked.git("merge", "--squash", "side")
    asked.git("checkout", "-m", "--", "file")
    assert asked.answers[0] == "merge"
    assert asked.answers[1].startswith("unknown: a merge and a commit put elsewhere give different")


def test_a_merge_inside_a_rebase_that_waits_is_a_merge(asked: Asked) -> None:
    asked.answers_with(1)
    asked.git("rebase", "side")
    asked.git("reset", "-q", "--hard")
    asked.forget()
    asked.git("merge", "--no-edit", "m1")
    assert asked.answers == ["merge"]


def test_a_pick_in_the_hook_of_a_merge_is_no_merge(asked: Asked) -> None:
    asked.git("switch", "-qc", "third", "base")
    asked.edit("t", 5)
    asked.git("switch", "-q", "main")
    hook = Path(asked.root, ".git/hooks/post-merge")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ngit cherry-pick t\n")
    hook.chmod(0o755)
    asked.git("merge", "--no-edit", "side")
    assert asked.answers == ["merge", "replay"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("git merge-tree --write-tree a b", "merge-tree"),
        ("/usr/bin/git -C x -c a.b=c --no-pager replay --onto a b", "replay"),
        ("sh -c git", None),
        ("git", None),
        ("", None),
    ],
)
def test_the_command_of_a_line(line: str, wanted: str | None) -> None:
    assert command_of(line.split()) == wanted
