"""`git soup eval SPEC… --suite S`: how good adapters are, on the real model, with the noise stated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from soup_git.commands.evalnotes import write_notes
from soup_git.commands.fetching import with_weights
from soup_git.core.baseload import AS_IT_IS, TRAINED, BaseLoad
from soup_git.core.notes import Metric
from soup_git.core.trainconfig import CONFIG_FILE, ConfigPins, parse_config_pins
from soup_git.errors import FatalError
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table
from soup_git.storage.files import inside, write_atomically
from soup_git.storage.pins import base_model_pin
from soup_git.storage.resolver import Adapter, path_among, refuse_changed_weights
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.evaluation.candidate import Candidate
    from soup_git.evaluation.results import TaskResult
    from soup_git.evaluation.runner import BaseChoice, Runner

BARE = "base"
"""Where an adapter is named: the base model without any."""


@dataclass(frozen=True)
class EvalRequest:
    """What was asked for, as the options spell it."""

    specs: Sequence[str]
    suite: Path
    baseline: str | None = None
    base: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    allow_python: bool = False
    use_cache: bool = True
    write_note: bool = True
    metrics: Path | None = None
    adapter: str | None = None
    """Which one, where a revision has several."""
    base_as: str = TRAINED
    """How the base is loaded: as each adapter was trained, or `full`, `4bit`, `8bit`."""


@dataclass(frozen=True)
class Score:
    """One score of one adapter; the difference is to the baseline, row by row."""

    name: str
    value: float | None
    """None when no row could be scored."""
    stderr: float | None
    n: int
    failed: int
    failures: dict[str, int]
    higher_is_better: bool
    difference: float | None = None
    difference_stderr: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    categories: dict[str, float] | None = None

    @property
    def is_noise(self) -> bool:
        low, high = self.difference_low, self.difference_high
        return low is None or high is None or low <= 0.0 <= high


@dataclass(frozen=True)
class AdapterScores:
    spec: str
    origin: str
    weights_md5: str | None
    """None for the bare base."""
    scores: list[Score]
    base_load: str = ""
    """How the base was loaded for it, in words; empty for the base as it is."""


@dataclass(frozen=True)
class EvalReport:
    schema: ClassVar[str] = "soup.scores/1"
    suite: str
    suite_sha: str
    base: str
    confidence: float
    adapters: list[AdapterScores]
    baseline: AdapterScores | None
    base_as: str = TRAINED
    """As each adapter was trained; or what was asked for: full, 4bit, 8bit."""

    @property
    def title(self) -> str:
        return f"{self.suite} on {', '.join(a.spec for a in self.adapters)}"

    def heat_maps(self) -> Sequence[HeatMap]:
        return []

    def tables(self) -> Sequence[Table | str]:
        columns = ([self.baseline] if self.baseline else []) + self.adapters
        names = list(dict.fromkeys(s.name for a in columns for s in a.scores))
        header = ["score"]
        for adapter in columns:
            header.append(f"{adapter.spec}>")
            if self.baseline is not None and adapter is not self.baseline:
                header.append(f"Δ {self.confidence:.0%}>")
        rows = [[name, *self._cells(name, columns)] for name in names]
        after = "" if self.baseline is None else f"Δ to {self.baseline.spec}; ~ is within the noise"
        counts = sorted({str(s.n) for a in columns for s in a.scores})
        loads = list(dict.fromkeys(a.base_load for a in columns))
        how = loaded_in_words(self.base_as, loads[0]) if len(loads) == 1 else ""
        head = f"suite {self.suite}   base {self.base}{how}   rows {', '.join(counts)}"
        each = [
            f"{a.spec}: on the base{loaded_in_words(self.base_as, a.base_load) or ' as it is'}"
            for a in columns
            if len(loads) > 1
        ]
        notes = each + [line for adapter in columns for line in _failed(adapter)]
        return [head, Table(header, rows, after=after), *notes]

    def _cells(self, name: str, columns: Sequence[AdapterScores]) -> list[str]:
        cells = []
        for adapter in columns:
            score = next((s for s in adapter.scores if s.name == name), None)
            cells.append("–" if score is None else measured(score.value, score.stderr))
            if self.baseline is not None and adapter is not self.baseline:
                cells.append("–" if score is None else delta(score))
        return cells


def loaded_in_words(base_as: str, load: str) -> str:
    """` (as trained: 4bit)`, ` (4bit)`, to follow the base's name; empty for the base as it is."""
    if not load:
        return ""
    return f" (as trained: {load})" if base_as == TRAINED else f" ({load})"


