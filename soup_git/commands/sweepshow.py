"""`git soup sweep show`: the experiments, what they were given and what came out."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from soup_git.core.manifest import MANIFEST
from soup_git.core.notes import latest
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.core.valuediff import leaves
from soup_git.errors import FatalError
from soup_git.render.parallel import Axis, ParallelCoordinates, Value, written
from soup_git.render.report import Table
from soup_git.storage.experiments import Experiment, Experiments
from soup_git.storage.notes import read_notes
from soup_git.storage.workspace import Workspace

_METRICS = (("metrics.json", ""), ("eval/metrics.json", "eval."))
_MOST_COLUMNS = 12


@dataclass(frozen=True)
class ExperimentRow:
    name: str
    state: str
    """done, queued, running or failed."""
    commit: str | None
    """The experiment's commit; None before there is a result."""
    baseline: str
    params: dict[str, Any]
    """What its soup.yaml says otherwise than the baseline's."""
    metrics: dict[str, float]


@dataclass(frozen=True)
class SweepReport:
    schema: ClassVar[str] = "soup.sweep/1"
    title: ClassVar[str] = "git soup sweep"
    experiments: list[ExperimentRow]
    params: list[str]
    metrics: list[str]
    """The metrics to show: those asked for, else those that differ."""

    def tables(self) -> Sequence[Table | str]:
        if not self.experiments:
            return ["no experiments; git soup sweep --param training.lr=1e-5,2e-5 runs two"]
        header = ["experiment", "state", *(f"{name}>" for name in [*self.params, *self.metrics])]
        rows = [
            [row.name, row.state]
            + [_shown(row.params.get(name)) for name in self.params]
            + [written(row.metrics.get(name)) for name in self.metrics]
            for row in self.experiments
        ]
        return [Table(header, rows)]

    def parallel_coordinates(self) -> Sequence[ParallelCoordinates]:
        done = [row for row in self.experiments if row.metrics]
        axes = [Axis(name, [_place(row.params.get(name)) for row in done]) for name in self.params]
        axes += [Axis(name, [row.metrics.get(name) for row in done]) for name in self.metrics]
        title = "Experiments: what they were given, left, and what came out, right"
        return [ParallelCoordinates(title, [row.name for row in done], axes)]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or "–"
    return json.dumps(value, ensure_ascii=False)


def _place(value: Any) -> Value:
    if type(value) in (int, float):
        return float(value)
    return None if value is None else _shown(value)


def show(
    workspace: Workspace,
    *,
    names: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    sort: str | None = None,
    descending: bool = False,
) -> SweepReport:
    """The experiments of the repository, or those in `names`; `metrics` picks the columns."""
    found = Experiments(workspace).all()
    rows = _rows(workspace, [e for e in found if names is None or e.name in names])
    known = list(dict.fromkeys(name for row in rows for name in row.metrics))
    params = list(dict.fromkeys(name for row in rows for name in row.params))
    chosen = [_known(name, known, "metric") for name in metrics] or _telling(rows, known)
    if sort is not None and rows:
        key = _known(sort, [*known, *params], "metric or parameter")
        rows = _sorted(rows, key, descending)
        if key in known and key not in chosen:
            chosen.append(key)
    return SweepReport(rows, params, chosen)


def _known(name: str, names: Sequence[str], what: str) -> str:
    matches = [n for n in names if n == name] or [n for n in names if n.endswith(f".{name}")]
    if len(matches) == 1:
        return matches[0]
    close = difflib.get_close_matches(name, names, 1, 0.5)
    raise FatalError(
        f"{name!r} is the end of several names: {', '.join(matches)}"
        if matches
        else f"no experiment has the {what} {name!r}"
        + (f"; nearest is {close[0]}" if close else ""),
        hint="git soup sweep show --json has all of them",
    )


def _telling(rows: Sequence[ExperimentRow], names: Sequence[str]) -> list[str]:
    """The metrics that differ between experiments; of a single one all."""
    ended = [row for row in rows if row.metrics]
    found = [n for n in names if len(ended) == 1 or len({r.metrics.get(n) for r in ended}) > 1]
    return found[:_MOST_COLUMNS]


