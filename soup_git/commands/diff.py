"""`git soup diff A B`: how far two adapters are apart, module by module, on their updates."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from soup_git.commands.fetching import with_weights
from soup_git.core.adapter import INIT, module_of
from soup_git.core.drift import (
    DriftSummary,
    LayerDrift,
    cosine_of,
    ratio,
)
from soup_git.core.kinds import NO_PRODUCT
from soup_git.core.targets import targets_of
from soup_git.core.text import counted
from soup_git.errors import FatalError
from soup_git.render.drift import drift_map, drift_table, moved
from soup_git.render.heatmap import HeatMap
from soup_git.render.report import Table
from soup_git.storage.resolver import Adapter, other_adapters, path_among
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.arithmetic.factors import Comparison, Update
    from soup_git.storage.updates import OpenAdapter, Unit

ROWS_IN_TABLE = 20
_WORKERS = 2
_SHARE = 8  # modules that a worker takes at once


@dataclass(frozen=True)
class DriftReport:
    schema: ClassVar[str] = "soup.diff/1"
    layers: list[LayerDrift]
    """By drift, the largest first; modules that only b has come before all."""
    summary: DriftSummary

    @property
    def title(self) -> str:
        return f"{self.summary.a} -> {self.summary.b}"

    @property
    def differs(self) -> bool:
        s = self.summary
        return s.changed + s.added + s.removed + s.reshaped > 0

    def tables(self) -> Sequence[Table | str]:
        s = self.summary
        base = (
            s.base_b or "-" if s.base_a == s.base_b else f"{s.base_a or '-'} -> {s.base_b or '-'}"
        )
        if s.equal:
            return [
                self.title,
                f"the same adapter: {s.modules} modules, equal weights and config",
                *s.notes,
            ]
        differ = s.changed + s.added + s.removed + s.reshaped
        hidden = differ - len(moved(self.layers))
        more = f"… {hidden} more (--top-k {differ}; --format html for the map)" if hidden else ""
        return [f"{self.title}   base {base}   {s.counts}", self.table(more), *s.notes]

    def table(self, more: str) -> Table:
        """A row per module that differs, and the total; `more` says below what is left out."""
        return drift_table(self.layers, self.summary, more)

    def heat_maps(self) -> list[HeatMap]:
        return [] if self.summary.equal else [drift_map(self.layers)]

    def top(self, count: int) -> DriftReport:
        """The `count` modules that drifted most; the summary stays the whole adapter's."""
        return replace(self, layers=self.layers[:count])


def diff(workspace: Workspace, a: str, b: str, adapter_path: str | None = None) -> DriftReport:
    """Compare two adapter specs; adapters with equal digests are not opened.

    Of revisions that have several, the one that alone differs is compared, and named.
    """
    path = path_among(workspace, (a, b), adapter_path)
    found = [workspace.adapter(spec, path) for spec in (a, b)]
    if path is None or adapter_path is not None:
        return compare(*with_weights(workspace, found))
    found = [replace(one, spec=_with_path(one)) for one in found]
    report = compare(*with_weights(workspace, found))
    others = _beside(*other_adapters(workspace, (a, b), path))
    return replace(report, summary=replace(report.summary, notes=[*report.summary.notes, *others]))


def _beside(equal: int, moved: Sequence[str]) -> list[str]:
    """What a comparison of one adapter leaves unsaid of the others of its revisions."""
    said = [f"the other {counted(equal, 'adapter')} of these revisions: equal"] if equal else []
    if moved:
        said.append(f"not compared here, and different too: {', '.join(moved)} (--adapter PATH)")
    return said


def _with_path(adapter: Adapter) -> str:
    """The spec with the adapter that was found for it."""
    if adapter.commit is None or ":" in adapter.spec or adapter.spec.startswith("run/"):
        return adapter.spec
    return f"{adapter.spec}:{adapter.path}"


def compare(first: Adapter, second: Adapter) -> DriftReport:
    if first.manifest.digest() == second.manifest.digest():
        return _equal(first, second)
    from soup_git.storage.updates import open_adapter

    a, b = open_adapter(first), open_adapter(second)
    pairs = _pairs(a, b)
    found = _measured(pairs)
    _refuse_other_models(a, b, found)
    found.sort(key=lambda m: (-_rank_key(m.layer), -(m.layer.frobenius or 0.0), m.layer.module))
    return DriftReport([m.layer for m in found], _summary(a, b, found, _notes(a, b, pairs, found)))


