"""`git soup sweep`: a grid of trainings as DVC experiments, each checked before any is queued."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.commands.sweepshow import SweepReport, show
from soup_git.core import sweepgrid, yamllines
from soup_git.core.templates import PIPELINE
from soup_git.core.text import counted
from soup_git.core.trainconfig import CONFIG_FILE, ConfigPins, parse_config_pins
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import say, size
from soup_git.storage.experiments import Experiment, Experiments
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

_PAUSE_SECONDS = 0.5
_START_SECONDS = 30.0
"""A worker that was started shows up within this time, or never."""
_LOG_LINES = 12


@dataclass(frozen=True)
class _Point:
    name: str
    values: Mapping[str, Any]


def sweep(
    workspace: Workspace, params: Sequence[str], *, jobs: int, queue_only: bool
) -> tuple[SweepReport, ExitCode]:
    """Queue what of the grid is neither done nor waiting, and run the queue to its end."""
    baseline = workspace.git.commit("HEAD")
    snapshot = workspace.at(baseline, label="HEAD")
    _refuse_uncommitted(workspace, snapshot)
    points = _points(snapshot, params, baseline)
    untracked = _untracked_inputs(workspace, snapshot)
    experiments = Experiments(workspace)
    _queue(experiments, points, baseline, untracked)
    names = [point.name for point in points]
    code = ExitCode.OK
    if not queue_only:
        code = _run(experiments, names, jobs)
    return show(workspace, names=names), code


# -- before anything is queued ------------------------------------------------------------------


def _refuse_uncommitted(workspace: Workspace, snapshot: Snapshot) -> None:
    """An experiment starts from a commit; what is not in it would silently be left out."""
    for path in (CONFIG_FILE, PIPELINE):
        if path not in snapshot.entries:
            hint = "git soup init --template chat writes soup.yaml and dvc.yaml"
            if (workspace.root / path).is_file():
                hint = f"git add {path} && git commit"
            raise FatalError(f"HEAD has no {path}: there is nothing to run", hint=hint)
    changed = workspace.git.lines("diff", "--name-only", "HEAD", "--")
    if changed:
        listed = ", ".join(changed[:5]) + (", …" if len(changed) > 5 else "")
        raise FatalError(
            f"experiments start from HEAD, and these files are not as there: {listed}",
            hint="git commit -a, or git stash, then again",
        )


def _points(snapshot: Snapshot, params: Sequence[str], baseline: str) -> list[_Point]:
    """The grid, every point checked against the schema; every error at once."""
    axes = [sweepgrid.parse_axis(text) for text in params]
    combinations = sweepgrid.grid(axes)
    text = snapshot.require(CONFIG_FILE).decode("utf-8-sig", "replace")
    _check(text, combinations)
    config, _, _ = yamllines.read(text)
    points: dict[str, _Point] = {}
    for values in combinations:
        for key, value in values.items():
            sweepgrid.hydra_override(key, value)
        name = sweepgrid.experiment_name(baseline, sweepgrid.with_values(config, values))
        points.setdefault(name, _Point(name, values))
    return list(points.values())


def _check(text: str, combinations: Sequence[Mapping[str, Any]]) -> None:
    from soup_git.training.config import load_config

    problems: dict[str, str] = {}
    for values in combinations:
        overrides = [sweepgrid.yaml_override(key, value) for key, value in values.items()]
        try:
            load_config(text, overrides)
        except FatalError as error:
            for line in str(error).splitlines():
                if not line.endswith(" errors"):
                    shown = line.replace("-S: ", "--param ", 1)
                    problems.setdefault(shown, sweepgrid.spelled_point(values))
    if problems:
        lines = [f"{line}   (with {values})" for line, values in problems.items()]
        many = f"{counted(len(lines), 'error')}, and nothing was queued\n" if len(lines) > 1 else ""
        raise FatalError(
            many + "\n".join(lines), hint="git soup config schema lists the keys and their values"
        )


def _untracked_inputs(workspace: Workspace, snapshot: Snapshot) -> list[str]:
    """The base model, where it is a folder that only this work tree has.

    DVC runs an experiment in a folder of its own, which holds what git and DVC track. Raises
    for a path that leaves the repository, and for data that would not be there.
    """
    names = parse_config_pins(snapshot.require(CONFIG_FILE), CONFIG_FILE)
    for key, path in _paths(names):
        clean = Path(path)
        if clean.is_absolute() or path.startswith("~") or not (workspace.root / path).exists():
            continue
        if ".." in clean.parts:
            raise FatalError(
                f"{key} is {path}: a relative path that leaves the repository leads elsewhere"
                " from an experiment's own folder",
                hint=f"write {(workspace.root / path).resolve()} into {CONFIG_FILE}, and commit",
            )
        if key != "base" and not _is_tracked(snapshot, clean.as_posix()):
            raise FatalError(
                f"{key} is {path}, which neither git nor DVC tracks at HEAD: an experiment would"
                " not have it",
                hint=f"dvc add {path} (or git add), git commit, then again",
            )
    _refuse_missing_data(workspace, snapshot, names)
    return _copied_base(workspace, snapshot, names.base)


def _paths(names: ConfigPins) -> list[tuple[str, str]]:
    named = [("base", names.base), ("data.train", names.dataset)]
    named += [(one.key, one.name) for one in names.inputs]
    return [(key, path) for key, path in named if path]


def _is_tracked(snapshot: Snapshot, path: str) -> bool:
    held = {*snapshot.entries, *snapshot.outputs}
    above = [str(parent) for parent in Path(path).parents]
    return path in held or not held.isdisjoint(above) or any(p.startswith(f"{path}/") for p in held)


def _refuse_missing_data(workspace: Workspace, snapshot: Snapshot, names: ConfigPins) -> None:
    output = snapshot.outputs.get(Path(names.dataset or "").as_posix())
    if output is not None and not workspace.dvc.has(output.md5):
        raise FatalError(
            f"{output.path} (md5:{output.md5}) is not in the DVC cache, from which an experiment"
            " takes it",
            hint=f"dvc fetch {output.path}, or dvc commit {output.source} where it is in the work tree",
        )


def _copied_base(workspace: Workspace, snapshot: Snapshot, base: str | None) -> list[str]:
    if base is None or Path(base).is_absolute() or base.startswith("~"):
        return []
    path, folder = Path(base).as_posix(), workspace.root / base
    if not folder.is_dir() or _is_tracked(snapshot, path):
        return []
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"{path} is not tracked: DVC copies it ({size(total)}) into each experiment")
    return [path]


# -- the queue ----------------------------------------------------------------------------------


def _queue(
    experiments: Experiments, points: Sequence[_Point], baseline: str, untracked: Sequence[str]
) -> None:
    states = {e.name: e.state for e in experiments.all()}
    known = [point for point in points if states.get(point.name, "failed") != "failed"]
    fresh = [point for point in points if point not in known]
    if known:
        by_state = [states[point.name] for point in known]
        said = ", ".join(f"{by_state.count(s)} {s}" for s in sorted(set(by_state)))
        say(f"{counted(len(known), 'experiment')} of {len(points)} known already: {said}")
    if fresh:
        experiments.prepare(baseline, untracked)
    for number, point in enumerate(fresh, 1):
        overrides = [
            f"{CONFIG_FILE}:{sweepgrid.hydra_override(key, value)}"
            for key, value in point.values.items()
        ]
        experiments.queue(point.name, overrides, untracked)
        values = sweepgrid.spelled_point(point.values)
        say(f"queued {number}/{len(fresh)}  {point.name}  {values}")


def _run(experiments: Experiments, names: Sequence[str], jobs: int) -> ExitCode:
    """Have the queue worked off, telling what ends; Ctrl-C stops after what runs now."""
    ours = set(names)
    ended = {e.name for e in experiments.all() if e.state == "done"}
    if ours <= ended:
        return ExitCode.OK
    old = experiments.failures()
    experiments.start(jobs)
    try:
        failed = _watch(experiments, ours, ended, old)
    except KeyboardInterrupt:
        say("stopping: what runs now runs to its end, what waits stays queued")
        experiments.stop(kill=False)
        say("hint: git soup sweep run --param … as before goes on; git soup sweep stop --kill")
        return ExitCode.INTERRUPTED
    return ExitCode.CHECK_FAILED if failed else ExitCode.OK


def _watch(experiments: Experiments, ours: set[str], ended: set[str], old: set[str]) -> set[str]:
    """Wait until each of ours is done or failed; returns those that failed.

    `ended` are done and `old` are commits that failed before: both are told no more.
    """
    running: set[str] = set()
    failed: set[str] = set()
    deadline = time.monotonic() + _START_SECONDS
    while True:
        now = {e.name: e for e in experiments.all() if e.name in ours}
        alive = experiments.has_workers
        for name, experiment in now.items():
            if experiment.state == "running" and name not in running:
                running.add(name)
                say(f"running  {name}")
            elif experiment.state == "done" and name not in ended:
                ended.add(name)
                say(f"done {len(ended & ours)}/{len(ours)}  {name}")
            elif experiment.state == "failed" and not {name, experiment.commit} & (failed | old):
                failed.add(name)
                _tell_failure(experiment)
        if ours <= ended | failed:
            return failed
        if alive:
            deadline = time.monotonic() + _START_SECONDS
        elif time.monotonic() > deadline:
            left = sorted(ours - ended - failed)
            raise FatalError(
                f"DVC's workers ended and {counted(len(left), 'experiment')} did not run:"
                f" {', '.join(left[:5])}",
                hint="the same command again goes on; its log: .git/soup/sweep/.dvc/tmp/exps/celery",
            )
        time.sleep(_PAUSE_SECONDS)


def _tell_failure(experiment: Experiment) -> None:
    say(f"failed  {experiment.name}")
    if experiment.log is not None:
        lines = experiment.log.read_text("utf-8", "replace").splitlines()
        for line in lines[-_LOG_LINES:]:
            say(f"  {line}")
        say(f"hint: less {experiment.log}")


# -- stopping and clearing ----------------------------------------------------------------------


def stop(workspace: Workspace, *, kill: bool) -> None:
    """End DVC's workers, after what runs now or with it."""
    experiments = Experiments(workspace)
    if not (experiments.exist and experiments.has_workers):
        say("no experiment runs here")
        return
    experiments.stop(kill=kill)
    say("stopped" if kill else "stopping after what runs now; what waits stays queued")


def clear(workspace: Workspace, *, done: bool) -> None:
    """Forget what waits and what failed; `done`: the results of sweeps, too."""
    experiments = Experiments(workspace)
    before = experiments.all()
    _end_idle_workers(experiments, before)
    experiments.forget()
    gone = [e for e in before if e.state == "done" and e.name.startswith(sweepgrid.PREFIX)]
    if done:
        experiments.remove(gone)
    count = {state: sum(e.state == state for e in before) for state in ("queued", "failed")}
    results = f", {counted(len(gone), 'result')}" if done else ""
    say(f"forgotten: {count['queued']} queued, {count['failed']} failed{results}")


def _end_idle_workers(experiments: Experiments, found: Sequence[Experiment]) -> None:
    """A worker stays a few seconds after the queue is empty; one with work is not disturbed."""
    if not experiments.has_workers:
        return
    if any(e.state in {"running", "queued"} for e in found):
        raise FatalError("experiments run here", hint="git soup sweep stop --kill, then again")
    deadline = time.monotonic() + _START_SECONDS
    while experiments.has_workers and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
