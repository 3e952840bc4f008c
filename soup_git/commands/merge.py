"""`git soup merge A B … -o DIR`: adapters into one, on their updates, with a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from soup_git.commands.eval import EvalRequest
from soup_git.commands.evolve import LEAST_INPUTS, Evolved, SearchReport, SearchRequest, evolve
from soup_git.commands.fetching import with_weights
from soup_git.commands.verdict import Judging, judging, recipe_line
from soup_git.commands.verdict import tables as verdict_tables
from soup_git.core.adapter import parse_adapter_config
from soup_git.core.baseload import TRAINED
from soup_git.core.beside import facts_of
from soup_git.core.digests import sha256_hex
from soup_git.core.expression import coefficients
from soup_git.core.groups import Grouping, GroupWeights, parse_weights
from soup_git.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    base_load_fact,
    make_manifest,
)
from soup_git.core.text import counted
from soup_git.errors import ExitCode, FatalError
from soup_git.render.chart import Chart
from soup_git.render.report import Table, say, size
from soup_git.storage.resolver import Adapter, path_among, refuse_changed_weights
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.evaluation.verdict import Verdict
    from soup_git.storage.mergeinputs import Input, Recipe
    from soup_git.storage.mergeselection import Selection
    from soup_git.storage.merging import Outcome

MAX_INPUTS = 16
DEFAULT_DENSITY = 0.5
_WORST_IN_TABLE = 5
SEARCH = "cmaes"
_SEARCH_FORM = "git soup merge A B -o DIR --strategy cmaes --eval SUITE --budget 10m"
_FORM = "git soup merge A B -o DIR [--strategy S] [--weights W,W]"
_KEEP_FORM = "git soup merge A B -o DIR --keep 'B:GLOB'; a, b, … are the adapters in their order"
_LETTERS = "abcdefghijklmnop"


@dataclass(frozen=True)
class MergeRequest:
    """What was asked for, as the options spell it; None where nothing was said."""

    specs: Sequence[str]
    output: Path
    strategy: str = "linear"
    weights: str | None = None
    expression: str | None = None
    density: float | None = None
    seed: int | None = None
    rank: str | None = None
    space: str | None = None
    normalize: bool = False
    allow_cross_base: bool = False
    base: Path | None = None
    force: bool = False
    without: Sequence[str] = ()
    """Globs of modules that the result has not."""
    keep: Sequence[str] = ()
    """`A:GLOB`: modules that are input A's as they are; A is its spec, or its letter."""
    suite: Path | None = None
    """Judge the result on this suite."""
    allow_python: bool = False
    base_as: str = TRAINED
    search: SearchRequest = field(default_factory=SearchRequest)


@dataclass(frozen=True)
class MergeInput:
    spec: str
    origin: str
    weights_md5: str
    weight: float


@dataclass(frozen=True)
class ModuleResidual:
    module: str
    rank: int
    inputs: int
    residual: float | None


@dataclass(frozen=True)
class MergeReport:
    schema: ClassVar[str] = "soup.merge/1"
    output: str
    strategy: str
    paper: str
    space: str
    """`exact` where the result is a weighted sum of the updates themselves."""
    settings: dict[str, float | int | str]
    inputs: list[MergeInput]
    base_model: str | None
    rank: int
    alpha: float
    dtype: str
    parameters: int
    weights_md5: str
    weights_size: int
    residual: float | None
    """‖merged − written‖/‖merged‖ over all modules; None where there is no true ΔW to compare."""
    notes: list[str]
    layers: list[ModuleResidual] = field(default_factory=list)
    verdict: Verdict | None = None
    """Whether it kept what its inputs could; None where no suite was named."""
    search: SearchReport | None = None
    """How the weights were found; None where they were given."""

    @property
    def title(self) -> str:
        return f"merge of {counted(len(self.inputs), 'adapter')} by {self.strategy}"

    def charts(self) -> Sequence[Chart]:
        return [self.search.chart()] if self.search is not None else []

    def tables(self) -> Sequence[Table | str]:
        settings = "".join(
            f", {key} {value if isinstance(value, str) else format(value, 'g')}"
            for key, value in self.settings.items()
        )
        rows = [
            ("output", f"{self.output}  {size(self.weights_size)}, md5:{self.weights_md5}"),
            ("strategy", f"{self.strategy} ({self.space}{settings})"),
            ("paper", self.paper),
            ("base", self.base_model or "-"),
            ("rank", f"{self.rank}, alpha {self.alpha:g}, {self.dtype}"),
            ("modules", f"{len(self.layers)} ({self.parameters:,} parameters)"),
            ("residual", self._residual()),
        ]
        inputs = [
            (f"{i.weight:g}", i.spec, i.origin, f"md5:{i.weights_md5[:12]}") for i in self.inputs
        ]
        parts: list[Table | str] = [Table(("", ""), rows), ""]
        parts.append(Table(("weight>", "input", "from", "weights"), inputs))
        worst = [x for x in self.layers if x.residual]
        if worst:
            worst = sorted(worst, key=lambda x: -(x.residual or 0.0))[:_WORST_IN_TABLE]
            found = [(x.module, str(x.rank), f"{100 * (x.residual or 0):.2g} %") for x in worst]
            parts += ["", Table(("lost most to the rank", "rank>", "residual>"), found)]
        if self.search is not None:
            parts += ["", *self.search.tables()]
        if self.verdict is not None:
            parts += ["", *verdict_tables(self.verdict)]
        return [*parts, *(f"note: {note}" for note in self.notes)]

    def _residual(self) -> str:
        if self.residual is None:
            return "not defined: factors were merged one by one, which is no merge of the updates"
        return (
            "none: exact"
            if self.residual == 0.0
            else f"{100 * self.residual:.3g} % of the merged update"
        )