def change_of(
    first: Adapter, second: Adapter, modules: Collection[str]
) -> dict[str, tuple[float, float]]:
    """Module -> (‖ΔW_b − ΔW_a‖, ‖ΔW_a‖), for these modules alone.

    A tensor that is no factor of an update counts with the module that it belongs to. A
    module of which something has another shape in each is left out.
    Raises `FatalError` as `compare` does.
    """
    from soup_git.storage.updates import open_adapter

    found: dict[str, list[_Measured]] = {}
    pairs = [(_module(p), p) for p in _pairs(open_adapter(first), open_adapter(second))]
    wanted = [(module, pair) for module, pair in pairs if module in modules]
    for (module, _), one in zip(wanted, _measured([pair for _, pair in wanted]), strict=True):
        found.setdefault(module, []).append(one)
    changes: dict[str, tuple[float, float]] = {}
    for module, parts in found.items():
        moves = [m.layer.frobenius for m in parts if m.layer.frobenius is not None]
        if len(moves) == len(parts):
            changes[module] = math.hypot(*moves), math.hypot(*(m.norm_a for m in parts))
    return changes


def _module(pair: _Pair) -> str:
    unit = pair.a or pair.b
    return module_of(unit.tensors[0]) if unit is not None else pair.module


def _refuse_other_models(a: OpenAdapter, b: OpenAdapter, found: Sequence[_Measured]) -> None:
    """Raise where nothing that both have can be compared: the adapters are for other models."""
    both = [m.layer for m in found if m.layer.status not in {"added", "removed"}]
    if not both or any(layer.status != "reshaped" for layer in both):
        return
    name = both[0].module
    one, two = (_shapes(opened, name) for opened in (a, b))
    raise FatalError(
        f"{a.spec} and {b.spec} are for models of different shapes: {name} is {one} and {two}, and"
        f" so are all {len(both)} that both have" if len(both) > 1 else
        f"{a.spec} and {b.spec} have {name} alone in common, and it is {one} and {two}",
        hint=f"git soup show {a.spec}, and git soup show {b.spec}, name base and shapes of each",
    )  # fmt: skip


def _shapes(opened: OpenAdapter, name: str) -> str:
    unit = opened.units()[name]
    if unit.is_update:
        return " and ".join(dict.fromkeys("x".join(map(str, u.shape)) for u in unit.load()))
    return "x".join(map(str, opened.tensors[unit.tensors[0]].shape)) or "scalar"


def _rank_key(layer: LayerDrift) -> float:
    return math.inf if layer.relative_drift is None else layer.relative_drift


def _equal(first: Adapter, second: Adapter) -> DriftReport:
    """Equal digests: known from two texts, with no weights and no numpy."""
    names = first.manifest.modules
    targets = targets_of(first.config, first.manifest.tensors) if first.config.is_lora else {}
    ranks = {name: targets[name].rank for name in targets}
    layers = [
        LayerDrift(name, "same", 0.0, 0.0, None, ranks.get(name), ranks.get(name), None, None, None)
        for name in names
    ]
    base = first.config.base_model
    count = len(names)
    summary = DriftSummary(
        first.spec, second.spec, base, base, True, count, 0, count, 0, 0,
        None, None, 0.0, 0.0, None, [],
    )  # fmt: skip
    return DriftReport(layers, summary)


# -- what is compared with what ---------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    layer: LayerDrift
    norm_a: float
    norm_b: float
    inner: float


@dataclass(frozen=True)
class _Pair:
    """One row: what `a` and `b` have under a name, and whether its bytes are equal."""

    module: str
    a: Unit | None
    b: Unit | None
    same: bool

    is_tensor_reshaped: bool = False
    """A tensor that is no factor has another shape in each."""

    def load(self) -> tuple[list[Update], list[Update], bool] | None:
        """What is compared; None where the two have other shapes."""
        from soup_git.arithmetic.factors import check_shapes

        if self.is_tensor_reshaped:
            return None
        a, b = (unit.load() if unit else [] for unit in (self.a, self.b))
        try:
            check_shapes(a, b)
        except ValueError:
            return None
        return a, b, self.same

    def reshaped(self) -> _Measured:
        ranks = [self._rank(unit.load()) if unit else None for unit in (self.a, self.b)]
        layer = LayerDrift(
            self.module, "reshaped", None, None, None, ranks[0], ranks[1], None, None, None
        )
        return _Measured(layer, 0.0, 0.0, 0.0)

    def measured(self, found: Comparison, a: list[Update], b: list[Update]) -> _Measured:
        return _Measured(self._layer(found, a, b), found.norm_a, found.norm_b, found.inner)

    def _layer(self, found: Comparison, a: list[Update], b: list[Update]) -> LayerDrift:
        from soup_git.arithmetic.factors import effective_rank

        both = [(a, found.squares_a), (b, found.squares_b), (a or b, found.squares_difference)]
        used = [effective_rank(squares) if side else None for side, squares in both]
        if not self.is_update:
            used = [None, None, None]
        status = "added" if not a else "removed" if not b else "changed"
        if a and b and (self.same or found.norm_difference == 0.0):
            status = "same"
        return LayerDrift(
            self.module, status, found.norm_difference,
            ratio(found.norm_difference, found.norm_a),
            cosine_of(found.inner, found.norm_a, found.norm_b),
            self._rank(a), self._rank(b), *used,
        )  # fmt: skip

    @property
    def is_update(self) -> bool:
        return all(unit.is_update for unit in (self.a, self.b) if unit)

    def _rank(self, updates: list[Update]) -> int | None:
        return updates[0].rank if updates and self.is_update else None


