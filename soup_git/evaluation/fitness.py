"""Scoring one candidate of a search: here, or in a Dask worker on another machine.

A question is small and picklable: it names adapters, suite and base by their digests. A
thread that is asked for the first time brings the weights from the DVC cache or its remote,
loads the base once, and keeps both for the next candidate.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from soup_git.arithmetic.elementwise import Settings
from soup_git.arithmetic.strategies import STRATEGIES
from soup_git.core.digests import sha256_hex
from soup_git.core.groups import Grouping
from soup_git.core.manifest import WEIGHTS
from soup_git.core.text import canonical_json
from soup_git.errors import FatalError
from soup_git.evaluation.blending import Blend, Weights, weighed
from soup_git.evaluation.candidate import Candidate, of_adapter
from soup_git.evaluation.model import Decoding, Model, OnDone
from soup_git.evaluation.objective import Objective
from soup_git.evaluation.results import TaskResult
from soup_git.evaluation.runner import BaseChoice, Runner
from soup_git.evaluation.scorecache import ScoreCache
from soup_git.evaluation.search import Scored
from soup_git.evaluation.statistics import Difference
from soup_git.evaluation.suite import Suite, load_suite
from soup_git.storage.basemodel import BaseModel
from soup_git.storage.materials import Materials, brought, workspace_of_worker
from soup_git.storage.mergeinputs import Input, Recipe, is_copy
from soup_git.storage.merging import copy_single, write_merged
from soup_git.storage.updates import open_adapter
from soup_git.storage.weights import fingerprint
from soup_git.storage.workspace import Workspace
from soup_git.training.prepared import Encoded


@dataclass(frozen=True)
class Question:
    """How good is a merge of these adapters, on this suite? Everything but the weights."""

    root: str
    """The caller's work tree, for a worker that was not started in a clone of its own."""
    adapters: tuple[Materials, ...]
    strategy: str
    rank: int | None
    grouping: Grouping | None
    groups: tuple[str, ...]
    suite: str
    """From the work tree's top."""
    suite_sha: str
    objective: Objective
    base: BaseChoice
    is_base_asked: bool = False
    """The base was named by the user: adapters are asked on it whatever they name."""
    chat_template: str | None = None
    template_date: str | None = None
    base_weights: str | None = None
    """A folder that whole tensors and DoRA are merged with."""
    allow_python: bool = False

    @cached_property
    def digest(self) -> str:
        """sha256 of all that the scores depend on."""
        body = {
            "adapters": [[a.weights_md5, sha256_hex(a.config)] for a in self.adapters],
            "strategy": self.strategy,
            "rank": self.rank,
            "grouping": self.grouping and asdict(self.grouping),
            "groups": self.groups,
            "suite": self.suite_sha,
            "objective": asdict(self.objective),
            "base": self.base.key(),
            "chat_template": [self.chat_template, self.template_date],
        }
        return sha256_hex(canonical_json(body).encode())

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            self.strategy, STRATEGIES[self.strategy], Settings(1.0, 0), "exact", self.rank
        )


@dataclass(frozen=True)
class Checked:
    """The score of what is written, and of what it may not be worse than."""

    md5: str
    """Of the weights that were written."""
    value: float
    stderr: float | None
    baseline: float
    difference: Difference | None
    """To the baseline, paired by row, in the metric's own direction; None for several metrics."""


def score(question: Question, weights: Weights) -> Scored:
    """The score of the merge with these weights; what fails says why."""
    began = time.monotonic()
    try:
        with _evaluator(question) as evaluator:
            return evaluator.timed(began, evaluator.candidate(weights))
    except (FatalError, RuntimeError) as error:
        # torch says RuntimeError for most of what can happen: memory, a NaN that is sampled from.
        why = str(error).strip().splitlines()
        return Scored(
            None, seconds=time.monotonic() - began, error=why[0] if why else type(error).__name__
        )


def check(question: Question, weights: Weights, baseline: Weights) -> Checked:
    """Write the merge into a folder of its own, as the caller will, and score what was written."""
    with _evaluator(question) as evaluator, tempfile.TemporaryDirectory(prefix="soup-merge-") as at:
        found, md5 = evaluator.written(weights, Path(at))
        results = evaluator.results(found)
        before = evaluator.results(evaluator.candidate(baseline))
    objective = question.objective
    value, stderr = objective.fitness(results)
    paired = objective.difference(results, before)
    return Checked(md5, value, stderr, objective.fitness(before)[0], paired)


def forget(question: Question) -> None:
    """Let go of the models that this process has loaded for a question."""
    with _LOCK:
        for key in [key for key in _EVALUATORS if key[0] == question.digest]:
            _EVALUATORS.pop(key).close()


# -- one thread's model ------------------------------------------------------------------------

_EVALUATORS: dict[tuple[str, int], Evaluator] = {}
_LOCK = threading.Lock()
_LOADING = threading.Lock()


@contextmanager
def _evaluator(question: Question) -> Iterator[Evaluator]:
    """This thread's evaluator of the question; a worker holds one question at a time."""
    key = question.digest, threading.get_ident()
    with _LOCK:
        for other in [k for k in _EVALUATORS if k[1] == key[1] and k != key]:
            _EVALUATORS.pop(other).close()
        found = _EVALUATORS.get(key)
    if found is None:
        found = Evaluator(question)
        with _LOCK:
            _EVALUATORS[key] = found
    yield found