def _sorted(rows: Sequence[ExperimentRow], key: str, descending: bool) -> list[ExperimentRow]:
    """By a metric or parameter: numbers by size, else text; what has none comes last."""

    def value(row: ExperimentRow) -> Any:
        return row.metrics.get(key, row.params.get(key))

    there = [row for row in rows if value(row) is not None]
    is_number = all(type(value(row)) in (int, float) for row in there)
    by: Callable[[ExperimentRow], Any] = value if is_number else lambda row: _shown(value(row))
    rest = [row for row in rows if value(row) is None]
    return sorted(there, key=by, reverse=descending) + rest


def _rows(workspace: Workspace, experiments: Sequence[Experiment]) -> list[ExperimentRow]:
    """Everything through one `git cat-file --batch`, however many there are."""
    git = workspace.git
    configs = _configs(
        workspace, {e.baseline for e in experiments} | {e.commit for e in experiments}
    )
    files = [f"{e.commit}:{path}" for e in experiments for path, _ in _METRICS]
    contents = iter(git.blobs(files))
    noted = _noted(workspace, [e for e in experiments if e.state == "done"])
    rows = []
    for experiment in experiments:
        measured: dict[str, float] = {}
        for _, prefix in _METRICS:
            blob = next(contents)
            if blob is not None and experiment.state == "done":
                measured |= _numbers(blob[1], prefix)
        measured |= noted.get(experiment.name, {})
        before, after = configs[experiment.baseline], configs[experiment.commit]
        keys = {**before, **after} if after else {}
        changed = {key: after.get(key) for key in keys if before.get(key) != after.get(key)}
        done = experiment.state == "done"
        rows.append(
            ExperimentRow(
                experiment.name,
                experiment.state,
                experiment.commit if done else None,
                experiment.baseline,
                changed,
                measured,
            )
        )
    # A value that is the baseline's is no change; beside others that differ it is worth showing.
    swept = dict.fromkeys(name for row in rows for name in row.params)
    for experiment, row in zip(experiments, rows, strict=True):
        said = configs[experiment.commit]
        row.params.update({name: said.get(name) for name in swept})
    return rows


def _configs(workspace: Workspace, commits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Commit -> the leaves of its soup.yaml."""
    from soup_git.core import yamllines

    wanted = list(commits)
    found = workspace.git.blobs(f"{commit}:{CONFIG_FILE}" for commit in wanted)
    read = {}
    for commit, blob in zip(wanted, found, strict=True):
        value = yamllines.read(blob[1].decode("utf-8", "replace"))[0] if blob else None
        read[commit] = dict(leaves(value, lambda leaf: leaf)) if isinstance(value, dict) else {}
    return read


def _numbers(data: bytes, prefix: str) -> dict[str, float]:
    try:
        body = json.loads(data)
    except ValueError:
        return {}  # what a stage of the user's writes is not ours to refuse
    return {
        prefix + key: value
        for key, value in leaves(body, lambda leaf: leaf)
        if type(value) in (int, float) and math.isfinite(value)
    }


def _noted(workspace: Workspace, done: Sequence[Experiment]) -> dict[str, dict[str, float]]:
    """Name -> the scores of the last evaluation that is noted for its commit or its adapter."""
    objects: dict[str, list[str]] = {}
    for experiment in done:
        entries = workspace.at(experiment.commit).entries
        blobs = [oid for path, oid in entries.items() if path.rpartition("/")[2] == MANIFEST]
        objects[experiment.name] = [experiment.commit, *blobs]
    records = read_notes(workspace.git, (oid for oids in objects.values() for oid in oids))
    found = {}
    for name, oids in objects.items():
        record = latest(r for oid in oids for r in records.get(oid, []))
        if record is not None:
            found[name] = {f"note.{key}": metric.value for key, metric in record.metrics.items()}
    return found
