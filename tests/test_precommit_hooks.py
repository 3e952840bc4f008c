"""`.pre-commit-hooks.yaml`: what pre-commit (pre-commit.com) runs in other repositories.

pre-commit installs this checkout with pip into an environment of its own, which finds the
dependencies where the tests have them: one try shows a hook that passes and one that fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import MakeAdapter, Run, runner
from tests.test_wheel import copy_sources

ROOT = Path(__file__).parents[1]
HOOKS = ROOT / ".pre-commit-hooks.yaml"


@pytest.fixture(scope="module")
def hooks_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as it would be committed now, in a repository of its own."""
    copy = copy_sources(tmp_path_factory.mktemp("hooks") / "git-soup")
    git = runner("git", cwd=copy)
    git("init", "-q")
    git("add", "--all", "--force")
    git("commit", "-qm", "The checkout")
    return copy


@pytest.fixture
def workspace(repo: Path, git: Run, soup: Run, make_adapter: MakeAdapter) -> Path:
    """A committed lock, dataset and adapter; git-soup's own hooks are not installed."""
    (repo / "data.jsonl").write_text('{"text": "a"}\n')
    (repo / "soup.yaml").write_text("base: tiny/base\ndata:\n  train: data.jsonl\n")
    make_adapter(repo / "adapters" / "support")
    soup("add", "adapters/support")
    soup("lock", "write")
    git("add", ".")
    git("commit", "-qm", "Pin")
    shutil.rmtree(repo / ".git" / "hooks")
    return repo


def outcomes(output: str) -> dict[str, str]:
    """Hook's name -> Passed, Failed or Skipped, from pre-commit's lines `name.....Passed`."""
    rows = [line.partition("..") for line in output.splitlines() if "...." in line]
    return {name: rest.strip(".").rpartition(")")[2].strip(".") for name, _, rest in rows}


LOCK = "soup.lock agrees with what is staged"
MANIFEST = "adapter manifests are whole and fit their configs"
ADAPTER = "what is staged of adapters belongs together, and its weights are kept"


def test_pre_commit_runs_its_hooks(workspace: Path, git: Run, hooks_repository: Path) -> None:
    """The lock holds; a manifest was edited by hand."""
    manifest = workspace / "adapters" / "support" / "adapter.manifest"
    manifest.write_text(manifest.read_text().replace("rank 8", "rank 9"))
    git("add", manifest)
    # Nothing is downloaded: the checkout alone is built and installed.
    here = {
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p.endswith("site-packages")),
        "PRE_COMMIT_COLOR": "never",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "try-repo", hooks_repository],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
    )
    expected = {LOCK: "Passed", MANIFEST: "Failed", ADAPTER: "Failed"}
    assert outcomes(done.stdout) == expected, done.stdout + done.stderr
    assert "adapters/support/adapter.manifest" in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("hook", "argument", "code", "said"),
    [
        ("soup-lock-check", None, 3, "dataset drifted"),
        ("soup-manifest-check", "adapters/support/adapter.manifest", 0, ""),
    ],
)
def test_the_other_outcome_of_each_hook(
    hook: str, argument: str | None, code: int, said: str, workspace: Path, git: Run
) -> None:
    """The dataset is another than the lock's, the manifest is whole; no second installation."""
    (workspace / "data.jsonl").write_text('{"text": "b"}\n')
    git("add", "data.jsonl")
    [entry] = [h["entry"] for h in yaml.safe_load(HOOKS.read_text()) if h["id"] == hook]
    done = runner(*entry.split())(*([argument] if argument else []), check=False)
    assert done.returncode == code, done.stderr
    assert said in done.stdout


def entry(hook: str) -> Run:
    [words] = [h["entry"].split() for h in yaml.safe_load(HOOKS.read_text()) if h["id"] == hook]
    return runner(sys.executable if words[0] == "python" else words[0], *words[1:])


def test_what_pre_commit_keeps_to_itself_is_asked_for(
    workspace: Path, git: Run, tmp_path: Path
) -> None:
    """Its pre-push and prepare-commit-msg hooks get variables instead of lines and arguments."""
    pushed = {
        "PRE_COMMIT_REMOTE_NAME": "origin",
        "PRE_COMMIT_LOCAL_BRANCH": "refs/heads/main",
        "PRE_COMMIT_REMOTE_BRANCH": "refs/heads/main",
    }
    for env in (pushed, {**pushed, "PRE_COMMIT_TO_REF": "HEAD", "PRE_COMMIT_FROM_REF": "HEAD~1"}):
        done = entry("soup-push-check")(check=False, env=env)
        assert done.returncode == 128
        assert "no DVC remote is configured" in done.stderr
    git("mv", "adapters/support", "adapters/help")
    message = tmp_path / "message"
    message.write_text("Move\n")
    entry("soup-commit-summary")(message, env={"PRE_COMMIT_COMMIT_MSG_SOURCE": "message", "GIT_AUTHOR_DATE": "@1 +0000"})  # fmt: skip
    assert (
        message.read_text() == "Move\n\nSoup-Adapter: adapters/help moved from adapters/support\n"
    )
    message.write_text("# nothing yet\n")
    entry("soup-commit-summary")(message)
    message.write_text("Written\n# nothing yet\n")
    entry("soup-commit-summary-edited")(message)
    assert "Soup-Adapter: adapters/help moved" in message.read_text()