@dataclass(frozen=True)
class StrategyRow:
    name: str
    summary: str
    paper: str
    settings: list[str]


@dataclass(frozen=True)
class StrategiesReport:
    schema: ClassVar[str] = "soup.strategies/1"
    strategies: list[StrategyRow]

    def tables(self) -> Sequence[Table | str]:
        rows = [(s.name, s.summary) for s in self.strategies]
        papers = [(s.name, s.paper) for s in self.strategies]
        return [
            Table(("strategy", "what it does"), rows),
            "",
            Table(("strategy", "reference"), papers),
        ]


def strategies() -> StrategiesReport:
    from soup_git.arithmetic.strategies import STRATEGIES

    return StrategiesReport(
        [StrategyRow(n, s.summary, s.paper, list(s.settings)) for n, s in STRATEGIES.items()]
    )


def merge(workspace: Workspace, request: MergeRequest) -> MergeReport:
    """Merge the adapters and write the result to `request.output`, whole or not at all."""
    recipe, weights = _recipe(request), _weights(request)
    _refuse_search(request)
    path = path_among(workspace, request.specs)
    adapters = with_weights(workspace, [workspace.adapter(spec, path) for spec in request.specs])
    notes = _refuse_other_bases(adapters, allowed=request.allow_cross_base)
    _refuse_output(request, adapters)
    judge = _judge(workspace, request, adapters)
    selection = _selection(request, adapters)
    inputs, found = _opened(workspace, adapters, weights, recipe, selection)
    notes += [*found, *(f"{a.spec} {a.config.ignored}" for a in adapters if a.config.ignored)]
    if recipe.name != SEARCH or request.suite is None:
        return _written(request, recipe, inputs, notes, judge, selection=selection)
    evolved = evolve(
        workspace, inputs, recipe, request.suite, request.base, request.search,
        allow_python=request.allow_python, base_as=request.base_as,
    )  # fmt: skip
    return _written(request, recipe, evolved.inputs, [*notes, *evolved.notes], judge, evolved)


def _refuse_search(request: MergeRequest) -> None:
    """What a search needs, and what only a search takes."""
    if request.strategy != SEARCH:
        for option in request.search.given():
            raise _usage(f"{option} is for --strategy {SEARCH}", _SEARCH_FORM)
        return
    if request.suite is None:
        raise _usage(f"{SEARCH} needs a suite to search by", _SEARCH_FORM)
    if request.without or request.keep:
        raise _usage(f"{SEARCH} searches over all modules: no --without, no --keep", _SEARCH_FORM)
    if request.weights is not None or request.expression is not None or request.normalize:
        raise _usage(f"{SEARCH} finds the weights itself", _SEARCH_FORM)
    if len(request.specs) < LEAST_INPUTS:
        raise _usage(f"{SEARCH} takes {LEAST_INPUTS} to {MAX_INPUTS} adapters", _SEARCH_FORM)


