"""`git soup why`: what is wrong with a training run, from its own records, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from soup_git.commands.train import adapter_path
from soup_git.core.diagnosis import Diagnosis, Evidence, Finding, Unjudged, diagnose
from soup_git.core.spec import FolderSpec, RevisionSpec, RunSpec
from soup_git.core.text import counted
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.core.yamltext import load_yaml
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage import runevidence
from soup_git.storage.files import inside
from soup_git.storage.provenance import runs_by_weights
from soup_git.storage.resolver import locate, reading_of
from soup_git.storage.runevidence import Records
from soup_git.storage.runs import LOCKS, RUNS
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class WhyReport:
    schema: ClassVar[str] = "soup.why/1"
    source: str
    run: str | None
    commit: str | None
    task: str
    is_finished: bool
    stopped: str | None
    """Why a gate or the watchdog ended it."""
    steps: int
    points: int
    first_loss: float | None
    last_loss: float | None
    last_eval_loss: float | None
    looks_healthy: bool
    findings: list[Finding]
    not_judged: list[Unjudged]
    checkpoints: list[int]

    def tables(self) -> Sequence[Table | str]:
        state = "" if self.is_finished else ", not finished"
        head = f"{self.source}: {self.task}, {counted(self.steps, 'step')}{state}"
        if self.first_loss is not None and self.last_loss is not None:
            head += f", loss {self.first_loss:.4g} to {self.last_loss:.4g}"
        parts: list[Table | str] = [head, *([self.stopped] if self.stopped else [])]
        for finding in self.findings:
            parts += [
                "",
                f"{finding.level}: {finding.name}",
                f"  {finding.evidence}",
                f"  {finding.meaning}",
            ]
            parts += [f"    {change.key}: {change.value}" for change in finding.change]
        if not self.findings:
            parts += ["", "looks healthy" if self.looks_healthy else "nothing could be judged"]
        if self.not_judged:
            parts += ["", *(f"not judged: {u.question}; {u.why}" for u in self.not_judged)]
        return parts


def why(workspace: Workspace, spec: str | None, adapter: str | None) -> tuple[WhyReport, ExitCode]:
    """Diagnose the run that `spec` names; without one the work tree's, else the newest.

    The code is 1 when a finding is a problem, or a gate or the watchdog ended the run; warnings
    alone are 0.
    """
    records = _records(workspace, spec, adapter)
    task, settings = _settings(records.config)
    evidence = Evidence(
        points=records.points,
        evals=records.evals,
        adapters=records.adapters,
        task=task,
        settings=settings,
        metrics=records.metrics,
        failed_at=records.failed_at,
        run=records.run,
        checkpoints=records.checkpoints,
    )
    found = diagnose(evidence)
    return _report(records, evidence, found), (
        ExitCode.CHECK_FAILED if found.is_sick or records.stopped else ExitCode.OK
    )


def _report(records: Records, evidence: Evidence, found: Diagnosis) -> WhyReport:
    points, evals = records.points, records.evals
    return WhyReport(
        source=records.source,
        run=records.run,
        commit=records.commit,
        task=evidence.task,
        is_finished=records.is_finished,
        stopped=records.stopped or None,
        steps=evidence.steps,
        points=len(points),
        first_loss=points[0].loss if points else None,
        last_loss=points[-1].loss if points else None,
        last_eval_loss=evals[-1].loss if evals else None,
        looks_healthy=not found.findings and bool(points),
        findings=found.findings,
        not_judged=found.unjudged,
        checkpoints=list(records.checkpoints),
    )


# -- which run --------------------------------------------------------------------------------


def _records(workspace: Workspace, spec: str | None, path: str | None) -> Records:
    if spec is None:
        return _latest(workspace)
    match reading_of(workspace, spec):
        case RunSpec(run, step):
            return runevidence.of_run(workspace, run, step)
        case FolderSpec(folder):
            where = inside(workspace.root, Path.cwd() / folder)
            return _of_place(workspace, None, where, spec)
        case RevisionSpec():
            commit, where = locate(workspace, spec, path)
            return _of_place(workspace, commit, where, spec)


def _of_place(workspace: Workspace, commit: str | None, where: str, spec: str) -> Records:
    """The run that made the adapter at a place; where none is known, the records beside it."""
    tree = workspace.work_tree if commit is None else workspace.at(commit, label=spec)
    md5 = tree.manifest(where).weights_md5
    run = runs_by_weights(workspace.git, RUNS, LOCKS).get(md5)
    if run is not None and workspace.git.resolve(RUNS + run) is not None:
        return runevidence.of_run(workspace, run)
    return runevidence.of_tree(tree, spec, where)


def _latest(workspace: Workspace) -> Records:
    """An interrupted training of soup.yaml, else the newest run, else the work tree's files."""
    if (workspace.root / CONFIG_FILE).is_file():
        path = adapter_path(workspace)
        config = workspace.work_tree_bytes(CONFIG_FILE)
        stopped = runevidence.interrupted(workspace, path, config)
        if stopped is not None:
            return stopped
    newest = workspace.git.lines(
        "for-each-ref", "--sort=-committerdate", "--count=1", "--format=%(refname)", RUNS
    )
    if newest:
        return runevidence.of_run(workspace, newest[0].removeprefix(RUNS))
    tree = workspace.work_tree
    where = tree.adapters[0] if len(tree.adapters) == 1 else None
    return runevidence.of_tree(tree, "the work tree", where)


# -- its config -------------------------------------------------------------------------------


def _settings(data: bytes | None) -> tuple[str, dict[str, float]]:
    """The task, and the numbers of a config by key; one of another version is read as it is."""
    if data is None:
        return "sft", {}
    try:
        raw: Any = load_yaml(data)
    except ValueError:
        return "sft", {}
    if not isinstance(raw, dict):
        return "sft", {}
    from soup_git.training.config import load_config

    try:
        text = data.decode("utf-8", "replace")
        raw = load_config(text, check_upstream=False).model_dump(mode="json")
    except FatalError:
        pass
    task = raw.get("task")
    return task if isinstance(task, str) else "sft", dict(_numbers(raw, ""))


def _numbers(block: Mapping[Any, Any], prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in block.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, float(value)))
    return found
