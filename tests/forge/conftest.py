from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from soup_git.core.notes import EvalRecord, Metric
from soup_git.evaluation.pinnedsuite import suite_at
from soup_git.storage.notes import append_notes
from soup_git.storage.workspace import Workspace
from tests.forge.fake_github import FakeGitHub, serving
from tests.pinned import _pinned_template, dvc, refused

__all__ = ["_pinned_template", "dvc", "refused"]

SUITE = """\
tasks:
  - {name: answers, prompts: prompts.jsonl, scoring: contains, gate: {contains: {min: 0.6}}}
"""
URL = "https://github.com/acme/adapters.git"


def score(root: Path, branch: str, value: float, at: str) -> None:
    """Note a result of `eval/gate.yaml` on the tip of a branch, as an evaluation does."""
    workspace = Workspace.open(root)
    commit = workspace.git.commit(branch)
    suite = suite_at(workspace, workspace.at(commit), "eval/gate.yaml")
    assert suite is not None
    record = EvalRecord(
        "adapters/support", workspace.at(commit).manifest("adapters/support").weights_md5,
        "eval/gate.yaml", suite.sha256, {"answers.contains": Metric(value, 0.01, 400)}, at,
    )  # fmt: skip
    append_notes(workspace.git, {commit: [record.line()]})
    workspace.git.close()


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    """A server that speaks as GitHub's API does, with the repository acme/adapters."""
    with serving() as state:
        yield state


@pytest.fixture(scope="session")
def _forked_template(_pinned_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`repo` with `main` pushed and `politer` not, `origin.git`, and `store` with all weights."""
    place = tmp_path_factory.mktemp("forked")
    root = place / "repo"
    shutil.copytree(_pinned_template, root, symlinks=True)
    config = "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    (root / ".dvc" / "config").write_text(config)
    (place / "store").mkdir()

    def run(*words: str) -> str:
        return subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout

    run("git", "init", "-q", "--bare", str(place / "origin.git"))
    # As GitHub's own servers are set.
    for key in ("uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"):
        run("git", "-C", "../origin.git", "config", key, "true")
    run("git", "remote", "add", "origin", URL)
    (root / "eval").mkdir()
    (root / "eval" / "gate.yaml").write_text(SUITE)
    (root / "eval" / "prompts.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    run("git", "add", "eval")
    run("git", "commit", "-qam", "Keep weights in ../store, and ask a suite")
    run("git", "soup", "init")
    run("git", "checkout", "-q", "politer")
    run("git", "rebase", "-q", "main")
    run("git", "checkout", "-q", "main")
    score(root, "main", 0.7, "2026-05-14T10:00:00+00:00")
    score(root, "politer", 0.8, "2026-05-14T10:00:00+00:00")
    run("git", "config", f"url.{place}/origin.git.insteadOf", URL)
    run("git", "soup", "push")
    return place


@pytest.fixture
def forked(_forked_template: Path, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of acme/adapters on `politer`, which retrains the adapter of `main`; runs in it."""
    place = in_tmp_path / "place"
    shutil.copytree(_forked_template, place, symlinks=True)
    root = place / "repo"
    monkeypatch.chdir(root)

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)

    git("config", "--remove-section", f"url.{_forked_template}/origin.git")
    git("config", f"url.{place}/origin.git.insteadOf", URL)
    git("update-index", "-q", "--refresh")
    git("checkout", "-q", "politer")
    return root