def _judge(
    workspace: Workspace, request: MergeRequest, adapters: Sequence[Adapter]
) -> Judging | None:
    if request.suite is None:
        return None
    base = str(request.base) if request.base is not None else None
    asked = EvalRequest(
        [], request.suite, base=base, allow_python=request.allow_python,
        base_as=request.base_as,
    )  # fmt: skip
    return judging(workspace, adapters, request.suite, asked)


# -- what is asked for ------------------------------------------------------------------------


def _recipe(request: MergeRequest) -> Recipe:
    from soup_git.arithmetic.elementwise import Elementwise, Settings
    from soup_git.arithmetic.merging import SPACES
    from soup_git.arithmetic.strategies import STRATEGIES, Linear
    from soup_git.storage.mergeinputs import Recipe

    strategy = STRATEGIES.get(request.strategy)
    if strategy is None:
        raise _usage(f"there is no strategy {request.strategy!r}", "git soup merge --list")
    if request.density is not None and "density" not in strategy.settings:
        raise _usage(f"--density means nothing to {request.strategy}", "git soup merge --list")
    if request.seed is not None and "seed" not in strategy.settings:
        say(
            f"--seed {request.seed}: {request.strategy} draws nothing at random, so it changes nothing"
        )
    density = DEFAULT_DENSITY if request.density is None else request.density
    if not 0.0 < density <= 1.0:
        raise _usage(f"--density is {density:g}; it is a share in (0, 1]", "--density 0.5")
    if strategy.inputs not in {None, len(request.specs)}:
        raise _usage(
            f"{request.strategy} takes {strategy.inputs} adapters", "git soup merge --list"
        )
    space = request.space
    if space is not None and space not in SPACES:
        raise _usage(f"--space is {space!r}, none of {', '.join(SPACES)}", "git soup merge -h")
    takes_space = isinstance(strategy.method, Elementwise) and not strategy.columns
    if (
        space is not None
        and not takes_space
        and not (request.strategy == "linear" and space == "factors")
    ):
        raise _usage(
            f"{request.strategy} has its own coordinates; --space means nothing to it", _FORM
        )
    default = "shared" if not isinstance(strategy.method, Linear) else "exact"
    return Recipe(
        name=request.strategy,
        strategy=strategy,
        settings=Settings(density, (request.seed or 0) if "seed" in strategy.settings else 0),
        space=space or default,
        rank=_rank(request),
    )


def _rank(request: MergeRequest) -> int | None:
    if request.rank is None or (request.rank == "full" and request.strategy in {"linear", SEARCH}):
        return None
    if request.rank == "full":
        raise _usage(
            "--rank full is for linear; other strategies are low-rank approximations", _FORM
        )
    if (
        not request.rank.isascii()
        or not request.rank.isdigit()
        or not 0 < int(request.rank) <= 65536
    ):
        raise _usage(f"--rank is {request.rank!r}, no number from 1 to 65536 and not full", _FORM)
    return int(request.rank)


def _weights(request: MergeRequest) -> list[float]:
    count = len(request.specs)
    if not 1 <= count <= MAX_INPUTS:
        raise _usage(f"{count} adapters were named; 1 to {MAX_INPUTS} are merged", _FORM)
    if request.expression is not None:
        weights = _from_expression(request)
    elif request.weights is not None:
        weights = _from_list(request.weights, count)
    else:
        weights = [1.0 / count] * count
    for spec, weight in zip(request.specs, weights, strict=True):
        if not math.isfinite(weight) or weight == 0.0:
            raise _usage(f"the weight of {spec} is {weight:g}; leave out what adds nothing", _FORM)
    total = sum(weights)
    if request.normalize or request.strategy == "slerp":
        if abs(total) < 1e-9:
            raise _usage("the weights add up to 0 and cannot be divided by their sum", _FORM)
        weights = [weight / total for weight in weights]
    return weights


def _from_list(text: str, count: int) -> list[float]:
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise _usage(f"--weights is {text!r}, not numbers with commas between", _FORM) from None
    if len(weights) != count:
        raise _usage(
            f"{len(weights)} weights for {count} adapters",
            "one weight per adapter: --weights 0.7,0.3",
        )
    return weights


def _from_expression(request: MergeRequest) -> list[float]:
    names = _LETTERS[: len(request.specs)]
    hint = "the adapters are a, b, c … in the order they are named: --expr 'a + 0.5*b - c'"
    if request.weights is not None or request.strategy not in {"linear", "svd"}:
        raise _usage("--expr is a linear merge with its own weights", hint)
    try:
        found = coefficients(request.expression or "")
    except ValueError as error:
        raise _usage(f"--expr {error}", hint) from None
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise _usage(f"--expr names {unknown[0]!r}, but there are {len(names)} adapters", hint)
    return [found.get(name, 0.0) for name in names]


