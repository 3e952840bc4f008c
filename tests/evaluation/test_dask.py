"""Bisection on a real Dask scheduler with two workers in a clone of their own, one killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from soup_git.commands.add import add
from soup_git.storage.workspace import Workspace
from tests.conftest import Run, write_adapter
from tests.dask_cluster import process, until
from tests.pinned import refused

__all__ = ["refused"]

pytest.importorskip("distributed", reason="the dask extra is not installed")

FIRST_BAD = 3
# The probe that meets a bad adapter first writes down who runs it, and waits to be killed.
EVAL = (
    "sh -c 'mkdir claimed 2>/dev/null && echo $PPID > victim && sleep 20;"
    ' echo "$PWD $PPID" >> "$SOUP_TEST_LOG"; grep -q "dropout.: 0.0" "$1"/adapter_config.json'
    ' && test -s "$1"/adapter_model.safetensors\' sh {ckpt}'
)


def test_a_killed_worker_is_no_loss_and_weights_travel_by_digest(
    repo: Path, git: Run, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = in_tmp_path / "remote"
    (repo / ".dvc" / "config").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    )
    for number in range(1, 6):
        dropout = 0.5 if number >= FIRST_BAD else 0.0
        folder = write_adapter(repo / "a", seed=number, layers=1, lora_dropout=dropout)
        add(Workspace.open(repo), [folder])
        git("add", ".dvc/config")
        git("commit", "-qam", f"Train {number}")
    # The remote has everything, as after dvc push; the workers' clone has nothing.
    shutil.copytree(repo / ".dvc" / "cache" / "files", remote / "files")
    clone = in_tmp_path / "elsewhere"
    git("clone", "-q", repo, clone)
    monkeypatch.setenv("SOUP_TEST_LOG", str(in_tmp_path / "calls"))
    address = in_tmp_path / "scheduler.json"
    with process(
        clone,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        address,
    ):
        until(address.exists)
        url = json.loads(address.read_text())["address"]
        worker = [
            "worker",
            url,
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
        ]
        with process(clone, *worker), process(clone, *worker):
            logs = [*in_tmp_path.glob("worker-*.log")]
            until(lambda: all("Registered to" in log.read_text() for log in logs))
            search = subprocess.Popen(
                [
                    "git", "soup", "bisect", "HEAD~4..HEAD", "--scheduler", url, "--jobs", "2",
                    "--json", "--eval-command", EVAL,
                ],
                cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            until((clone / "victim").exists)
            until(lambda: (clone / "victim").read_text().strip() != "")
            os.kill(int((clone / "victim").read_text()), signal.SIGKILL)
            out, said = search.communicate(timeout=60)
    assert search.returncode == 3, said
    report = json.loads(out)
    commits = git("rev-list", "--reverse", "HEAD~5..HEAD").stdout.split()
    assert report["first_broken"] == commits[FIRST_BAD - 1]
    assert report["checkpoints"] == 5
    calls = [line.rsplit(" ", 1) for line in (in_tmp_path / "calls").read_text().splitlines()]
    assert {folder for folder, _ in calls} == {str(clone)}, "the workers worked in their own clone"
    assert len(calls) >= report["probes"], "what the killed worker had begun was done again"
    fetched = list((clone / ".dvc" / "cache" / "files" / "md5").glob("*/*"))
    assert 0 < len(fetched) <= report["probes"] + 1


def test_a_scheduler_without_workers_is_said(
    repo: Path, soup: Run, in_tmp_path: Path, refused: Callable[..., None]
) -> None:
    for number in (1, 2):
        write_adapter(repo / f"c{number}", seed=number, layers=1)
    address = in_tmp_path / "scheduler.json"
    with process(
        repo,
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        address,
    ):
        until(address.exists)
        url = json.loads(address.read_text())["address"]
        words = ["c1", "c2", "--scheduler", url, "--eval-command", "true {ckpt}"]
        refused(soup("bisect", *words, check=False), 128, "has no worker")
