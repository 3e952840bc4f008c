"""`git soup train`: `dvc repro` with a live view, or the result that is there already."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from soup_git.commands.dependencies import moved_unseen
from soup_git.commands.lock import Overrides, compute, pins_now, write
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, parse_manifest
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table, say
from soup_git.storage.dvcobjects import output_target
from soup_git.storage.files import target_inside, write_atomically
from soup_git.storage.runevidence import STOPPED
from soup_git.storage.runs import LOCKS
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace

PIPELINE = "dvc.yaml"


@dataclass(frozen=True)
class TrainReport:
    schema: ClassVar[str] = "soup.train/1"
    run: str | None
    commit: str | None
    adapter: str
    weights_md5: str | None
    reused: bool

    def tables(self) -> Sequence[Table | str]:
        verb = "reused" if self.reused else "trained"
        of = f" by run/{self.run}" if self.run else ""
        return [f"{verb} {self.adapter}  md5:{self.weights_md5}{of}"]


def train(
    workspace: Workspace, *, again: bool, reuse: bool, restart: bool, ask: bool
) -> tuple[TrainReport | None, ExitCode]:
    """Run the pipeline, unless exactly this was trained before and its result is wanted."""
    pipeline = workspace.root / PIPELINE
    if not pipeline.is_file():
        raise FatalError(
            f"there is no {PIPELINE} here: no pipeline to run",
            hint="git soup init --template chat writes soup.yaml and dvc.yaml",
        )
    adapter = adapter_path(workspace)
    if restart:
        shutil.rmtree(workspace.training_state(adapter), ignore_errors=True)
    known = _known_result(workspace)
    if known is not None and not again:
        say(f"run/{known.run} was trained from exactly this config, data, base and environment")
        if reuse or (ask and _yes("use its adapter instead of training again? [Y/n] ")):
            return _reuse(workspace, known, adapter), ExitCode.OK
        if not ask:
            say("hint: git soup train --reuse takes its adapter instead of training again")
    began = time.time()
    code = workspace.dvc.repro(
        force=again, waiting=lambda: say("another DVC command runs here; waiting until it is done")
    )
    if not code:
        code = _catch_up(Workspace(workspace.git), trained=again)
    if code:
        # The stage has said what is wrong and what to type; DVC adds only that it failed.
        return None, _code_of_failure(workspace.training_state(adapter), code, began)
    now = Workspace(workspace.git)
    found = _known_result(now)
    data = now.work_tree_bytes(inside_folder(adapter, MANIFEST))
    md5 = parse_manifest(data, MANIFEST).weights_md5 if data else None
    run = found.run if found is not None and found.weights_md5 == md5 else None
    return TrainReport(
        run, found.commit if run and found else None, adapter, md5, False
    ), ExitCode.OK


def _code_of_failure(state: Path, code: int, began: float) -> ExitCode:
    """DVC's code is the same whatever the stage ended with."""
    if code == ExitCode.INTERRUPTED:
        return ExitCode.INTERRUPTED
    stopped = state / STOPPED  # by a gate or the watchdog
    if stopped.is_file() and stopped.stat().st_mtime >= began - 0.02:  # a file's clock is coarse
        return ExitCode.CHECK_FAILED
    return ExitCode.FATAL


def _catch_up(workspace: Workspace, *, trained: bool) -> int:
    """Train, and pin, what changed unseen by DVC since soup.lock was written."""
    moved = moved_unseen(workspace, pins_now(workspace))
    if not moved:
        return 0
    stale = [one.path for one in moved if one.stage.trains]
    if stale and not trained:
        say(f"{', '.join(stale)} changed, which {PIPELINE} does not name: training again")
        code = workspace.dvc.repro(force=True)
        if code:
            return code
    write(Workspace(workspace.git), Overrides(), None)
    return workspace.dvc.repro()


def adapter_path(workspace: Workspace) -> str:
    """Where soup.yaml puts the adapter, relative to the top."""
    data = workspace.work_tree_bytes(CONFIG_FILE)
    if data is None:
        raise FatalError(
            f"there is no {CONFIG_FILE} here", hint="git soup init --template chat writes one"
        )
    output = parse_config_pins(data, CONFIG_FILE).output or "./output"
    path = str(PurePosixPath(output))
    target_inside(workspace.root, path)
    return path


@dataclass(frozen=True)
class _Known:
    run: str
    commit: str
    weights_md5: str


def _known_result(workspace: Workspace) -> _Known | None:
    """The run that was trained from the lock that the work tree has now."""
    key = compute(workspace, Overrides(), None, quiet=True).run
    commit = workspace.git.resolve(LOCKS + key) if key else None
    if commit is None:
        return None
    run, _, adapter = workspace.git.text(
        "log", "-1",
        "--format=%(trailers:key=Soup-Run,valueonly,separator=)%x00"
        "%(trailers:key=Soup-Adapter,valueonly,separator=)",
        commit,
    ).partition("\0")  # fmt: skip
    manifest = workspace.at(commit, label=commit[:10]).manifest(adapter.strip())
    return _Known(run.strip(), commit, manifest.weights_md5)


def _reuse(workspace: Workspace, known: _Known, adapter: str) -> TrainReport:
    """Bring a run's adapter, metrics and plots into the work tree, and record them in DVC."""
    if not workspace.object_is_sound(known.weights_md5):
        raise FatalError(
            f"the weights of run/{known.run} (md5:{known.weights_md5}) are not here any more",
            hint="git soup train --again",
        )
    snapshot = workspace.at(known.commit, label=known.run)
    target = output_target(workspace.root, inside_folder(adapter, WEIGHTS))
    workspace.dvc.restore_file(known.weights_md5, target)
    names = [inside_folder(adapter, name) for name in (CONFIG, MANIFEST)]
    plots = [path for path in snapshot.entries if path.startswith("plots/")]
    for path in (*names, "metrics.json", *plots):
        data = snapshot.read(path)
        if data is not None:
            write_atomically(target_inside(workspace.root, path), data)
    workspace.dvc.run("commit", "--force", "train")
    if workspace.dvc.repro():
        raise FatalError("dvc repro failed after the adapter was reused", hint="dvc repro")
    return TrainReport(known.run, known.commit, adapter, known.weights_md5, reused=True)


def _yes(question: str) -> bool:
    import sys

    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"", "y", "yes"}
