"""`git soup doctor`: what is planted is named with its fix, and looking changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.pinned import Photo

CONFIG = "base: org/base\ndata:\n  train: train.jsonl\n"


def looked(soup: Run, code: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    done = soup("doctor", "--json", check=False, env=env)
    assert done.returncode == code, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.doctor/1"
    for check in report["checks"]:
        assert check["state"] == "ok" or (check["means"] and check["fix"]), check
    return {check["name"]: check for check in report["checks"]}


def test_outside_a_repository_the_machine_is_looked_at(soup: Run, in_tmp_path: Path) -> None:
    found = looked(soup)
    assert found["repository"]["means"].startswith("not a git repository")
    assert found["git"]["state"] == found["Python"]["state"] == found["git-soup"]["state"] == "ok"
    assert "soup.yaml" not in found and "parts" not in found
    assert soup("doctor").stdout.splitlines()[0].split()[:3] == ["machine", "Python", "ok"]


def test_what_is_wrong_with_a_clone_is_named(
    repo: Path, soup: Run, git: Run, photo: Photo, tmp_path: Path
) -> None:
    clean = looked(soup)
    assert {c["name"] for c in clean.values() if c["state"] != "ok"} == {"DVC remote"}
    assert clean["parts"]["found"].startswith("complete")

    lock, scratch = repo / ".git" / "index.lock", repo / ".git" / "soup" / "profile-x"
    lock.touch()
    scratch.mkdir(parents=True)
    long_ago = time.time() - 3 * 86_400
    for path in (lock, scratch):
        os.utime(path, (long_ago, long_ago))
    (repo / ".git" / "hooks" / "pre-push").unlink()
    chained = repo / ".git" / "hooks" / "pre-commit.before-soup"
    chained.write_text("#!/bin/sh\n")
    (repo / ".dvc" / "config").write_text(
        "[core]\n    remote = cloud\n[cache]\n    type = hardlink\n"
        "['remote \"cloud\"']\n    url = oss://user:secret@bucket/path\n"
    )
    (repo / ".dvc" / "cache").mkdir()
    (repo / "soup.yaml").write_text(CONFIG + "traning: {}\n\x1b]0;owned\x07: 1\n")
    before = photo()
    found = looked(soup, 1, OMP_NUM_THREADS="4096", HF_HUB_OFFLINE="1")
    assert photo() == before
    problems = {name for name, check in found.items() if check["state"] == "problem"}
    assert problems == {"lock files", "parts", "DVC remote", "soup.yaml"}
    assert found["lock files"]["fix"].startswith(f"rm {lock}")
    assert "pre-push" in found["parts"]["found"]
    assert found["parts"]["fix"] == "git soup init"
    assert found["DVC remote"]["fix"] == "pip install dvc-oss"
    assert found["DVC remote"]["found"] == "cloud (oss://…)"
    assert found["hooks"]["fix"] == f"chmod +x {chained}"
    assert found["cache"]["fix"] == "dvc config cache.type reflink,copy"
    assert found["threads"]["fix"] == "unset OMP_NUM_THREADS"
    assert str(scratch) in found["scratch folders"]["fix"]
    shown = soup("doctor", check=False)
    assert "secret" not in shown.stdout and "\x1b" not in shown.stdout
    assert "4 problems" in shown.stdout

    (repo / "soup.yaml").write_text(CONFIG)
    (repo / ".dvc" / "config").write_text(
        f"[core]\n    remote = disk\n['remote \"disk\"']\n    url = {tmp_path / 'gone' / 'away'}\n"
    )
    found = looked(soup, 1, HF_HUB_OFFLINE="1")
    assert found["soup.yaml"]["state"] == "ok"
    assert found["base model"]["fix"] == "unset HF_HUB_OFFLINE, or name a folder as base"
    assert found["DVC remote"]["found"].endswith("is not there")


def test_looking_imports_nothing_heavy(repo: Path) -> None:
    (repo / "soup.yaml").write_text(CONFIG)
    code = (
        "import sys; from pathlib import Path; from soup_git.commands.doctor import doctor\n"
        "doctor(Path.cwd()); from soup_git.commands import why\n"
        "print({'torch', 'transformers', 'trl', 'peft', 'numpy', 'dvc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("build", "driver", "state", "words"),
    [
        ("cpu", "550.54", "warning", "cannot use the GPU"),
        ("cu130", "550.54", "problem", "needs driver 580"),
        ("cuda-12.8.90", "550.54", "ok", ""),
        ("cu130", None, "ok", "training runs on the CPU"),
        ("none", "550.54", "ok", ""),
    ],
)
def test_a_build_of_torch_and_a_driver_go_together_or_not(
    build: str, driver: str | None, state: str, words: str
) -> None:
    from soup_git.commands.machinechecks import judge_build

    found = judge_build(build, driver, amd=False, visible=None)
    assert found.state == state
    assert words in found.means
    if driver and build.startswith("cu"):
        assert (
            judge_build(build, "unknown", amd=False, visible="").fix == "unset CUDA_VISIBLE_DEVICES"
        )