def _usage(what: str, hint: str) -> FatalError:
    return FatalError(what, hint=hint, code=ExitCode.USAGE)


# -- what is refused --------------------------------------------------------------------------


def _refuse_other_bases(adapters: Sequence[Adapter], *, allowed: bool) -> list[str]:
    first = adapters[0]
    for other in adapters[1:]:
        one, two = _base_of(first), _base_of(other)
        if one == two:
            continue
        if not allowed:
            raise FatalError(
                f"{first.spec} is for the base model {one}, {other.spec} for {two}; an update of"
                " one model means nothing to another",
                hint="--allow-cross-base when both names mean the same weights",
            )
        return [f"inputs name different base models ({one}, {two}); the result is for {one}"]
    return []


def _base_of(adapter: Adapter) -> str:
    revision = json.loads(adapter.config_data).get("revision")
    return (adapter.config.base_model or "-") + (f" at {revision}" if revision else "")


def _refuse_output(request: MergeRequest, adapters: Sequence[Adapter]) -> None:
    output = request.output.resolve()
    for adapter in adapters:
        if adapter.commit is None and Path(adapter.path).resolve() == output:
            raise FatalError(
                f"the output {request.output} is an input; a merge never replaces what it was made of",
                hint="-o another folder",
            )
    if not request.output.exists():
        return
    if not request.output.is_dir():
        raise FatalError(f"{request.output} is a file", hint="-o another folder")
    if any(request.output.iterdir()) and not (request.output / CONFIG).is_file():
        raise FatalError(
            f"{request.output} holds other things than an adapter", hint="-o a new folder"
        )
    if any(request.output.iterdir()) and not request.force:
        raise FatalError(
            f"{request.output} holds an adapter already",
            hint="--force to replace it, or -o another folder",
        )


def _selection(request: MergeRequest, adapters: Sequence[Adapter]) -> Selection:
    from soup_git.storage.mergeselection import Selection

    digests = [adapter.manifest.weights_md5 for adapter in adapters]
    keep = []
    for text in request.keep:
        spec, colon, glob = text.rpartition(":")
        at = _named(spec, request.specs)
        if not colon or at is None or not glob:
            listed = ", ".join(request.specs)
            raise _usage(f"--keep is {text!r}, not A:GLOB with A one of {listed}", _KEEP_FORM)
        if digests.count(digests[at]) > 1:
            raise _usage(f"--keep of {spec}, and another input has its weights too", _KEEP_FORM)
        keep.append((digests[at], glob))
    return Selection(tuple(request.without), tuple(keep))


def _named(spec: str, specs: Sequence[str]) -> int | None:
    """Which of the inputs a spec, or a letter as in --expr, names."""
    letters = _LETTERS[: len(specs)]
    if spec in specs:
        return list(specs).index(spec)
    return letters.index(spec) if len(spec) == 1 and spec in letters else None


def _opened(
    workspace: Workspace,
    adapters: Sequence[Adapter],
    weights: Sequence[float],
    recipe: Recipe,
    selection: Selection,
) -> tuple[list[Input], list[str]]:
    """The inputs in an order that does not depend on how they were named.

    So permuting them changes no byte. What is linear adds the weights of equal adapters.
    """
    from soup_git.arithmetic.strategies import Linear
    from soup_git.storage.mergeinputs import Input, refuse_what_cannot_merge
    from soup_git.storage.mergeselection import refuse_other_shapes, select
    from soup_git.storage.updates import open_adapter

    for adapter in adapters:
        refuse_changed_weights(workspace, adapter)
    inputs = [Input(open_adapter(a), w) for a, w in zip(adapters, weights, strict=True)]
    if len(inputs) > 1 or selection:
        refuse_what_cannot_merge(inputs)
    inputs, notes = select(inputs, selection)
    refuse_other_shapes(inputs)
    if recipe.strategy.inputs != 2:
        inputs.sort(key=lambda i: (i.digest, i.opened.adapter.manifest.digest(), i.weight))
    if isinstance(recipe.strategy.method, Linear) and recipe.space == "exact":
        summed: dict[str, Input] = {}
        for found in inputs:
            key = found.opened.adapter.manifest.digest()
            before = summed.get(key)
            if before is not None:
                notes.append(
                    f"{found.opened.spec} is {before.opened.spec} again; their weights add up"
                )
            summed[key] = replace(found, weight=found.weight + (before.weight if before else 0.0))
        inputs = [found for found in summed.values() if found.weight != 0.0]
        if not inputs:
            raise FatalError(
                "the adapters are equal and their weights add up to 0: nothing is left", hint=_FORM
            )
    return inputs, notes


