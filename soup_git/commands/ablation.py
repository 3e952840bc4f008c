"""`git soup blame ADAPTER --dataset EVAL`: what each module or layer does to the loss, measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from soup_git.commands.diff import ROWS_IN_TABLE
from soup_git.commands.eval import EvalRequest, Named, loaded_in_words, opened
from soup_git.core.baseload import TRAINED
from soup_git.core.drift import bar, common_prefix, natural, place
from soup_git.core.durations import parse_budget, spoken
from soup_git.errors import FatalError
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.data.rows import DataRow
    from soup_git.evaluation.ablation import Ablation
    from soup_git.evaluation.ablationeffects import Outcome, PartEffect, Total
    from soup_git.evaluation.ablationparts import Part
    from soup_git.evaluation.ablationplan import Plan
    from soup_git.evaluation.ablationshards import Shards
    from soup_git.evaluation.executors import Pool
    from soup_git.evaluation.rows import EvalRow
    from soup_git.evaluation.runner import Runner


@dataclass(frozen=True)
class AblationRequest:
    """What was asked for, as the options spell it."""

    spec: str
    dataset: Path
    layers: Sequence[str] = ()
    """Patterns; a module counts when all of them match it or its layer."""
    per: str = "module"
    budget: str = "5m"
    shards: int = 4
    against: str | None = None
    base: str | None = None
    batch_size: int | None = None
    threads: int | None = None
    adapter: str | None = None
    """Which one, where a revision has several."""
    jobs: int = 1
    """Models that measure at once, in this process."""
    scheduler: str | None = None
    """Instead: the workers of this Dask scheduler."""
    base_as: str = TRAINED


@dataclass(frozen=True)
class AblationPlan:
    """What would be measured, by passes that were timed."""

    schema: ClassVar[str] = "soup.blame/1"
    kind: str
    """`ablation-plan`."""
    adapter: str
    against: str | None
    dataset: str
    per: str
    parts: int
    rows: int
    tokens: int
    shards: int
    budget: float
    seconds_per_shard: float
    seconds_spent: float
    """On loading and timing; they are of the budget."""
    seconds_per_part: float
    """One module or layer, on all rows, in the mean."""
    seconds_exact: float
    """All of them, on all rows, by all workers."""
    seconds_ranking: float | None
    fits: bool
    affordable: int
    """How many can be measured on all rows."""
    reuses_layers: bool
    workers: int
    """Models that measure at once."""
    scheduler: str | None
    """Whose workers they are; None is this process."""
    notes: list[str]

    def tables(self) -> Sequence[Table | str]:
        shard = f"{self.shards}, {spoken(self.seconds_per_shard)} each"
        way = f"all {self.parts}, exactly" if self.fits else (
            f"about {self.affordable} of {self.parts} exactly, the likeliest first"
        )  # fmt: skip
        rows = [
            ("adapter", self.adapter + (f" against {self.against}" if self.against else "")),
            ("dataset", f"{self.dataset}: {self.rows} rows, {self.tokens} tokens in the loss"),
            ("budget", f"{spoken(self.budget)}, {spoken(self.seconds_spent)} spent on this plan"),
            ("shards", shard),
            (f"one {self.per}", f"{spoken(self.seconds_per_part)} on all rows"),
            ("everything", spoken(self.seconds_exact)),
        ]
        if self.scheduler is not None or self.workers > 1:
            where = f"of {self.scheduler}" if self.scheduler else "here, each with its own model"
            rows.insert(-1, ("workers", f"{self.workers} {where}"))
        if self.seconds_ranking is not None:
            rows.append(("gradients", f"{spoken(self.seconds_ranking)}, to rank them first"))
        rows.append(("measured", way))
        return [Table(("", ""), rows), *self.notes]


@dataclass(frozen=True)
class AblationReport:
    schema: ClassVar[str] = "soup.blame/1"
    kind: str
    """`ablation`."""
    adapter: str
    against: str | None
    dataset: str
    base: str
    per: str
    """`module` or `layer`."""
    rows: int
    tokens: int
    confidence: float
    total: Total
    modules: list[PartEffect]
    """Modules, or layers; by the size of their effect."""
    seconds: float
    notes: list[str]
    shown: int
    """Rows of the table."""
    base_as: str = TRAINED
    base_load: str = ""
    """How the base was loaded, in words; empty for the base as it is."""

    @property
    def title(self) -> str:
        return f"{self.adapter} on {self.dataset}" + (
            f", against {self.against}" if self.against else ""
        )

    def tables(self) -> Sequence[Table | str]:
        total = self.total
        other = f"as in {self.against}" if self.against else "without it"
        head = (
            f"{self.title}: loss {total.loss:.4f}, {other} {total.loss_without:.4f}"
            f" ({signed(total.effect)}{_interval(total.low, total.high)}), {total.rows} rows"
        )
        if self.base_load:
            head += f", base {self.base}{loaded_in_words(self.base_as, self.base_load)}"
        hidden = len(self.modules) - self.shown
        more = f"… {hidden} more (--format json has all, html the map)" if hidden > 0 else ""
        header = (self.per, "effect>", f"{self.confidence:.0%}", "place", "", "")
        return [head, self._legend(), Table(header, self._rows(), after=more), *self.notes]

    def _legend(self) -> str:
        if self.against:
            return (
                f"effect: the loss with the {self.per} put back to {self.against}, minus the loss;"
                " below 0 it does harm here"
            )
        return (
            f"effect: the loss without the {self.per}, minus the loss; above 0 it helps,"
            " below 0 it does harm"
        )

    def _rows(self) -> list[tuple[str, ...]]:
        prefix = common_prefix([part.name for part in self.modules])
        most = max((abs(part.effect or 0.0) for part in self.modules), default=0.0)
        return [
            (
                part.name.removeprefix(prefix),
                "–" if part.effect is None else signed(part.effect),
                _interval(part.low, part.high).strip(),
                _place(part),
                _status(part, self.rows),
                bar(abs(part.effect or 0.0) / most if most else 0.0),
            )
            for part in self.modules[: self.shown]
        ]

    def heat_maps(self) -> list[HeatMap]:
        """Layers down, modules across: the picture of `git soup diff`, of effects."""
        cells = {
            place(part.name): (part.effect, _cell(part)) for part in self.modules
        }  # fmt: skip
        if self.per == "layer":
            cells = {(part.name, "effect"): (part.effect, _cell(part)) for part in self.modules}
        rows = sorted({row for row, _ in cells}, key=natural)
        columns = sorted({column for _, column in cells})
        title = f"effect on the loss, nats a token ({self.dataset})"
        return [
            HeatMap(title, rows, columns, cells, unit="nats", none="not known", below="does harm")
        ]


def plan(workspace: Workspace, request: AblationRequest) -> AblationPlan:
    """Load, time a few passes, and say what the budget reaches for."""
    with _prepared(workspace, request) as (job, found, _):
        return AblationPlan(
            kind="ablation-plan",
            adapter=request.spec,
            against=request.against,
            dataset=str(request.dataset),
            per=request.per,
            parts=found.parts,
            rows=job.rows,
            tokens=job.tokens,
            shards=job.shards,
            budget=found.budget,
            seconds_per_shard=found.seconds_per_shard,
            seconds_spent=round(found.spent, 3),
            seconds_per_part=round(found.mean_seconds, 4),
            seconds_exact=round(found.elapsed_seconds, 3),
            seconds_ranking=round(found.ranking_seconds, 3) or None,
            fits=found.fits,
            affordable=found.affordable,
            reuses_layers=job.stack is not None,
            workers=found.workers,
            scheduler=request.scheduler,
            notes=[f"note: {note}" for note in job.notes],
        )


def ablate(workspace: Workspace, request: AblationRequest) -> AblationReport:
    """Measure what each part does to the loss, within the budget.

    Raises FatalError for rows that do not fit, a pattern that matches nothing, adapters of
    two bases, and a budget that does not pay for one shard.
    """
    from soup_git.evaluation.statistics import CONFIDENCE

    started = time.monotonic()
    with _prepared(workspace, request, started) as (job, found, runner):
        outcome: Outcome = job.run(found, started + found.budget)
        return AblationReport(
            kind="ablation",
            adapter=request.spec,
            against=request.against,
            dataset=str(request.dataset),
            base=runner.choice.base,
            per=request.per,
            rows=job.rows,
            tokens=job.tokens,
            confidence=CONFIDENCE,
            total=outcome.total,
            modules=outcome.parts,
            seconds=round(outcome.seconds, 3),
            notes=[f"note: {note}" for note in outcome.notes],
            shown=len(outcome.parts),
            base_as=request.base_as,
            base_load=runner.choice.load.words(),
        )


def short(report: AblationReport) -> AblationReport:
    """With as many rows in its table as a person reads; the rest of it stays whole."""
    return replace(report, shown=min(report.shown, ROWS_IN_TABLE))


@contextmanager
def _prepared(
    workspace: Workspace, request: AblationRequest, started: float | None = None
) -> Iterator[tuple[Ablation, Plan, Runner]]:
    """The model with the adapter on it, the rows, the plan: all that can be refused is."""
    from soup_git.evaluation.ablationplan import check_shards
    from soup_git.evaluation.lossrows import load_rows

    started = time.monotonic() if started is None else started
    budget = parse_budget(request.budget)
    check_shards(budget, request.shards, request.budget)
    rows = load_rows(request.dataset, str(request.dataset))
    settings = EvalRequest(
        [request.spec], request.dataset, request.against, request.base, request.batch_size,
        request.threads, use_cache=False, write_note=False, adapter=request.adapter,
        base_as=request.base_as,
    )  # fmt: skip
    with (
        _pool(request) as workers,
        opened(workspace, settings, shared=True) as (runner, (one,), named),
    ):
        if one.candidate is None:
            raise FatalError(
                f"{request.spec} is the bare base model: it has no adapter's modules to take out",
                hint="git soup status lists the adapters here",
            )
        # `base` is what a module is put back to without --against, too.
        other = named if named is not None and named.candidate is not None else None
        equal = _equal_modules(one, other)
        # Known from the manifests: a pattern that matches nothing loads nothing.
        _parts(_changed(one, other, equal), request)
        with (
            _loaded(runner, one, other, rows, request, equal) as job,
            _crew(workers, job, workspace, (runner, one, other), request) as job.crew,
        ):
            yield job, job.plan(budget, started), runner


@contextmanager
def _pool(request: AblationRequest) -> Iterator[Pool | None]:
    """Who measures; None is the one model that is loaded here anyway."""
    from soup_git.evaluation.executors import pool

    if request.jobs == 1 and request.scheduler is None:
        yield None
        return
    with pool(request.jobs, request.scheduler) as made:
        yield made


@contextmanager
def _crew(
    workers: Pool | None,
    job: Ablation,
    workspace: Workspace,
    asked: tuple[Runner, Named, Named | None],
    request: AblationRequest,
) -> Iterator[Shards | None]:
    from soup_git.evaluation.ablationshards import Question, Shards, share_threads
    from soup_git.storage.materials import materials

    runner, one, other = asked
    if workers is None or one.adapter is None:
        yield None
        return
    is_here = request.scheduler is None
    threads = request.threads
    if is_here and threads is None:
        threads = share_threads(request.jobs)
    question = Question(
        root=str(workspace.root),
        adapter=materials(one.adapter),
        against=materials(other.adapter) if other is not None and other.adapter else None,
        base=runner.choice,
        is_base_asked=request.base is not None,
        parts=tuple(job.parts),
        reuse=job.stack is not None,
        threads=threads,
    )
    with Shards(workers, question, job if is_here else None) as crew:
        yield crew


@contextmanager
def _loaded(
    runner: Runner,
    one: Named,
    other: Named | None,
    rows: Sequence[DataRow | EvalRow],
    request: AblationRequest,
    equal: set[str],
) -> Iterator[Ablation]:
    from soup_git.evaluation.ablation import Ablation
    from soup_git.evaluation.lossrows import as_data, refuse_nothing_to_predict
    from soup_git.evaluation.removal import on_model

    data = [as_data(row, chat=runner.has_template) for row in rows]
    sequences = runner.encode(data, candidate=one.candidate)
    refuse_nothing_to_predict([sum(s.in_loss[1:]) for s in sequences], str(request.dataset))
    assert one.candidate is not None  # noqa: S101 - for the type checker
    instead = other.candidate if other is not None else None
    with on_model(runner, one.candidate, instead) as (model, target):
        parts = _parts([name for name in target.modules if name not in equal], request)
        with Ablation(
            target, model, sequences, parts, request.shards, progress=runner.progress
        ) as job:
            if equal:
                job.notes.append(f"{len(equal)} modules are equal in both and left out")
            yield job


def _parts(modules: Sequence[str], request: AblationRequest) -> list[Part]:
    from soup_git.evaluation.ablationparts import parts_of

    return parts_of(modules, request.per, request.layers)


def _changed(one: Named, other: Named | None, equal: set[str]) -> list[str]:
    named = [n.adapter.manifest.modules for n in (one, other) if n is not None and n.adapter]
    return [m for m in dict.fromkeys(m for modules in named for m in modules) if m not in equal]


def _equal_modules(one: Named, other: Named | None) -> set[str]:
    """Modules that are the same in both, known from the manifests."""
    if other is None or one.adapter is None or other.adapter is None:
        return set()
    ours, theirs = one.adapter, other.adapter
    if ours.config != theirs.config:
        return set()
    if ours.manifest.digest() == theirs.manifest.digest():
        raise FatalError(
            f"{one.spec} and {other.spec} are the same adapter: there is no difference to blame",
            hint=f"git soup diff {one.spec} {other.spec}",
        )
    found = {tensor.module: True for tensor in ours.manifest.tensors}
    both = {t.name: t.sha256 for t in theirs.manifest.tensors}
    for tensor in ours.manifest.tensors:
        found[tensor.module] &= both.get(tensor.name) == tensor.sha256
    return {module for module, same in found.items() if same}


# -- how it is written ------------------------------------------------------------------------


def signed(value: float) -> str:
    """`+0.0123`, `-1.2e-05`: four digits, however small."""
    return f"{value:+.4f}" if value == 0.0 or abs(value) >= 1e-3 else f"{value:+.2e}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{signed(low)}, {signed(high)}]"


def _place(part: PartEffect) -> str:
    if part.place is None:
        return ""
    return str(part.place) if part.place == part.place_to else f"{part.place}-{part.place_to}"


def _status(part: PartEffect, rows: int) -> str:
    if part.status == "exact":
        return "exact, audit" if part.audited else "exact"
    return f"{part.status}, {part.rows} of {rows} rows" if part.rows else part.status


def _cell(part: PartEffect) -> str:
    if part.effect is None:
        return part.status
    return signed(part.effect) if part.status == "exact" else f"{signed(part.effect)} ~"