class Evaluator:
    """A question with its weights here and, once asked, its base loaded."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._workspace = workspace = workspace_of_worker(question.root)
        self._adapters = [brought(workspace, needed) for needed in question.adapters]
        self._inputs = [Input(open_adapter(adapter), 1.0) for adapter in self._adapters]
        self._base = BaseModel(Path(question.base_weights)) if question.base_weights else None
        self._suite = _suite(question, workspace)
        self._runner = _TimedRunner(
            question.base,
            workspace.root,
            cache=ScoreCache(workspace.git.common_dir / "soup" / "scores"),
            chat_template=question.chat_template,
            template_date=question.template_date,
            allow_python=question.allow_python,
        )
        self._blend = Blend(
            self._inputs, question.recipe, self._base, question.grouping, question.groups
        )

    def close(self) -> None:
        self._runner.attachments.close()
        self._workspace.git.close()

    def candidate(self, weights: Weights) -> Candidate:
        """One adapter alone is asked as it is: its scores may be known already."""
        alone = _alone(weights)
        if alone is not None and self.question.rank is None:
            return of_adapter(self._adapters[alone])
        return self._blend.candidate("the merge", weights)

    def results(self, candidate: Candidate) -> list[TaskResult]:
        base = self.question.base
        if self.question.is_base_asked:
            named = {"base_model_name_or_path": base.base, "revision": base.revision}
            candidate = replace(candidate, config={**candidate.config, **named})
        return self._runner.score(candidate, self._suite)

    def timed(self, began: float, candidate: Candidate) -> Scored:
        runner, objective = self._runner, self.question.objective
        model, load = runner.in_model, runner.loading
        results = self.results(candidate)
        value, stderr = objective.fitness(results)
        return Scored(
            value,
            stderr,
            seconds=time.monotonic() - began,
            model_seconds=runner.in_model - model,
            load_seconds=runner.loading - load,
            failed_rows=objective.failed_rows(results),
        )

    def written(self, weights: Weights, folder: Path) -> tuple[Candidate, str]:
        """The merge as a file: (its candidate, the md5 of its weights)."""
        question = self.question
        inputs = merged_inputs(self._inputs, weights, question.grouping, question.groups)
        if is_copy(inputs, question.recipe):
            copy_single(folder, inputs[0])
        else:
            write_merged(folder, inputs, question.recipe, self._base)
        found = self._workspace.adapter_in_folder(folder, "the merge")
        return of_adapter(found), fingerprint(folder / WEIGHTS).md5


def merged_inputs(
    inputs: Sequence[Input], weights: Weights, grouping: Grouping | None, groups: Sequence[str]
) -> list[Input]:
    """The inputs as a merge takes them: those that add nothing are left out."""
    found = weighed(inputs, weights, grouping, groups)
    return [i for i, column in zip(found, zip(*weights, strict=True), strict=True) if any(column)]


def _alone(weights: Weights) -> int | None:
    """The number of the adapter that is all of the merge."""
    first = list(weights[0])
    if len(set(weights)) == 1 and sorted(first) == [0.0] * (len(first) - 1) + [1.0]:
        return first.index(1.0)
    return None


def _suite(question: Question, workspace: Workspace) -> Suite:
    suite = load_suite(workspace.root / question.suite, workspace.root)
    if suite.sha256 != question.suite_sha:
        raise FatalError(
            f"{question.suite} or its prompts differ in {workspace.root} from the caller's",
            hint="check out the same commit in the worker's clone",
        )
    return suite


@dataclass
class _TimedRunner(Runner):
    """A runner that knows how long it waited for the model."""

    in_model: float = field(default=0.0, init=False)
    loading: float = field(default=0.0, init=False)

    def _load_base(self) -> Any:
        # transformers changes torch's own functions while it loads: one thread at a time.
        with self._clocked_loading(), _LOADING:
            return super()._load_base()

    def _tokenizer_and_template(self) -> tuple[Any, Any]:
        if self._tools is not None:
            return self._tools
        with self._clocked_loading(), _LOADING:
            return super()._tokenizer_and_template()

    @contextmanager
    def _clocked_loading(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.loading += time.monotonic() - began

    @contextmanager
    def using(self, candidate: Candidate | None) -> Iterator[Model]:
        with super().using(candidate) as model:
            yield _TimedModel(model, self)


class _TimedModel(Model):
    """The model, with a clock on what it is asked."""

    def __init__(self, model: Model, clock: _TimedRunner) -> None:
        vars(self).update(vars(model))
        self._clock = clock

    def generate(
        self, prompts: Sequence[list[int]], decoding: Decoding, on_done: OnDone | None = None
    ) -> list[str]:
        with self._timed():
            return super().generate(prompts, decoding, on_done)

    def logprobs(
        self, sequences: Sequence[Encoded], on_done: OnDone | None = None
    ) -> list[tuple[float, int]]:
        with self._timed():
            return super().logprobs(sequences, on_done)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._clock.in_model += time.monotonic() - began
