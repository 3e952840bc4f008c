"""`git soup merge --strategy cmaes`: the weights that score best on a suite."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup_git.commands.eval import EvalRequest, Named, runner_for
from soup_git.core.digests import sha256_hex
from soup_git.core.durations import parse_budget, spoken
from soup_git.core.groups import SCHEMES, Grouping, grouping
from soup_git.core.text import canonical_json, printable
from soup_git.errors import ExitCode, FatalError
from soup_git.render.chart import Chart
from soup_git.render.report import Table, say
from soup_git.storage.files import bytes_of, inside, write_atomically
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from soup_git.evaluation.blending import Weights
    from soup_git.evaluation.fitness import Checked, Question
    from soup_git.evaluation.objective import Objective
    from soup_git.evaluation.search import Found, Plan, State
    from soup_git.storage.mergeinputs import Input, Recipe

LEAST_INPUTS = 2
DEFAULT_BUDGET = "10m"
DEFAULT_GENERATIONS = 100
_MOST_KEPT = 200
"""Generations whose best score the recipe keeps; of more, an even selection."""
_KEEP_SECONDS = 1.0


@dataclass(frozen=True)
class SearchRequest:
    """What was asked for, as the options spell it; None where nothing was said."""

    budget: str | None = None
    population: int | None = None
    max_generations: int | None = None
    param: str | None = None
    per_group: str | None = None
    metric: str | None = None
    jobs: int | None = None
    scheduler: str | None = None

    def given(self) -> list[str]:
        """The options that were named."""
        return [f"--{k.replace('_', '-')}" for k, v in vars(self).items() if v is not None]


@dataclass(frozen=True)
class StartScore:
    """One of what the result may not be worse than."""

    name: str
    value: float | None
    stderr: float | None
    error: str = ""


@dataclass(frozen=True)
class GenerationScores:
    best: float | None
    """The best of all so far."""
    scores: list[float]
    """Of its candidates; -1e9 for an evaluation that failed."""
    step: float


@dataclass(frozen=True)
class SearchReport:
    """How the weights were found. Values are the suite's: a loss is better when lower."""

    suite: str
    suite_sha: str
    metric: str
    higher_is_better: bool
    value: float
    """Of the adapter that was written, scored again."""
    stderr: float | None
    origin: str
    baseline: str
    """The best of the adapters alone and their uniform blend."""
    baseline_value: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    ended: str
    evaluations: int
    failures: dict[str, int]
    failed_rows: int
    noise: float
    tolerance: float
    param: str
    population: int
    seed: int
    seconds: float
    model_share: float
    load_share: float
    weights: dict[str, list[float]]
    """Group of modules (`all` where there is one) -> a weight per input, as inputs are listed."""
    inputs: list[str]
    starts: list[StartScore] = field(default_factory=list)
    history: list[GenerationScores] = field(default_factory=list)

    def tables(self) -> list[Table | str]:
        better = "higher" if self.higher_is_better else "lower"
        how = (
            f"{self.evaluations} evaluations, {len(self.history)} generations of"
            f" {self.population}, {_ENDED[self.ended]}"
        )
        rows = [
            *((s.name, _score(s.value, s.stderr), s.error) for s in self.starts),
            ("the merge", _score(self.value, self.stderr), self.origin),
        ]
        parts: list[Table | str] = [
            Table((f"{self.metric} ({better} is better)", "score>", ""), rows, before=how)
        ]
        if len(self.weights) > 1:
            header = ("weights", *(f"{name}>" for name in self.inputs))
            each = [(g, *(f"{w:.4g}" for w in ws)) for g, ws in self.weights.items()]
            parts += ["", Table(header, each)]
        parts += ["", *self._remarks()]
        return parts

    def _remarks(self) -> Iterator[str]:
        if self.difference is not None and self.origin != self.baseline:
            interval = ""
            if self.difference_low is not None and self.difference_high is not None:
                interval = (
                    f", 95 % interval [{self.difference_low:.3g}, {self.difference_high:.3g}]"
                )
            yield f"against {self.baseline}: {self.difference:+.3g}{interval} on this suite's rows"
        if self.noise:
            yield f"the same evaluation differs by {self.noise:.2g} when it is done again"
        for why, count in self.failures.items():
            yield f"{count} evaluation{'s' if count > 1 else ''} failed: {why}"
        if self.failed_rows:
            yield f"{self.failed_rows} rows in all could not be scored"
        yield (
            f"{spoken(self.seconds)}: {100 * self.model_share:.0f} % in the model,"
            f" {100 * self.load_share:.0f} % loading it"
        )

    def chart(self) -> Chart:
        """Every candidate's score, and the best so far."""
        dots = [None if s == FAILED else s for g in self.history for s in g.scores]
        line, best = [], None
        for dot in dots:
            if dot is not None and (best is None or (dot > best) == self.higher_is_better):
                best = dot
            line.append(best)
        levels = [(s.name, s.value) for s in self.starts if s.value is not None]
        known = [x for x in line if x is not None]
        return Chart(
            title=f"{self.metric}: candidates in the order they were scored, and the best so far",
            across="candidate",
            up=self.metric,
            dots=dots,
            line=known,
            levels=levels,
        )


