"""The wheel holds what the checkout holds, and works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import MakeAdapter, Run, runner

ROOT = Path(__file__).parents[1]


def sources() -> list[str]:
    """Paths of the checkout as git would commit them, so that no build product comes along."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        env={n: v for n, v in os.environ.items() if n != "GIT_CEILING_DIRECTORIES"},
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()]
    assert "pyproject.toml" in paths
    return sorted(set(paths))


def copy_sources(target: Path) -> Path:
    for path in sources():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = copy_sources(tmp_path_factory.mktemp("build") / "checkout")
    out = checkout.parent / "dist"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, "."]
    done = subprocess.run(build, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shutil.rmtree(checkout)  # nothing can be found there by accident
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a new virtual environment with the wheel in it.

    Dependencies come from the environment that runs the tests, through a path file: a path
    named there finds modules, but its own path files (an editable install's) are not read.
    """
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    [site] = venv.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    behind = [path for path in sys.path if path.endswith("-packages")]
    (site / "dependencies.pth").write_text("\n".join(behind) + "\n")
    return venv / "bin"


def shipped_as(path: str) -> str | None:
    """Where a file of the checkout must lie in the wheel; None for one that does not ship."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package, folder in settings["package-dir"].items():
        if path.startswith(f"{folder}/"):
            return f"{package.replace('.', '/')}/{path.removeprefix(f'{folder}/')}"
    top = path.split("/", maxsplit=1)[0]
    assert top not in {"hooks", "stages", ".dvc-template"}, f"{top}/ is in no package-dir"
    return f".data/data/{path}" if top == "share" else None


def test_everything_that_should_ship_is_in_the_wheel(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    data = next(name.split("/")[0] for name in inside if ".data/data/" in name)
    expected = {
        place.replace(".data/", f"{data}/", 1) if place.startswith(".data/") else place
        for path in sources()
        if (place := shipped_as(path)) is not None
    }
    assert {"soup_git/hooks/pre_commit.py", "soup_git/workspace_template/hook.sh"} <= expected
    assert expected - set(inside) == set()
    extra = {n for n in inside if ".dist-info/" not in n} - expected
    assert extra == set(), "the wheel holds what git does not"


def test_the_installed_package_is_the_one_that_runs(fresh: Path, tmp_path: Path) -> None:
    ask = "import soup_git, soup_git.hooks.pre_commit as hook; print(soup_git.__file__, hook.__file__)"
    done = subprocess.run(
        [fresh / "python", "-P", "-c", ask],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    for path in done.stdout.split():
        assert Path(path).is_relative_to(fresh.parent)


@pytest.fixture
def path_with_fresh(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{fresh}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("MANPATH", raising=False)
    return fresh


def test_a_user_of_the_wheel_tracks_commits_and_is_refused(
    path_with_fresh: Path, in_tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    root = in_tmp_path / "work"
    root.mkdir()
    git, soup = runner("git", cwd=root), runner("git", "soup", cwd=root)
    git("init", "-q")
    soup("init")
    assert str(path_with_fresh / "python") in (root / ".git/hooks/pre-commit").read_text()
    assert soup("init", "--check").returncode == 0
    make_adapter(root / "adapters" / "support")
    (root / "data.jsonl").write_text('{"text": "a"}\n')
    (root / "soup.yaml").write_text("base: tiny/base\ndata:\n  train: data.jsonl\n")
    soup("add", "adapters/support")
    soup("lock", "write")
    git("add", ".")
    git("commit", "-qm", "Track support")
    assert "clean  adapters/support" in soup("status").stdout
    (root / "data.jsonl").write_text('{"text": "b"}\n')
    git("add", "data.jsonl")
    refused = git("commit", "-qm", "Drift", check=False)
    assert refused.returncode
    assert "dataset drifted" in refused.stderr
    assert git("log", "--format=%s").stdout == "Track support\n"
    assert soup("fsck").returncode == 0


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_git_soup_help_finds_the_manual_page(path_with_fresh: Path, git: Run) -> None:
    found = runner("man")("-w", "git-soup").stdout.strip()
    assert Path(found) == path_with_fresh.parent / "share" / "man" / "man1" / "git-soup.1"
    for asked in (("soup", "--help"), ("help", "soup")):
        shown = git(*asked).stdout
        assert "GIT-SOUP(1)" in shown
        assert "git soup lock check" in shown.replace("\b", "")


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_without_the_wheel_there_is_no_manual_page(
    in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("MANPATH", raising=False)
    assert runner("man")("-w", "git-soup", check=False).returncode
