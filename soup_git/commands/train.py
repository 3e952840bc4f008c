"""`git soup train`: `dvc repro` with a live view, or the result that is there already."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from soup_git.commands.dependencies import moved_unseen
from soup_git.commands.lock import Overrides, compute, pins_now, write
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, parse_manifest
from soup_git.core.stagedeps import config_stages
from soup_git.core.templates import PIPELINE
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table, say
from soup_git.storage.dvcobjects import output_target
from soup_git.storage.files import target_inside, write_atomically
from soup_git.storage.runevidence import STOPPED
from soup_git.storage.runs import LOCKS
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace


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
    adapter = adapter_path(workspace)
    stage = _training_stage(workspace)
    if restart:
        shutil.rmtree(workspace.training_state(adapter), ignore_errors=True)
    began = time.time()
    # What is upstream may make the data: only then is it known what would be trained from.
    upstream = _upstream(workspace.dvc.stages(), stage)
    code = workspace.dvc.repro(*upstream, waiting=_say_waiting) if upstream else 0
    if code:
        return None, _code_of_failure(workspace.training_state(adapter), code, began)
    workspace = Workspace(workspace.git)
    known = _known_result(workspace)
    if known is not None and not again:
        say(f"run/{known.run} was trained from exactly this config, data, base and environment")
        if reuse or (ask and _yes("use its adapter instead of training again? [Y/n] ")):
            _reuse(workspace, known, adapter, stage)
            return _report(workspace, adapter, known), ExitCode.OK
        if not ask:
            say("hint: git soup train --reuse takes its adapter instead of training again")
    code = workspace.dvc.repro(*([stage] if again else []), force=again, waiting=_say_waiting)
    if not code:
        code = _catch_up(Workspace(workspace.git), stage, trained=again)
    if code:
        # The stage has said what is wrong and what to type; DVC adds only that it failed.
        return None, _code_of_failure(workspace.training_state(adapter), code, began)
    return _report(workspace, adapter, None), ExitCode.OK


def _training_stage(workspace: Workspace) -> str:
    """The stage of dvc.yaml that trains what soup.yaml says.

    Raises FatalError where none does: `dvc repro` would succeed, and train nothing.
    """
    data = workspace.work_tree_bytes(PIPELINE)
    if data is None:
        raise FatalError(
            f"there is no {PIPELINE} here: no pipeline to run",
            hint="git soup init --template chat writes soup.yaml and dvc.yaml",
        )
    try:
        stages = config_stages(data)
    except ValueError as error:
        raise FatalError(f"{PIPELINE} is not YAML: {error}", hint="dvc stage list") from None
    found = [s.name for s in stages if s.trains and s.config == CONFIG_FILE]
    if not found:
        raise FatalError(
            f"no stage of {PIPELINE} trains what {CONFIG_FILE} says",
            hint="git soup init --template chat --add-stages writes them after yours",
        )
    return found[0]


def _upstream(needs: Mapping[str, Sequence[str]], stage: str) -> list[str]:
    """The stages that `stage` needs, directly."""
    return list(needs.get(stage, ()))


def _say_waiting() -> None:
    say("another DVC command runs here; waiting until it is done")


def _report(workspace: Workspace, adapter: str, reused: _Known | None) -> TrainReport:
    """What lies at the adapter's place now, and which run that is; raises where nothing does."""
    now = Workspace(workspace.git)
    found = _known_result(now)
    weights = now.path_md5(target_inside(now.root, inside_folder(adapter, WEIGHTS)))
    if found is not None and found.weights_md5 == weights:
        # DVC may have taken the weights from its run cache, and then our stage wrote no manifest.
        _write_texts(now, found, adapter)
    data = now.work_tree_bytes(inside_folder(adapter, MANIFEST))
    md5 = parse_manifest(data, MANIFEST).weights_md5 if data else None
    if md5 is None or weights != md5:
        raise FatalError(
            f"the pipeline ended well, and {adapter} holds no adapter that it trained",
            hint="git soup train --again",
        )
    run = found if found is not None and found.weights_md5 == md5 else None
    is_reused = reused is not None and reused.weights_md5 == md5
    return TrainReport(
        run.run if run else None, run.commit if run else None, adapter, md5, is_reused
    )


def _code_of_failure(state: Path, code: int, began: float) -> ExitCode:
    """DVC's code is the same whatever the stage ended with."""
    if code == ExitCode.INTERRUPTED:
        return ExitCode.INTERRUPTED
    stopped = state / STOPPED  # by a gate or the watchdog
    if stopped.is_file() and stopped.stat().st_mtime >= began - 0.02:  # a file's clock is coarse
        return ExitCode.CHECK_FAILED
    return ExitCode.FATAL


def _catch_up(workspace: Workspace, stage: str, *, trained: bool) -> int:
    """Train, and pin, what changed unseen by DVC since soup.lock was written."""
    moved = moved_unseen(workspace, pins_now(workspace))
    if not moved:
        return 0
    stale = [one.path for one in moved if one.stage.trains]
    if stale and not trained:
        say(f"{', '.join(stale)} changed, which {PIPELINE} does not name: training again")
        code = workspace.dvc.repro(stage, force=True)
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


def _reuse(workspace: Workspace, known: _Known, adapter: str, stage: str) -> None:
    """Bring a run's adapter, metrics and plots into the work tree, and record them in DVC."""
    if not workspace.object_is_sound(known.weights_md5):
        raise FatalError(
            f"the weights of run/{known.run} (md5:{known.weights_md5}) are not here any more",
            hint="git soup train --again",
        )
    target = output_target(workspace.root, inside_folder(adapter, WEIGHTS))
    workspace.dvc.restore_file(known.weights_md5, target)
    _write_texts(workspace, known, adapter)
    workspace.dvc.run("commit", "--force", stage)
    if workspace.dvc.repro():
        raise FatalError("dvc repro failed after the adapter was reused", hint="dvc repro")


def _write_texts(workspace: Workspace, known: _Known, adapter: str) -> None:
    """Write what git holds of a run's result: config, manifest, metrics and plots."""
    snapshot = workspace.at(known.commit, label=known.run)
    names = [inside_folder(adapter, name) for name in (CONFIG, MANIFEST)]
    plots = [path for path in snapshot.entries if path.startswith("plots/")]
    for path in (*names, "metrics.json", *plots):
        data = snapshot.read(path)
        if data is not None and data != workspace.work_tree_bytes(path):
            write_atomically(target_inside(workspace.root, path), data)


def _yes(question: str) -> bool:
    import sys

    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"", "y", "yes"}