def _base_load(inputs: Sequence[Input], notes: list[str]) -> tuple[tuple[str, str], ...]:
    """How the base was loaded for all inputs; nothing, and a note, where they differ in it."""
    loads = {i.opened.spec: i.opened.adapter.manifest.base_load for i in inputs}
    if len(set(loads.values())) == 1:
        return base_load_fact(next(iter(loads.values())))
    each = "; ".join(f"{n}: {load.words() or 'the base as it is'}" for n, load in loads.items())
    notes.append(
        f"they were trained on a base that was loaded in several ways ({each}), the merge on none"
    )
    return ()


# -- what is written --------------------------------------------------------------------------


def _written(
    request: MergeRequest,
    recipe: Recipe,
    inputs: Sequence[Input],
    notes: list[str],
    judge: Judging | None = None,
    evolved: Evolved | None = None,
    selection: Selection | None = None,
) -> MergeReport:
    from soup_git.storage.basemodel import BaseModel
    from soup_git.storage.beside import files_of_all
    from soup_git.storage.folders import folder_beside
    from soup_git.storage.mergeinputs import is_copy
    from soup_git.storage.merging import copy_single, write_merged
    from soup_git.storage.weights import fingerprint

    base = BaseModel(request.base) if request.base is not None else None
    with folder_beside(request.output) as folder:
        if is_copy(inputs, recipe):
            outcome = copy_single(folder, inputs[0])
        else:
            outcome = write_merged(folder, inputs, recipe, base)
        made = fingerprint(folder / WEIGHTS)
        if not made.is_finite:
            raise FatalError(
                "the merged weights are not finite: the weights given are too large",
                hint="smaller --weights",
            )
        config = parse_adapter_config((folder / CONFIG).read_bytes(), str(request.output / CONFIG))
        verdict = judge(folder, made.md5) if judge is not None else None
        settings = _settings(recipe) | (evolved.settings if evolved else {})
        lines = recipe_lines(recipe, settings, inputs, request.base, selection)
        lines += [evolved.recipe_line] if evolved else []
        lines += [recipe_line(verdict)] if verdict is not None else []
        files, said = files_of_all([i.opened.adapter for i in inputs], request.output)
        for name, data in files.items():
            (folder / name).write_bytes(data)
        manifest = make_manifest(
            config, made.tensors, weights_md5=made.md5, weights_size=made.size, recipe=lines,
            facts=(
                *_base_load(inputs, notes),
                *facts_of((name, sha256_hex(data)) for name, data in files.items()),
            ),
            where=str(request.output / CONFIG),
        )  # fmt: skip
        (folder / MANIFEST).write_text(manifest.text(), "utf-8")
    return MergeReport(
        output=str(request.output),
        strategy=recipe.name,
        paper=recipe.strategy.paper,
        space=recipe.space,
        settings=settings,
        inputs=[
            MergeInput(i.opened.spec, i.opened.adapter.origin, i.digest, i.weight) for i in inputs
        ],
        base_model=config.base_model,
        rank=outcome.rank,
        alpha=outcome.alpha,
        dtype=outcome.dtype,
        parameters=sum(math.prod(t.shape) for t in made.tensors),
        weights_md5=made.md5,
        weights_size=made.size,
        residual=outcome.residual,
        notes=[*notes, *outcome.notes, *said, *_rank_note(recipe, inputs, outcome)],
        layers=[ModuleResidual(m.module, m.rank, m.inputs, m.residual) for m in outcome.modules],
        verdict=verdict,
        search=evolved.report if evolved else None,
    )


def _settings(recipe: Recipe) -> dict[str, float | int | str]:
    known = {"density": recipe.settings.density, "seed": recipe.settings.seed}
    found: dict[str, float | int | str] = {key: known[key] for key in recipe.strategy.settings}
    return found if recipe.rank is None else {**found, "rank": recipe.rank}


def _rank_note(recipe: Recipe, inputs: Sequence[Input], outcome: Outcome) -> list[str]:
    largest = max((i.opened.adapter.config.rank or 0) for i in inputs)
    if not recipe.is_exact or outcome.rank <= largest:
        return []
    return [f"rank {outcome.rank} holds the sum exactly; --rank {largest} for servers with a limit"]