def measured(value: float | None, stderr: float | None) -> str:
    """`0.850 ±0.082`: as many digits as the standard error allows."""
    return "–" if value is None else Metric(value, stderr).text()


def delta(score: Score) -> str:
    """`+0.050 [-0.010, +0.110] ~`: the difference, its interval, and whether it is noise."""
    if score.difference is None:
        return "–"
    if score.difference_low is None or score.difference_high is None:
        return f"{score.difference:+.3g} ~"
    width = score.difference_high - score.difference_low
    digits = 3 if width < 1 else 2 if width < 10 else 1
    low, high = score.difference_low, score.difference_high
    interval = f"[{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{score.difference:+.{digits}f} {interval}{' ~' if score.is_noise else ''}"


def _failed(adapter: AdapterScores) -> Iterator[str]:
    seen = set()
    for score in adapter.scores:
        task = score.name.partition(".")[0]
        if not score.failed or task in seen:
            continue
        seen.add(task)
        why = "; ".join(f"{reason} ({count})" for reason, count in score.failures.items())
        yield f"{adapter.spec}: {score.failed} of {score.n + score.failed} rows of {task} have no score: {why}"


# -- the command -------------------------------------------------------------------------------


def evaluate(workspace: Workspace, request: EvalRequest) -> EvalReport:
    """Score the adapters, and the baseline; note the results on their commits."""
    from soup_git.evaluation.statistics import CONFIDENCE
    from soup_git.evaluation.suite import load_suite

    suite = load_suite(request.suite, workspace.root)
    with opened(workspace, request) as (runner, named, against):
        baseline = runner.score(against.candidate, suite) if against is not None else None
        found = [(one, runner.score(one.candidate, suite)) for one in named]
    everything = [result for _, results in found for result in results]
    if all(result.value is None for result in everything):
        raise FatalError(
            f"every evaluation failed: {_reasons(everything)}",
            hint="nothing was written; with the cause removed, type the command again",
        )
    report = EvalReport(
        suite.name,
        suite.sha256,
        runner.choice.base,
        CONFIDENCE,
        [_scores(one, results, baseline, runner.choice) for one, results in found],
        _scores(against, baseline, None, runner.choice)
        if against and baseline is not None
        else None,
        request.base_as,
    )
    if request.metrics is not None:
        write_metrics(request.metrics, found[0][1])
    if request.write_note:
        path = inside(workspace.root, request.suite)
        write_notes(workspace, suite, path, found, (against, baseline), request.base_as)
    return report


def _reasons(results: Sequence[TaskResult]) -> str:
    reasons = dict.fromkeys(reason for result in results for reason in result.failures)
    return "; ".join(reasons) or "no score came out"


def _scores(
    one: Named,
    results: Sequence[TaskResult],
    baseline: Sequence[TaskResult] | None,
    choice: BaseChoice,
) -> AdapterScores:
    others = {result.name: result for result in baseline or ()}
    scores = []
    for result in results:
        other = others.get(result.name)
        gap = result.against(other) if other is not None else None
        categories = {name: e.value for name, e in result.by_category().items()}
        scores.append(
            Score(
                name=result.name,
                value=result.value,
                stderr=result.stderr,
                n=result.n,
                failed=result.failed,
                failures=dict(result.failures),
                higher_is_better=result.higher_is_better,
                difference=gap.value if gap else None,
                difference_stderr=gap.stderr if gap else None,
                difference_low=gap.low if gap else None,
                difference_high=gap.high if gap else None,
                categories=categories or None,
            )
        )
    adapter = one.adapter
    return AdapterScores(
        one.spec,
        adapter.origin if adapter else "the base model alone",
        adapter.manifest.weights_md5 if adapter else None,
        scores,
        choice.load_of(one.candidate).words(),
    )