def _measured(pairs: Sequence[_Pair]) -> list[_Measured]:
    """Of each pair, in order, by two workers."""
    shares = [pairs[i : i + _SHARE] for i in range(0, len(pairs), _SHARE)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        return [one for share in pool.map(_measure, shares) for one in share]


def _measure(pairs: Sequence[_Pair]) -> list[_Measured]:
    from soup_git.arithmetic.factors import compare_modules

    loaded = [pair.load() for pair in pairs]
    comparable = [one for one in loaded if one is not None]
    found = iter(compare_modules(comparable))
    return [
        pair.reshaped() if one is None else pair.measured(next(found), one[0], one[1])
        for pair, one in zip(pairs, loaded, strict=True)
    ]


def _pairs(a: OpenAdapter, b: OpenAdapter) -> list[_Pair]:
    first, second = a.units(), b.units()
    pairs = []
    for name in dict.fromkeys([*first, *second]):
        one, two = first.get(name), second.get(name)
        same, moved = _same(a, b, one, two), _is_tensor_reshaped(a, b, one, two)
        pairs.append(_Pair(name, one, two, same, moved))
    return pairs


def _is_tensor_reshaped(
    a: OpenAdapter, b: OpenAdapter, first: Unit | None, second: Unit | None
) -> bool:
    """Whether two tensors that are no factors have other shapes; known from the manifests."""
    if first is None or second is None or (first.is_update and second.is_update):
        return False
    one, two = (
        [opened.tensors[n].shape for n in u.tensors] for opened, u in ((a, first), (b, second))
    )
    return one != two


def _same(a: OpenAdapter, b: OpenAdapter, first: Unit | None, second: Unit | None) -> bool:
    """Whether bytes and scaling are equal, known from the manifests."""
    if first is None or second is None or first.scale != second.scale:
        return False
    one, two = (
        [opened.tensors[n] for n in unit.tensors] for opened, unit in ((a, first), (b, second))
    )
    return [(t.shape, t.dtype, t.sha256) for t in one] == [
        (t.shape, t.dtype, t.sha256) for t in two
    ]


def _notes(
    a: OpenAdapter, b: OpenAdapter, pairs: Sequence[_Pair], found: Sequence[_Measured]
) -> list[str]:
    inits = {o.spec: o.adapter.config.options.get(INIT) for o in (a, b)}
    notes = [
        f"{spec} was initialised with {init}, which changes the base too: its factors are compared, which"
        " are not its update of the base"
        for spec, init in inits.items()
        if init
    ]
    others = [pair.module for pair in pairs if not pair.is_update]
    if others:
        count = f"{len(others)} tensor{'s' if len(others) > 1 else ''}"
        notes.append(f"{count} compared as numbers, not as an update of the base: {_some(others)}")
    reshaped = [m.layer.module for m in found if m.layer.status == "reshaped"]
    if reshaped:
        listed = [f"{n} ({_shapes(a, n)} and {_shapes(b, n)})" for n in reshaped[:3]]
        notes.append(
            f"of another shape in each, and in no total: {_some([*listed, *reshaped[3:]])}"
        )
    one, two = a.adapter.config, b.adapter.config
    if one.dora or two.dora:
        notes.append("DoRA: a module's row is of s·B·A, which its magnitude then scales")
    variants = dict.fromkeys(c.no_product for c in (one, two) if c.no_product)
    notes += [f"{key}: a module has no update by itself, {NO_PRODUCT[key]}" for key in variants]
    for key in dict.fromkeys([*one.options, *two.options]):
        values = one.options.get(key), two.options.get(key)
        if key != INIT and values[0] != values[1]:
            said = " and ".join(json.dumps(value)[:60] for value in values)
            notes.append(f"the configs differ in {key}: {said}")
    return [
        *notes,
        *(f"{o.spec} {o.adapter.config.ignored}" for o in (a, b) if o.adapter.config.ignored),
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _summary(
    a: OpenAdapter, b: OpenAdapter, found: Sequence[_Measured], notes: list[str]
) -> DriftSummary:
    status = Counter(m.layer.status for m in found)
    moves = [m.layer.frobenius or 0.0 for m in found]
    norm_a, norm_b, total = (
        math.sqrt(sum(x * x for x in values))
        for values in (
            [m.norm_a for m in found], [m.norm_b for m in found], moves,
        )
    )  # fmt: skip
    inner = sum(m.inner for m in found)
    return DriftSummary(
        a.spec, b.spec, a.adapter.config.base_model, b.adapter.config.base_model,
        False, len(found), status["changed"], status["same"], status["added"], status["removed"],
        norm_a, norm_b, total, ratio(total, norm_a), cosine_of(inner, norm_a, norm_b), notes,
        status["reshaped"],
    )  # fmt: skip
