"""What a training run wrote down, wherever it lies: commits of its ref, files, this machine's state.

A finished run's last commit holds metrics.json and the curves. Before its end a run has only
the trailers of its checkpoints in git, and its curve beside the state that resuming needs.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soup_git.core.diagnosis import EvalPoint, Norms, Point
from soup_git.core.manifest import MANIFEST, Manifest, parse_manifest
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.storage.files import bytes_of
from soup_git.storage.runs import RUNS
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace

LOSS, EVAL_LOSS, METRICS = "plots/loss.csv", "plots/eval_loss.csv", "metrics.json"
FAILED = "failed.json"
"""In a run's state folder: its curve, and the step whose loss was not finite."""
STOPPED = "stopped.json"
"""There too: why a gate or the watchdog ended it (training/checkpoints.py)."""
_LATEST = 3
_SAME = 1e-4  # trailers and curves have six digits


@dataclass(frozen=True)
class Records:
    """One run's records, unjudged."""

    source: str
    run: str | None = None
    commit: str | None = None
    is_finished: bool = True
    points: Sequence[Point] = ()
    evals: Sequence[EvalPoint] = ()
    adapters: Sequence[Norms] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: bytes | None = None
    failed_at: int | None = None
    stopped: str = ""
    """Why a gate or the watchdog ended it."""
    checkpoints: Sequence[int] = ()


# -- of a run ---------------------------------------------------------------------------------


def of_run(workspace: Workspace, run: str, until: int | None = None) -> Records:
    """The records of `refs/soup/runs/RUN`, up to step `until`."""
    saved = [c for c in _saved(workspace, run) if until is None or c.step <= until]
    if not saved:
        raise FatalError(
            f"run/{run} has no checkpoint at or before step {until}",
            hint=f"git log soup/runs/{run}",
        )
    last = saved[-1]
    tree = workspace.at(last.commit, label=f"run/{run}")
    found = Records(
        source=f"run/{run}" + ("" if until is None else f"@{until}"),
        run=run,
        commit=last.commit,
        is_finished=False,
        points=[Point(c.step, c.loss, c.learning_rate) for c in saved],
        adapters=_norms(workspace, saved[-_LATEST:]),
        config=tree.read(CONFIG_FILE),
        checkpoints=[c.step for c in saved],
    )
    # An unfinished run's tree has the curves of whatever it was launched from.
    points = _points(tree.read(LOSS))
    if points and points[-1].step == last.step and _is_near(points[-1].loss, last.loss):
        metrics = _metrics(tree.read(METRICS))
        return replace(
            found, is_finished=True, points=points, evals=_evals(tree.read(EVAL_LOSS)),
            metrics=metrics,
        )  # fmt: skip
    return found if until is not None else _with_state(workspace, found)


@dataclass(frozen=True)
class _Saved:
    commit: str
    step: int
    loss: float
    learning_rate: float
    adapter: str


def _saved(workspace: Workspace, run: str) -> list[_Saved]:
    """A run's checkpoints as their commits tell, oldest first."""
    form = "--format=%H%x00%(trailers:only,unfold,separator=%x01)"
    found = []
    for line in workspace.git.lines("log", "--first-parent", form, RUNS + run, "--"):
        commit, _, trailers = line.partition("\0")
        told = dict(t.split(": ", 1) for t in trailers.split("\x01") if ": " in t)
        try:
            if told["Soup-Run"] != run:
                break
            rate = float(told["Soup-Learning-Rate"])
            step, loss = int(told["Soup-Step"]), float(told["Soup-Loss"])
            found.append(_Saved(commit, step, loss, rate, told["Soup-Adapter"]))
        except (KeyError, ValueError):
            break  # where the run was launched from
    return found[::-1]


def _norms(workspace: Workspace, saved: Sequence[_Saved]) -> list[Norms]:
    names = [f"{c.commit}:{inside_folder(c.adapter, MANIFEST)}" for c in saved]
    found = []
    for one, blob in zip(saved, workspace.git.blobs(names), strict=True):
        if blob is not None:
            found.append(_norms_of(parse_manifest(blob[1], MANIFEST), one.step))
    return found


def _norms_of(manifest: Manifest, step: int) -> Norms:
    return Norms(
        step,
        {tensor.name: tensor.norm for tensor in manifest.tensors},
        {tensor.name: tensor.sha256 for tensor in manifest.tensors},
    )