def write_metrics(path: Path, results: Sequence[TaskResult]) -> None:
    """`{"TASK": {"SCORE": …, "SCORE_stderr": …, "SCORE_n": …}}`: no clock, no machine in it."""
    body: dict[str, dict[str, float | int | None]] = {}
    for result in results:
        task = body.setdefault(result.task, {})
        task[result.score] = _rounded(result.value)
        task[f"{result.score}_stderr"] = _rounded(result.stderr)
        task[f"{result.score}_n"] = result.n
        if result.failed:
            task[f"{result.score}_failed"] = result.failed
    write_atomically(path, (json.dumps(body, indent=2, sort_keys=True) + "\n").encode())


def _rounded(value: float | None) -> float | None:
    """Six digits: what batch size and instruction set change is beyond."""
    return None if value is None else float(f"{value:.6g}")


# -- who is evaluated, on what -----------------------------------------------------------------


@dataclass(frozen=True)
class Named:
    """What a spec names: an adapter, or the bare base."""

    spec: str
    adapter: Adapter | None
    candidate: Candidate | None


@contextmanager
def opened(
    workspace: Workspace, request: EvalRequest, *, shared: bool = False
) -> Iterator[tuple[Runner, list[Named], Named | None]]:
    """A runner for the request's adapters, and these (`runner_for`). Nothing is loaded yet."""
    specs = [*request.specs, *([request.baseline] if request.baseline else [])]
    path = path_among(workspace, [spec for spec in specs if spec != BARE], request.adapter)
    named = [resolve(workspace, spec, path) for spec in request.specs]
    against = resolve(workspace, request.baseline, path) if request.baseline else None
    everyone = [*named, *([against] if against else [])]
    with runner_for(workspace, everyone, request, shared=shared) as runner:
        if request.base is not None:
            named = [on_base(one, runner.choice.base) for one in named]
            against = on_base(against, runner.choice.base) if against else None
        yield runner, named, against


@contextmanager
def runner_for(
    workspace: Workspace, named: Sequence[Named], request: EvalRequest, *, shared: bool = False
) -> Iterator[Runner]:
    """A runner on the base that all of `named` are for, with the request's settings.

    Each is asked on the base as it was trained; with `shared` all on one, loaded once. Raises
    FatalError when one of them is for another base, or does not fit its shapes; with `shared`
    also where their bases were loaded in two ways.
    """
    from soup_git.evaluation.candidate import refuse_other_head
    from soup_git.evaluation.runner import BaseChoice, Progress, Runner
    from soup_git.evaluation.scorecache import ScoreCache

    pins = config_pins(workspace)
    base, revision, said_by = _base_of(named, request.base, pins)
    known = base_model_pin(workspace, base, network=False, revision=revision)
    choice = BaseChoice(
        base, revision, pins.trust_remote_code and pins.base == base, known.digest, said_by,
        request.base_as, _bare_load(named, request.base_as, shared=shared), is_shared=shared,
    )  # fmt: skip
    progress = Progress()
    runner = Runner(
        choice,
        workspace.root,
        cache=ScoreCache(workspace.git.common_dir / "soup" / "scores")
        if request.use_cache
        else None,
        batch_size=request.batch_size,
        chat_template=pins.chat_template if pins.base == base else None,
        template_date=pins.template_date if pins.base == base else None,
        allow_python=request.allow_python,
        threads=request.threads,
        progress=progress,
    )
    for one in named:
        if one.candidate is not None:
            refuse_other_head(one.candidate)  # before a baseline is scored, too
        if one.candidate is not None and request.base is None:
            runner.refuse_other_base(one.candidate)
        if one.adapter is not None:
            _refuse_misfit(one.adapter, workspace.root / base)
    try:
        with runner:
            yield runner
    finally:
        progress.close()


