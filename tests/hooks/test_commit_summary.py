"""prepare-commit-msg and commit-msg: what a commit changes in adapters, in its message."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

LINE = "Soup-Adapter: "
_SECONDS = itertools.count(1_800_000_000)


def later() -> dict[str, str]:
    """Another date than HEAD's: HEAD's own is how git tells its hooks of an amend."""
    return {"GIT_AUTHOR_DATE": f"{next(_SECONDS)} +0000"}


@pytest.fixture
def summarised(repo, soup, git, make_adapter):
    """A workspace that opted in, with one adapter of four modules and another one staged."""
    soup("init", "--commit-summary")
    for other in ("pre-commit", "post-checkout", "post-merge", "post-rewrite"):
        Path(".git/hooks", other).unlink()  # each a start of Python that is not looked at here
    make_adapter("adapters/support", seed=1)
    soup("add", "adapters/support")
    git("commit", "-qm", "Track support", env=later())
    make_adapter("adapters/legal", seed=2)
    soup("add", "adapters/legal")
    return repo


@pytest.fixture
def message(git):
    return lambda revision="HEAD": git("log", "-1", "--format=%B", revision).stdout.strip()


@pytest.fixture
def retrain(soup, git):
    """`retrain(layer)`: one layer of `adapters/legal` gets other numbers, staged."""

    def run(layer: int) -> None:
        import numpy as np
        from safetensors.numpy import load_file, save_file

        path = Path("adapters/legal/adapter_model.safetensors")
        tensors = {name: np.array(tensor) for name, tensor in load_file(path).items()}
        for name in tensors:
            if f"layers.{layer}." in name:
                tensors[name] += 1
        path.unlink()
        save_file(tensors, path)
        soup("add", "adapters/legal")

    return run


@pytest.fixture
def editor(tmp_path):
    """`editor(script)`: the environment in which git's editor is that shell script over "$1"."""

    def make(script: str, **env: str) -> dict[str, str]:
        path = tmp_path / "editor.sh"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return {**later(), "GIT_EDITOR": str(path), **env}

    return make


WRITES = r"""sed -i '1i Retrain legal\n\nBecause.' "$1" """


def test_messages_given_amended_and_replaced(summarised, git, message, retrain, soup):
    assert message() == f"Track support\n\n{LINE}adapters/support added, 4 modules, rank 8"
    git("commit", "-qm", "Legal", "-m", "Signed-off-by: A <a@b.c>", env=later())
    added = f"{LINE}adapters/legal added, 4 modules, rank 8"
    assert message() == f"Legal\n\nSigned-off-by: A <a@b.c>\n{added}", "among the trailers"
    retrain(0)
    git("commit", "-qm", "Retrain", env=later())
    assert message() == f"Retrain\n\n{LINE}adapters/legal 2 of 4 modules changed"
    retrain(1)
    git("commit", "-q", "--amend", "--no-edit")
    assert message() == f"Retrain\n\n{LINE}adapters/legal 4 of 4 modules changed", "replaced"
    git("commit", "-q", "--amend", "--no-edit")
    assert message().count(LINE) == 1
    retrain(0)
    done = git("commit", "-q", "--amend", "-m", "Another one")
    assert message() == "Another one", "no number that may be wrong"
    assert "git commit --amend --no-edit adds it" in done.stderr
    git("commit", "-q", "--amend", "--no-edit")
    assert message() == f"Another one\n\n{LINE}adapters/legal 4 of 4 modules changed"
    git("commit", "-q", "--allow-empty", "-m", "Nothing of ours", env=later())
    assert message() == "Nothing of ours"
    git("revert", "--no-edit", "HEAD~1")
    assert message().endswith(f"{LINE}adapters/legal 4 of 4 modules changed"), "a change as any"


def test_messages_written_in_an_editor(summarised, git, message, editor):
    head = git("rev-parse", "HEAD").stdout
    template = Path("template")
    template.write_text("Subject: \n\n# why?\n")
    for words in ((), ("-v",), ("-t", "template"), ("--cleanup=scissors",)):
        done = git("commit", *words, env=editor("true"), check=False)
        assert done.returncode == 1, f"nobody wrote a message: {words}"
        assert "Aborting commit" in done.stderr
    assert git("rev-parse", "HEAD").stdout == head
    added = f"{LINE}adapters/legal added, 4 modules, rank 8"
    for words, body in (
        (("-v", "-s"), "Because.\n\nSigned-off-by: Carl Committer <carl@example.com>"),
        (("-t", "template"), "Because.\nSubject:\n"),
    ):
        git("commit", "-q", *words, env=editor(WRITES))
        assert message() == f"Retrain legal\n\n{body}\n{added}"
        git("reset", "-q", "--soft", "HEAD~1")
    git("commit", "-q", "--no-verify", env=editor(WRITES))
    assert message() == "Retrain legal\n\nBecause.", "--no-verify skips commit-msg"
    git("commit", "-q", "--allow-empty", "-m", "Next", env=later())
    assert message() == "Next", "and what it kept is forgotten"


def test_what_commits_are_made_of_stays(summarised, git, message, soup):
    git("commit", "-qm", "Legal", env=later())
    git("checkout", "-qb", "side", "HEAD~1")
    Path("notes.txt").write_text("x\n")
    git("add", "notes.txt")
    git("commit", "-qm", "Notes", env=later())
    git("merge", "-q", "--no-ff", "-m", "Merge main", "main", env=later())
    assert message() == "Merge main"
    git("commit", "-q", "--amend", "-m", "Merge again")
    git("commit", "-q", "--amend", "--no-edit")
    assert message() == "Merge again"
    git("checkout", "-qb", "picked", "main~1")
    git("cherry-pick", "main")
    assert message() == message("main")
    git("rebase", "-q", "--force-rebase", "HEAD~1")
    assert message() == message("main")


def test_moved_removed_other_rank_and_many(summarised, git, message, soup, make_adapter):
    git("commit", "-qm", "Legal", env=later())
    git("mv", "adapters/legal", "adapters/law")
    make_adapter("adapters/support", seed=5, rank=4)
    soup("add", "adapters/support")
    git("commit", "-qm", "Law", env=later())
    assert message().splitlines()[2:] == [
        f"{LINE}adapters/law moved from adapters/legal",
        f"{LINE}adapters/support 4 of 4 modules changed, rank 8 -> 4, alpha 16 -> 8",
    ]
    git("rm", "-rqf", "adapters/law")
    git("commit", "-qm", "No law", env=later())
    assert message() == f"No law\n\n{LINE}adapters/law removed"


def test_it_is_opt_in_chains_and_never_stops_a_commit(summarised, git, message, soup):
    chained = Path(".git/hooks/prepare-commit-msg.before-soup")
    chained.write_text('#!/bin/sh\necho "Ticket-Id: 7" >> "$1"\n')
    chained.chmod(0o755)
    manifest = Path("adapters/legal/adapter.manifest")
    whole = manifest.read_text()
    manifest.write_text(whole.replace("rank 8", "rank eight", 1) + "no tensor\n")
    git("add", str(manifest))
    done = git("commit", "-q", "--no-verify", "-m", "Broken", env=later())
    assert message() == "Broken\nTicket-Id: 7"
    assert "note: no Soup-Adapter line was added: " in done.stderr
    manifest.write_text(whole)
    git("add", str(manifest))
    git("config", "soup.summary", "false")
    git("commit", "-qm", "Whole", env=later())
    assert message() == "Whole\nTicket-Id: 7"
    asked = soup("init", "--check", "--commit-summary", check=False)
    assert "soup.summary=true" in asked.stdout