def recipe_lines(
    recipe: Recipe,
    settings: Mapping[str, float | int | str],
    inputs: Sequence[Input],
    base: Path | None = None,
    selection: Selection | None = None,
) -> list[str]:
    """What suffices to make the adapter again: every setting, and each input by its digest."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    lines = [f"strategy {recipe.name}", f"space {recipe.space}", f"settings {text}"]
    if base is not None:
        lines.append(f"base-weights {base.name}")
    if selection is not None:
        lines += [f"without {json.dumps(glob)}" for glob in selection.without]
        lines += [f"keep md5:{md5} {json.dumps(glob)}" for md5, glob in selection.keep]
    for found in inputs:
        adapter = found.opened.adapter
        where = f"{adapter.commit}:{adapter.path}" if adapter.commit else Path(adapter.path).name
        weight = found.groups.text() if found.groups else repr(found.weight)
        lines.append(f"input {weight} md5:{found.digest} {json.dumps(where)}")
    return lines


def rebuild(workspace: Workspace, snapshot: Snapshot, manifest: Manifest, output: Path) -> None:
    """Make a merged adapter again from its manifest's recipe, into `output`.

    Inputs are found by the digest of their weights: at the commit the recipe names, else
    among the adapters of `snapshot` and of the tips of all refs.
    """
    from soup_git.storage.mergeselection import Selection

    values: dict[str, str] = {}
    inputs: list[tuple[str, str, str]] = []
    without: list[str] = []
    keep: list[tuple[str, str]] = []
    for line in manifest.recipe:
        key, _, value = line.partition(" ")
        if key == "input":
            weight, digest, where = value.split(" ", 2)
            inputs.append((weight, digest.removeprefix("md5:"), json.loads(where)))
        elif key == "without":
            without.append(json.loads(value))
        elif key == "keep":
            digest, glob = value.split(" ", 1)
            keep.append((digest.removeprefix("md5:"), json.loads(glob)))
        else:
            values[key] = value
    if "base-weights" in values:
        raise FatalError(
            f"this merge read the weights of its base model, {values['base-weights']}",
            hint="git soup merge --base DIR with the recipe that git soup show prints",
        )
    settings = json.loads(values["settings"])
    weights = [parse_weights(weight) for weight, _, _ in inputs]
    request = MergeRequest(
        specs=[_find_input(workspace, snapshot, md5, where) for _, md5, where in inputs],
        output=output,
        strategy=values["strategy"],
        weights=",".join("1.0" if isinstance(w, dict) else repr(w) for w in weights),
        density=settings.get("density"),
        seed=settings.get("seed"),
        rank=str(settings["rank"]) if "rank" in settings else None,
        allow_cross_base=True,
    )
    recipe = replace(_recipe(request), space=values["space"])
    adapters = with_weights(workspace, [workspace.adapter(spec) for spec in request.specs])
    selection = Selection(tuple(without), tuple(keep))
    opened, notes = _opened(workspace, adapters, _weights(request), recipe, selection)
    if "per_group" in settings:
        groups = Grouping(settings["per_group"], settings["layers"])
        known = {md5: w for (_, md5, _), w in zip(inputs, weights, strict=True)}
        opened = [_in_groups(found, known[found.digest], groups) for found in opened]
    _written(request, recipe, opened, notes, selection=selection)


def _in_groups(found: Input, weights: float | dict[str, float], groups: Grouping) -> Input:
    """The input with its weight in each group, where it has several."""
    if not isinstance(weights, dict):
        return found
    return replace(found, groups=GroupWeights(groups, weights))


def _find_input(workspace: Workspace, snapshot: Snapshot, md5: str, where: str) -> str:
    commit, colon, _ = where.partition(":")
    if colon and workspace.git.resolve(commit) is not None:
        return where
    tips = {snapshot.label, *workspace.git.refs("refs/heads", "refs/tags", "refs/soup").values()}
    for tip in sorted(tips, key=lambda tip: tip != snapshot.label):
        there = workspace.at(tip)
        for folder in there.adapters:
            if there.manifest(folder).weights_md5 == md5:
                return f"{workspace.git.commit(tip)}:{folder}"
    raise FatalError(
        f"the input {where} (md5:{md5}) of this merge is in no branch, tag or run",
        hint="git soup add its folder and commit it, then again",
    )