def resolve(workspace: Workspace, spec: str, path: str | None = None) -> Named:
    """The adapter that `spec` names, its weights brought and checked; `base` is the bare base.

    `path` picks one where a revision has several.
    """
    from soup_git.evaluation.candidate import of_adapter

    if spec == BARE:
        if workspace.git.resolve(spec) is not None:
            raise FatalError(
                f"{BARE!r} is ambiguous: the bare base model, or the revision {BARE}",
                hint=f"refs/heads/{BARE} is the branch",
            )
        return Named(spec, None, None)
    [adapter] = with_weights(workspace, [workspace.adapter(spec, path)])
    refuse_changed_weights(workspace, adapter)
    return Named(spec, adapter, of_adapter(adapter))


def config_pins(workspace: Workspace) -> ConfigPins:
    """What soup.yaml says, where there is one."""
    data = workspace.work_tree_bytes(CONFIG_FILE)
    return parse_config_pins(data, CONFIG_FILE) if data is not None else ConfigPins()


def _base_of(
    named: Sequence[Named], asked: str | None, pins: ConfigPins
) -> tuple[str, str | None, str]:
    """The base, its revision, and who says so."""
    if asked is not None:
        return asked, None, "--base"
    for one in named:
        if one.candidate is not None and one.candidate.base is not None:
            return one.candidate.base, one.candidate.revision, one.spec
    if pins.base is not None:
        return pins.base, pins.revision, CONFIG_FILE
    raise FatalError(
        "no base model is named: not by the adapters, nor by soup.yaml",
        hint="--base MODEL: a folder, or an id on the hub",
    )


def _bare_load(named: Sequence[Named], base_as: str, *, shared: bool) -> BaseLoad:
    """How the base is loaded for those who do not say it: as for all the others, if these agree."""
    from soup_git.evaluation.runner import refuse_two_loads

    loads = [
        (one.spec, one.candidate.base_load.asked_as(base_as))
        for one in named
        if one.candidate is not None and (one.adapter is not None or not shared)
    ]
    if shared and loads:
        refuse_two_loads(loads)
    agreed = {load for _, load in loads}
    return agreed.pop() if len(agreed) == 1 else AS_IT_IS.asked_as(base_as)


def on_base(one: Named, base: str) -> Named:
    """The same adapter, said to be for `base`."""
    if one.candidate is None:
        return one
    config = {**one.candidate.config, "base_model_name_or_path": base, "revision": None}
    return replace(one, candidate=replace(one.candidate, config=config))


def _refuse_misfit(adapter: Adapter, folder: Path) -> None:
    """Shapes that a local base contradicts are an error before it is loaded."""
    from soup_git.storage.basemodel import shapes

    if not folder.is_dir() or not adapter.config.is_lora:
        return
    known: Mapping[str, tuple[int, ...]] = shapes(folder)
    for tensor in adapter.manifest.tensors:
        weight = known.get(f"{tensor.module}.weight")
        if weight is None or len(weight) != 2 or len(tensor.shape) != 2:
            continue
        wanted = None
        if tensor.name.endswith(".lora_A.weight"):
            wanted = tensor.shape[1]
        elif tensor.name.endswith(".lora_B.weight"):
            wanted = tensor.shape[0]
        if wanted is not None and wanted not in weight:
            raise FatalError(
                f"{adapter.spec} does not fit the base {folder.name}: {tensor.module} is"
                f" {weight[0]}x{weight[1]} there, and its factor {tensor.shape[0]}x{tensor.shape[1]}",
                hint=f"git soup show {adapter.spec} names the base it was trained on",
            )


def suite_schema_text() -> str:
    """The JSON Schema that editors complete and check a suite by."""
    from soup_git.evaluation.suite import json_schema

    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def adapter_here(workspace: Workspace) -> str:
    """The work tree's adapter: what soup.yaml trains, else the only one."""
    adapters = workspace.work_tree.adapters
    output = config_pins(workspace).output
    trained = Path(output).as_posix() if output else None
    if trained is not None and (trained in adapters or (workspace.root / trained).is_dir()):
        return str(workspace.root / trained)
    if len(adapters) == 1:
        return str(workspace.root / adapters[0])
    raise FatalError(
        f"which adapter? There are {len(adapters)} here: {', '.join(adapters) or 'none'}",
        hint="name one: a folder, a revision, or run/ID",
    )
