"""A workspace with two pinned branches, and the two questions every refusal is asked."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.two_branches import CONFIG, POLITE_CONFIG, POLITE_ROWS, ROWS

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
Refused = Callable[..., None]
Photo = Callable[[], dict[str, str]]


@pytest.fixture
def refused() -> Refused:
    """`refused(done, code, *words)`: the command failed as a user should be told: code, why, hint."""

    def check(done: Done, code: int, *words: str) -> None:
        said = done.stderr
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{said}"
        assert done.stdout == ""
        assert "Traceback" not in said
        assert "bug in git-soup" not in said
        fatal = [line for line in said.splitlines() if line.startswith("fatal: ")]
        hint = [line for line in said.splitlines() if line.startswith("hint: ")]
        assert len(fatal) == 1, said
        assert len(hint) == 1, said
        assert len(hint[0]) > len("hint: ")
        for word in words:
            assert word in said, f"{word!r} is not in\n{said}"

    return check


@pytest.fixture
def photo(git: Run) -> Photo:
    """`photo()`: everything a refusal must leave alone: files, index, refs, HEAD, configuration."""

    def take() -> dict[str, str]:
        root = Path(git("rev-parse", "--show-toplevel").stdout.strip())
        seen = {}
        for folder, names, files in os.walk(root):
            if Path(folder) == root:
                names.remove(".git")
            for name in [*files, *names]:
                path = Path(folder, name)
                if path.is_symlink():
                    seen[str(path)] = f"link {path.readlink()}"
                elif path.is_file():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    seen[str(path)] = f"{path.stat().st_mode:o} {digest}"
        seen["index"] = git("ls-files", "--stage").stdout
        seen["refs"] = git("for-each-ref").stdout
        seen["HEAD"] = (root / ".git" / "HEAD").read_text() if (root / ".git").is_dir() else ""
        seen["config"] = git("config", "--local", "--list").stdout
        return seen

    return take


@pytest.fixture(scope="session")
def dvc(isolated_machine: None) -> Run:
    """`dvc(*arguments, cwd=None)`: the real DVC."""

    def run(*arguments: str | Path, cwd: Path | None = None, check: bool = True) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *map(str, arguments)],
            cwd=cwd or Path.cwd(), capture_output=True, text=True,
        )  # fmt: skip
        if check and done.returncode:
            pytest.fail(f"dvc {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def _pinned_template(
    tmp_path_factory: pytest.TempPathFactory, repo_template: Path, dvc: Run, make_adapter
) -> Path:
    root = tmp_path_factory.mktemp("pinned") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)

    def run(*words: str) -> None:
        subprocess.run(words, cwd=root, check=True, capture_output=True)

    (root / "models" / "tiny").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (root / "models" / "tiny" / name).write_text(f"{name} of a tiny model\n")
    (root / "data").mkdir()
    (root / "data" / "train.jsonl").write_text(ROWS)
    (root / "soup.yaml").write_text(CONFIG)
    make_adapter(root / "adapters" / "support", seed=1)
    dvc("add", "--quiet", "data/train.jsonl", cwd=root)
    run("git", "soup", "add", "adapters/support")
    run("git", "soup", "lock", "write")
    run("git", "add", ".")
    run("git", "commit", "-qm", "Train support")
    (root / "soup.yaml").write_text(POLITE_CONFIG)
    (root / "data" / "train.jsonl").write_text(POLITE_ROWS)
    run("git", "soup", "branch", "politer")
    run("git", "checkout", "-q", "--", "soup.yaml")
    run("git", "soup", "checkout", "politer")
    make_adapter(root / "adapters" / "support", seed=2)
    run("git", "soup", "add", "adapters/support")
    run("git", "soup", "lock", "write")
    run("git", "commit", "-qam", "Train politer")
    run("git", "soup", "checkout", "main")
    return root


@pytest.fixture
def pinned(
    _pinned_template: Path, in_tmp_path: Path, git: Run, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """On `main` with everything pinned and clean; `politer` differs in config, data and adapter.

    The base is the folder `models/tiny`; `data/train.jsonl` is DVC's, by a real `dvc add`.
    """
    root = in_tmp_path / "repo"
    shutil.copytree(_pinned_template, root, symlinks=True)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root


@pytest.fixture
def object_of(pinned: Path) -> Callable[[str], Path]:
    """`object_of(path)`: the cache object of a file that DVC holds, by its bytes as they are now."""

    def find(path: str) -> Path:
        md5 = hashlib.md5((pinned / path).read_bytes()).hexdigest()
        found = pinned / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        assert found.is_file()
        return found

    return find
