"""Eight processes in one repository at the same time: nothing lost, nothing left, no riddle."""

from __future__ import annotations

import os
from pathlib import Path

from soup_git.core.notes import EvalRecord, Metric
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.notes import append_notes, read_notes
from soup_git.storage.runs import RunRecorder
from soup_git.storage.workspace import Workspace
from tests.conftest import write_adapter
from tests.killing import in_a_fork, soup, start, warm_up
from tests.pinned import _pinned_template, dvc, pinned

__all__ = ["_pinned_template", "dvc", "pinned"]

PROCESSES, ROUNDS = 8, 3


def record(value: float) -> EvalRecord:
    metrics = {"judge.score": Metric(value)}
    at = "2026-05-14T10:00:00+00:00"
    return EvalRecord("adapters/support", "a" * 32, "s.yaml", "b" * 64, metrics, at)


def work(number: int, root: Path) -> int:
    """Branch, note, add and record a checkpoint, three times over."""
    state = root.parent / f"state{number}"
    state.mkdir()
    recorder = RunRecorder(Workspace.open(root), "adapters/support", state, {})
    for step in range(1, ROUNDS + 1):
        codes = [soup("branch", f"b{number}-{step}")(), soup("add", f"adapters/a{number}-{step}")()]
        if any(codes):
            return max(codes)
        repo = GitRepo(root)
        append_notes(repo, {repo.commit("main"): [record(number + step / 10).line()]})
        repo.close()
        recorder.record(step, root / f"adapters/a{number}-{step}", 1.0, 1e-4)
    return 0


def test_eight_processes(pinned, git):
    warm_up(["add", "branch", "fsck"])
    os.chdir(pinned)
    everything = [(n, step) for n in range(PROCESSES) for step in range(1, ROUNDS + 1)]
    for n, step in everything:
        write_adapter(f"adapters/a{n}-{step}", seed=10 * n + step)
    running = [start(lambda n=n: work(n, pinned)) for n in range(PROCESSES)]
    ended = [wait() for wait in running]
    assert [(e.code, e.err) for e in ended if e.code] == []
    assert not any("Traceback" in e.err for e in ended)
    assert set(git("branch", "--format=%(refname:short)").stdout.split()) == {
        "main", "politer", *(f"b{n}-{step}" for n, step in everything),
    }  # fmt: skip
    repo = GitRepo(pinned)
    head = repo.commit("main")
    noted = {r.metrics["judge.score"].value for r in read_notes(repo, [head])[head]}
    assert noted == {n + step / 10 for n, step in everything}
    repo.close()
    staged = git("ls-files", "*/adapter.manifest").stdout.split()
    assert {f"adapters/a{n}-{step}/adapter.manifest" for n, step in everything} <= set(staged)
    runs = git("for-each-ref", "--format=%(refname)", "refs/soup/runs").stdout.split()
    assert len(runs) == PROCESSES
    for run in runs:
        steps = git("log", "--first-parent", "--format=%(trailers:key=Soup-Step,valueonly,separator=)", f"main..{run}").stdout  # fmt: skip
        assert steps.split() == ["3", "2", "1"]
    git("fsck", "--strict", "--no-dangling")
    checked = in_a_fork(soup("fsck"))
    assert checked.code == 0, checked.out
    assert not list(Path(".git").rglob("*.lock"))
    assert not list(Path().rglob(".soup-*.tmp"))