def _with_state(workspace: Workspace, found: Records) -> Records:
    """What this machine still has of an interrupted run beside its commits."""
    for state in _states(workspace):
        known = _json(bytes_of(state / "run-ref.json"))
        if known.get("run") == found.run:
            return _from_state(state, found)
    return found


def _from_state(state: Path, found: Records) -> Records:
    found = replace(found, stopped=str(_json(bytes_of(state / STOPPED)).get("why", "")))
    files = [
        state / FAILED,
        *sorted(state.glob("checkpoint-*/curve.json"), key=_step, reverse=True),
    ]
    for file in files:
        curve = _json(bytes_of(file))
        if not curve:
            continue
        return replace(
            found,
            points=[_point(p) for p in curve.get("points", []) if isinstance(p, dict)],
            evals=[
                EvalPoint(int(e["step"]), float(e["eval_loss"])) for e in curve.get("evals", [])
            ],
            failed_at=curve.get("failed_at"),
        )
    return found


def _step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _states(workspace: Workspace) -> list[Path]:
    """The state folders of trainings that did not end, the latest first."""
    folders = list((workspace.git.common_dir / "soup" / "training").glob("*/"))
    return sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)


# -- of files ---------------------------------------------------------------------------------


def of_tree(tree: Snapshot, source: str, adapter: str | None) -> Records:
    """The curves and metrics beside an adapter, in a revision or in the work tree."""
    points = _points(tree.read(LOSS))
    data = tree.read(inside_folder(adapter, MANIFEST)) if adapter is not None else None
    norms = (
        _norms_of(parse_manifest(data, MANIFEST), points[-1].step if points else 0)
        if data
        else None
    )
    metrics = _metrics(tree.read(METRICS))
    if not points and not metrics and norms is None:
        raise FatalError(
            f"{source} holds no record of a training: no {LOSS}, no {METRICS}, no adapter",
            hint="git soup train, or name a run: git for-each-ref refs/soup/runs",
        )
    return Records(
        source=source,
        points=points,
        evals=_evals(tree.read(EVAL_LOSS)),
        adapters=[norms] if norms is not None else [],
        metrics=metrics,
        config=tree.read(CONFIG_FILE),
    )


def interrupted(workspace: Workspace, adapter: str, config: bytes | None) -> Records | None:
    """A training of the work tree that stopped before its end, if one did."""
    state = workspace.training_state(adapter)
    if not state.is_dir():
        return None
    known = _json(bytes_of(state / "run-ref.json"))
    if known.get("run") and workspace.git.resolve(RUNS + str(known["run"])) is not None:
        return of_run(workspace, str(known["run"]))
    empty = Records(f"the interrupted training of {adapter}", is_finished=False, config=config)
    found = _from_state(state, empty)
    is_known = found.points or found.failed_at is not None or found.stopped
    return found if is_known else None


# -- reading ----------------------------------------------------------------------------------


def _points(data: bytes | None) -> list[Point]:
    return [_point(row) for row in _rows(data)]


def _point(row: Mapping[str, Any]) -> Point:
    return Point(
        int(float(row["step"])),
        float(row["loss"]),
        _number(row.get("learning_rate")),
        _number(row.get("grad_norm")),
    )


def _evals(data: bytes | None) -> list[EvalPoint]:
    return [EvalPoint(int(float(row["step"])), float(row["eval_loss"])) for row in _rows(data)]


def _rows(data: bytes | None) -> list[dict[str, str]]:
    """The rows of a curve whose numbers are numbers; another tool's file may hold anything."""
    if data is None:
        return []
    found = []
    for row in csv.DictReader(io.StringIO(data.decode("utf-8", "replace"))):
        try:
            key = "loss" if "loss" in row else "eval_loss"
            if math.isfinite(float(row["step"])):
                float(row[key])
                found.append(row)
        except (KeyError, TypeError, ValueError):
            continue
    return found


def _number(value: Any) -> float | None:
    try:
        return None if value in {None, ""} else float(value)
    except (TypeError, ValueError):
        return None


def _metrics(data: bytes | None) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in _json(data).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _json(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_near(one: float, other: float) -> bool:
    if math.isfinite(one) and math.isfinite(other):
        return abs(one - other) <= _SAME * max(abs(one), abs(other), 1e-12)
    return math.isnan(one) == math.isnan(other)