_ENDED = {
    "converged": "converged",
    "generations": "as many as were asked for",
    "budget": "until the budget was used up",
}
FAILED = -1e9
"""How a failed evaluation is recorded, as in evaluation.search."""


def _score(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "failed"
    return f"{value:.6g}" + (f" ± {stderr:.2g}" if stderr is not None else "")


@dataclass(frozen=True)
class Evolved:
    """The inputs with the weights that were found, and what is said about them."""

    inputs: list[Input]
    settings: dict[str, Any]
    recipe_line: str
    report: SearchReport
    notes: list[str]


def evolve(
    workspace: Workspace,
    inputs: Sequence[Input],
    recipe: Recipe,
    suite_path: Path,
    base: Path | None,
    request: SearchRequest,
    *,
    allow_python: bool,
    base_as: str,
) -> Evolved:
    """Search the weights of a merge of `inputs`. Nothing is written but the state of the search.

    Raises FatalError when the suite, the options or the adapters do not fit, and when every
    evaluation fails.
    """
    from soup_git.evaluation import fitness
    from soup_git.evaluation.executors import executor
    from soup_git.evaluation.search import Evolution
    from soup_git.evaluation.suite import load_suite

    if len(inputs) < LEAST_INPUTS:
        raise FatalError(
            "there is one adapter, and nothing to search for",
            hint="name two different ones or more",
        )
    suite = load_suite(suite_path, workspace.root)
    question = _question(
        workspace, inputs, recipe, (inside(workspace.root, suite_path.resolve()), suite),
        base, request, allow_python=allow_python, base_as=base_as,
    )  # fmt: skip
    plan = _plan(question, len(inputs), request, recipe.settings.seed)
    jobs = request.jobs or 1
    if jobs > 1 and request.scheduler is None and any(t.decoding.temperature for t in suite.tasks):
        raise _usage("threads share torch's random numbers, and this suite samples", "--jobs 1")
    kept = _Kept(workspace, question, plan)
    names = [i.opened.spec for i in inputs]
    progress = _Progress(question.objective, plan.budget)
    with executor(jobs, request.scheduler) as pool:
        evolution = Evolution(
            plan,
            names,
            lambda weights: pool.submit(fitness.score, question, weights),
            # On a cluster a whole generation is under way at once.
            window=plan.candidates if request.scheduler else jobs,
            keep=kept,
            progress=progress,
            state=kept.read(),
        )
        try:
            found = evolution.run()
            weights, checked, notes = _checked(pool, question, found)
        finally:
            progress.close()
            kept.flush(evolution.state)
            if request.scheduler is None:
                fitness.forget(question)
    if found.ended != "budget":
        kept.remove()
    report = _report(question, plan, found, weights, checked, names, suite.name, evolution.window)
    return Evolved(
        inputs=fitness.merged_inputs(inputs, weights, question.grouping, question.groups),
        settings=_settings(question, plan),
        recipe_line=_recipe_line(report),
        report=report,
        notes=notes,
    )


def _question(
    workspace: Workspace,
    inputs: Sequence[Input],
    recipe: Recipe,
    suite: tuple[str, Any],
    base: Path | None,
    request: SearchRequest,
    *,
    allow_python: bool,
    base_as: str,
) -> Question:
    from soup_git.evaluation.candidate import of_adapter
    from soup_git.evaluation.fitness import Question
    from soup_git.evaluation.objective import objective
    from soup_git.storage.materials import materials
    from soup_git.storage.mergeinputs import is_plain

    adapters = [i.opened.adapter for i in inputs]
    modules = [n for i in inputs for n in [*i.opened.modules, *i.opened.extras]]
    grouped: Grouping | None = None
    if request.per_group is not None:
        if request.per_group not in SCHEMES:
            raise _usage(
                f"--per-group is {request.per_group!r}, none of {', '.join(SCHEMES)}",
                "--per-group blocks: attention and mlp; thirds: early, middle, late layers",
            )
        grouped = grouping(request.per_group, modules)
    if request.param == "raw" and base is None and not is_plain(inputs) and any(
        i.opened.extras for i in inputs
    ):  # fmt: skip
        raise FatalError(
            "an adapter replaces whole tensors of the base, whose merge under --param raw needs"
            " the base's values",
            hint="--base FOLDER-OF-THE-BASE-MODEL, or --param softmax",
        )
    named = [Named(a.spec, a, of_adapter(a)) for a in adapters]
    asked = EvalRequest(
        [], Path(suite[0]), base=str(base) if base else None,
        base_as=base_as,
    )  # fmt: skip
    with runner_for(workspace, named, asked, shared=True) as runner:
        choice, template, day = runner.choice, runner.chat_template, runner.template_date
    return Question(
        root=str(workspace.root),
        adapters=tuple(materials(a) for a in adapters),
        strategy=recipe.name,
        rank=recipe.rank,
        grouping=grouped,
        groups=grouped.present(modules) if grouped else (),
        suite=suite[0],
        suite_sha=suite[1].sha256,
        objective=objective(suite[1], request.metric),
        base=choice,
        is_base_asked=base is not None or len({a.config.base_model for a in adapters}) > 1,
        chat_template=template,
        template_date=day,
        base_weights=str(base.resolve()) if base else None,
        allow_python=allow_python,
    )


def _plan(question: Question, inputs: int, request: SearchRequest, seed: int) -> Plan:
    from soup_git.evaluation.search import KINDS, Plan

    param = request.param or "softmax"
    if param not in KINDS:
        raise _usage(f"--param is {param!r}, none of {', '.join(KINDS)}", "--param softmax")
    return Plan(
        inputs=inputs,
        groups=question.groups,
        param=param,
        population=request.population,
        max_generations=request.max_generations or DEFAULT_GENERATIONS,
        seed=seed,
        budget=parse_budget(request.budget or DEFAULT_BUDGET),
    )


def _usage(what: str, hint: str) -> FatalError:
    return FatalError(what, hint=hint, code=ExitCode.USAGE)


# -- what comes of it --------------------------------------------------------------------------


def _checked(
    pool: Executor, question: Question, found: Found
) -> tuple[Weights, Checked, list[str]]:
    """Score what the weights become as a file; where rounding made it worse, what it must not be."""
    from soup_git.evaluation import fitness

    checked = pool.submit(fitness.check, question, found.weights, found.start).result()
    if found.noise or checked.value >= checked.baseline:
        return found.weights, checked, []
    shown = question.objective.shown
    note = (
        f"stored in the inputs' dtype, {found.origin} scores {shown(checked.value):.6g}, which is"
        f" worse than {found.start_name}: that was written"
    )
    again = pool.submit(fitness.check, question, found.start, found.start).result()
    return found.start, again, [note]


def _report(
    question: Question,
    plan: Plan,
    found: Found,
    weights: Weights,
    checked: Checked,
    names: Sequence[str],
    suite: str,
    window: int,
) -> SearchReport:
    state, objective = found.state, question.objective
    is_start = weights == found.start
    difference = checked.difference
    total = state.seconds if window == 1 else state.busy_seconds
    start_names = [*(f"{name} alone" for name in names), "the uniform blend"]
    return SearchReport(
        suite=suite,
        suite_sha=question.suite_sha,
        metric=objective.name,
        higher_is_better=objective.higher_is_better,
        value=objective.shown(found.value if found.noise else checked.value),
        stderr=checked.stderr,
        origin=found.start_name if is_start else found.origin,
        baseline=found.start_name,
        baseline_value=objective.shown(found.start_value),
        difference=None if is_start or difference is None else difference.value,
        difference_low=None if is_start or difference is None else difference.low,
        difference_high=None if is_start or difference is None else difference.high,
        ended=found.ended,
        evaluations=state.evaluations,
        failures=state.failures,
        failed_rows=state.failed_rows,
        noise=found.noise,
        tolerance=found.tolerance,
        param=plan.param,
        population=plan.candidates,
        seed=plan.seed,
        seconds=round(state.seconds, 1),
        model_share=round(state.model_seconds / max(total, 1e-9), 4),
        load_share=round(state.load_seconds / max(total, 1e-9), 4),
        weights={
            group: list(row) for group, row in zip(plan.groups or ("all",), weights, strict=True)
        },
        inputs=list(names),
        starts=[
            StartScore(
                name, s.value if s.value is None else objective.shown(s.value), s.stderr, s.error
            )
            for name, s in zip(start_names, state.starts, strict=True)
        ],
        history=[
            GenerationScores(
                None if g.best == FAILED else objective.shown(g.best),
                [s if s == FAILED else objective.shown(s) for s in g.scores],
                g.step,
            )
            for g in state.generations
        ],
    )


def _settings(question: Question, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "param": plan.param,
        "population": plan.candidates,
        "max_generations": plan.max_generations,
    }
    if question.grouping is not None:
        found |= {"per_group": question.grouping.scheme, "layers": question.grouping.layers}
    return found


def _recipe_line(report: SearchReport) -> str:
    """The search as the recipe keeps it: what was asked, and how the best score grew."""
    best = [g.best for g in report.history]
    every = max(1, math.ceil(len(best) / _MOST_KEPT))
    body = {
        "suite": report.suite,
        "sha256": report.suite_sha,
        "metric": report.metric,
        "value": _rounded(report.value),
        "stderr": _rounded(report.stderr),
        "starts": {s.name: _rounded(s.value) for s in report.starts},
        "ended": report.ended,
        "evaluations": report.evaluations,
        "failed": sum(report.failures.values()),
        "generations": len(best),
        "best": [_rounded(value) for value in best[::every]],
    }
    return f"search {canonical_json(body)}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


# -- while it runs -----------------------------------------------------------------------------


class _Kept:
    """The state of a search below git's common folder, under the digest of its question."""

    def __init__(self, workspace: Workspace, question: Question, plan: Plan) -> None:
        asked = {
            "question": question.digest,
            "plan": [plan.param, plan.candidates, plan.seed, list(plan.groups)],
        }
        self._key = sha256_hex(canonical_json(asked).encode())
        self._path = workspace.git.common_dir / "soup" / "searches" / f"{self._key[:16]}.json"
        self._written = time.monotonic()
        self._pause = _KEEP_SECONDS
        self._known = 0

    def read(self) -> State:
        """What an interrupted search left; a new state where there is none."""
        from soup_git.evaluation.search import State, state_of

        data = bytes_of(self._path)
        if data is None:
            return State()
        try:
            body = json.loads(data)
            if body["key"] != self._key:
                return State()
            state = state_of(body["state"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            say(f"{self._path} is damaged: the search starts anew")
            return State()
        self._known = state.evaluations
        say(
            f"goes on with {state.evaluations} evaluations of an interrupted search"
            f" ({spoken(state.seconds)} of the budget)"
        )
        return state

    def __call__(self, state: State) -> None:
        """Write, but not so often that writing is what takes the time."""
        if time.monotonic() - self._written >= self._pause:
            self.flush(state)

    def flush(self, state: State) -> None:
        if state.evaluations == self._known:
            return
        began = time.monotonic()
        text = json.dumps({"key": self._key, "state": state.body()}, separators=(",", ":"))
        write_atomically(self._path, text.encode())
        self._known, self._written = state.evaluations, time.monotonic()
        self._pause = max(_KEEP_SECONDS, 50 * (self._written - began))

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


class _Progress:
    """The best so far, on one line of a terminal; nothing anywhere else."""

    def __init__(self, objective: Objective, budget: float) -> None:
        self._objective, self._budget = objective, budget
        self._shown = sys.stderr.isatty()
        self._open = False

    def __call__(self, state: State, total: int) -> None:
        if not self._shown:
            return
        self._open = True
        done = max(state.evaluations / total, min(1.0, state.seconds / self._budget))
        bar = ("█" * round(20 * done)).ljust(20, "░")
        best = ""
        if state.best is not None and state.best[0] > FAILED:
            value, _, origin = state.best
            best = f"best {self._objective.shown(value):.6g}, {origin}"
        line = (
            f"{bar}  {state.evaluations} evaluations, {spoken(state.seconds)} of"
            f" {spoken(self._budget)}  {printable(best)}"
        )
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def close(self) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
