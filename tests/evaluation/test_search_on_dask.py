"""A search and a blame on a real Dask scheduler with two workers in a clone of their own.

The clone has no weights: they come by digest from the DVC remote.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from soup_git.commands.ablation import AblationReport, AblationRequest, ablate
from soup_git.commands.add import add
from soup_git.commands.evolve import SearchRequest
from soup_git.commands.merge import MergeReport, MergeRequest, merge
from soup_git.evaluation.runner import Progress
from soup_git.storage.workspace import Workspace
from tests.conftest import Run, write_adapter
from tests.dask_cluster import process, until
from tests.evaluation.planted import assert_same_effects
from tests.training import tiny_model as tiny

pytest.importorskip("distributed", reason="the dask extra is not installed")
pytestmark = [
    pytest.mark.skipif(find_spec("peft") is None, reason="the train extra is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]


def test_local_and_dask_find_the_same_although_a_worker_dies_and_weights_travel_by_digest(
    repo: Path, git: Run, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = in_tmp_path / "remote"
    (repo / ".dvc" / "config").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
    )
    (repo / ".gitignore").open("a").write("/base\n")
    tiny.make_base(in_tmp_path / "base")
    (repo / "base").symlink_to(in_tmp_path / "base")
    rows = [{"prompt": f"{n}: {s}", "expected": s} for n, s in enumerate(tiny.SENTENCES)]
    tiny.write_rows(repo / "rows.jsonl", rows)
    (repo / "suite.yaml").write_text(
        "tasks:\n  - {name: fit, prompts: rows.jsonl, scoring: loss}\n"
    )
    for seed, name in ((1, "a"), (2, "b")):
        write_adapter(repo / name, seed=seed, rank=4, base="base", scale=0.15)
        add(Workspace.open(repo), [repo / name])
    git("add", ".", ".dvc/config")
    git("commit", "-qm", "Two adapters and a suite")
    shutil.copytree(repo / ".dvc" / "cache" / "files", remote / "files")
    clone = in_tmp_path / "elsewhere"
    git("clone", "-q", repo, clone)
    (clone / "base").symlink_to(in_tmp_path / "base")

    def search(output: str, scheduler: str | None) -> MergeReport:
        request = MergeRequest(
            ["HEAD:a", "HEAD:b"], Path(output), strategy="cmaes", suite=Path("suite.yaml"), seed=1,
            search=SearchRequest(population=4, max_generations=2, scheduler=scheduler),
        )  # fmt: skip
        return merge(Workspace.open(repo), request)

    def blame(scheduler: str | None) -> AblationReport:
        request = AblationRequest(
            "HEAD:a", Path("rows.jsonl"), against="HEAD:b", batch_size=1, scheduler=scheduler
        )
        return ablate(Workspace.open(repo), request)

    address = in_tmp_path / "scheduler.json"
    host = ("--host", "127.0.0.1", "--no-dashboard")
    with process(clone, "scheduler", *host, "--port", "0", "--scheduler-file", address):
        until(address.exists)
        url = json.loads(address.read_text())["address"]
        worker = ("worker", url, *host, "--nthreads", "1", "--no-nanny")
        with process(clone, *worker) as victim, process(clone, *worker):
            logs = [*in_tmp_path.glob("worker-*.log")]
            until(lambda: all("Registered to" in log.read_text() for log in logs))
            there = search("there", url)
            # The first answer comes, and one of the two is gone.
            with monkeypatch.context() as patched:
                patched.setattr(Progress, "__call__", lambda *_: victim.kill())
                blamed_there = blame(url)
            assert victim.wait() < 0
    assert_same_effects(blame(None), blamed_there)
    here = search("here", None)
    assert there.weights_md5 == here.weights_md5
    assert there.search is not None
    assert here.search is not None
    assert there.search.history == here.search.history
    fetched = (clone / ".dvc" / "cache" / "files" / "md5").glob("*/*")
    assert len(list(fetched)) == 2, "both adapters came from the remote, by digest"
