"""The weights of a merge with an origin, module by module: bytes where one version has them,
arithmetic where several changed a module.

With ΔW_0 of the origin and task vectors τ_i = ΔW_i − ΔW_0 the result is ΔW_0 + merge(τ_1 …),
brought back to the module's rank by its best approximation. Linear strategies never form
a τ: ΔW_0 + Σ c(ΔW_i − ΔW_0) = (1 − Σ c)·ΔW_0 + Σ c·ΔW_i is a weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from soup_git.arithmetic.elementwise import Settings
from soup_git.arithmetic.factors import Update
from soup_git.arithmetic.floats import Array, Stored, to_bits, widest, work_dtype
from soup_git.arithmetic.lowrank import LowRank, weighted_sum
from soup_git.arithmetic.merging import Task, merge
from soup_git.arithmetic.strategies import STRATEGIES, Linear, Strategy, as_given
from soup_git.core.manifest import Manifest, Tensor
from soup_git.core.threeway import GROW, KEEP, ORIGIN, Combination, Decision, distinct, modules_of
from soup_git.errors import FatalError
from soup_git.storage.growth import grown_config, largest_rank, with_rank
from soup_git.storage.tensors import Slot, TensorWriter
from soup_git.storage.threeway import adapter_of
from soup_git.storage.updates import Module, OpenAdapter, open_adapter
from soup_git.storage.workspace import Workspace

_WORKERS = 2
# A residual below this share of the merged update is rounding: the rank holds it.
_HELD = 1e-6


@dataclass(frozen=True)
class _Version:
    """One side of a module that several changed."""

    opened: OpenAdapter
    weight: float


@dataclass(frozen=True)
class _Joint:
    """A module to combine: the origin and the versions that differ from it and each other."""

    name: str
    origin: OpenAdapter
    versions: Sequence[_Version]
    strategy: Strategy
    settings: Settings
    rank: int | None = None
    """Of the result, where it is another than that of the versions."""

    @property
    def weights(self) -> list[float]:
        return [version.weight for version in self.versions]

    @property
    def opened(self) -> list[OpenAdapter]:
        """The origin, and the versions."""
        return [self.origin, *(version.opened for version in self.versions)]

    @property
    def has_origin(self) -> bool:
        """Whether the origin is a part of the result: in a plain mean it cancels."""
        is_given = getattr(self.strategy.method, "coefficients", None) is as_given
        return not is_given or abs(1.0 - sum(self.weights)) >= 1e-12

    def dtype_of(self, tensor: str) -> str:
        return widest({v.opened.file.entries[tensor].dtype for v in self.versions})


def strategy_of(how: Combination) -> Strategy:
    found = STRATEGIES.get(how.strategy)
    if found is None:
        raise FatalError(
            f"soup.merge.strategy is {how.strategy!r}, which is no strategy",
            hint="git soup merge --list",
        )
    if found.searches:
        raise FatalError(
            f"{how.strategy} searches by a suite, and a merge of branches has none",
            hint=f"git soup merge A B -o DIR --strategy {how.strategy} --eval SUITE",
        )
    return found


def settings_of(how: Combination) -> dict[str, float | int | str]:
    """What of density and seed the strategy reads; and the rank, where it may grow."""
    known: dict[str, float | int | str] = {"density": how.density, "seed": how.seed}
    read = {key: known[key] for key in strategy_of(how).settings}
    return read if how.rank == KEEP else {**read, "rank": how.rank}


@dataclass(frozen=True)
class Written:
    config: bytes
    """Of the result: that of the decision, or one with the ranks that it grew to."""
    residual: float | None
    """‖what the rank cost‖/‖merged‖ over the combined modules; None where none was combined."""
    lost: float
    """‖what the rank cost‖/‖merged − origin‖: the share of the step that is not in the result."""


@dataclass(frozen=True)
class _Norms:
    """Squares: of the merged update, of what the rank cost, of the step from the origin."""

    merged: float = 0.0
    lost: float = 0.0
    step: float = 0.0

    def __add__(self, other: _Norms) -> _Norms:
        return _Norms(self.merged + other.merged, self.lost + other.lost, self.step + other.step)


def _root_of_ratio(part: float, whole: float) -> float:
    return math.sqrt(part / whole) if whole else 0.0


def write_combined(
    workspace: Workspace,
    file: Path,
    decision: Decision,
    origin: Manifest,
    weighted: Sequence[tuple[Manifest, float | None]],
    how: Combination,
) -> Written:
    """Write the merged weights to `file`.

    Raises `FatalError` where weights are not in the cache, damaged, or too large for their dtype.
    """
    strategy = strategy_of(how)
    before = open_adapter(adapter_of(workspace, origin, "the merge base"))
    opened = [
        open_adapter(adapter_of(workspace, side, f"side {number}"))
        for number, (side, _) in enumerate(weighted, start=1)
    ]
    manifests, weights = zip(*weighted, strict=True)
    joints = [
        _Joint(
            c.module, before,
            [_Version(opened[side], float(w)) for side, w in distinct(c, manifests, weights)],
            strategy, Settings(how.density, how.seed),
        )
        for c in decision.combined
    ]  # fmt: skip
    config = decision.config
    if how.rank == GROW:
        joints, config = _grown(joints, decision, origin, manifests)
    copied = _copied(decision, origin, [side for side, _ in weighted], before, opened)
    slots = [Slot(t.name, t.dtype, t.shape) for t, _ in copied]
    slots += [slot for joint in joints for slot in _slots(joint)]
    with TensorWriter(file, sorted(slots, key=lambda slot: slot.name)) as out:
        for tensor, source in copied:
            out.put(tensor.name, source.file.raw(tensor.name))
        with ThreadPoolExecutor(_WORKERS) as pool:
            norms = sum(pool.map(lambda joint: _write(out, joint), joints), start=_Norms())
    return Written(
        config,
        _root_of_ratio(norms.lost, norms.merged) if joints else None,
        _root_of_ratio(norms.lost, norms.step),
    )


def _grown(
    joints: Sequence[_Joint], decision: Decision, origin: Manifest, sides: Sequence[Manifest]
) -> tuple[list[_Joint], bytes]:
    """The modules that their own rank cannot hold at the sum of their versions' ranks, and the config.

    Fused experts keep theirs: one number says the rank of all matrices of a parameter.
    """
    found = list(joints)
    for place, joint in enumerate(joints):
        first = joint.versions[0].opened
        module = first.modules.get(joint.name)
        if module is None or module.key != joint.name:
            continue
        updates = [o.updates(o.modules[joint.name])[0] for o in joint.opened]
        cut, _ = _combine(joint, updates[0], updates[1:], _own_rank(joint, module), -1)
        if cut.residual > _HELD * cut.norm:
            whole = sum(update.rank for update in updates[0 if joint.has_origin else 1 :])
            group = modules_of(first.adapter.manifest)[joint.name]
            found[place] = replace(joint, rank=min(whole, largest_rank(group)))
    ranks = {joint.name: joint.rank for joint in found if joint.rank is not None}
    if not ranks:
        return found, decision.config
    versions = [modules_of(side) for side in sides]
    before = modules_of(origin)
    tensors = [
        tensor
        for choice in decision.choices
        if choice.kind != "deleted"
        for tensor in (
            versions[choice.changed_by[0]] if choice.kind == "combined"
            else before if choice.source == ORIGIN else versions[choice.source]
        )[choice.module]
    ]  # fmt: skip
    return found, grown_config(decision.config, tensors, ranks)


def _own_rank(joint: _Joint, module: Module) -> int:
    return joint.versions[0].opened.file.entries[module.right].shape[0] // module.experts


def _copied(
    decision: Decision,
    origin: Manifest,
    sides: Sequence[Manifest],
    before: OpenAdapter,
    opened: Sequence[OpenAdapter],
) -> list[tuple[Tensor, OpenAdapter]]:
    """The tensors that stay as they are in one version, with that version."""
    groups = [modules_of(side) for side in sides]
    base = modules_of(origin)
    found = []
    for choice in decision.kept:
        is_origin = choice.source == ORIGIN
        source = before if is_origin else opened[choice.source]
        group = (base if is_origin else groups[choice.source])[choice.module]
        found += [(tensor, source) for tensor in group]
    return found


def _slots(joint: _Joint) -> list[Slot]:
    """As the first version has them: rank and shapes are the same in all."""
    first = joint.versions[0].opened
    group = modules_of(first.adapter.manifest)[joint.name]
    return [
        Slot(
            t.name, joint.dtype_of(t.name),
            t.shape if joint.rank is None else with_rank(t, joint.rank),
        )
        for t in group
    ]  # fmt: skip


def _write(out: TensorWriter, joint: _Joint) -> _Norms:
    """Combine and write one module."""
    first = joint.versions[0].opened
    factors = first.modules.get(joint.name)
    names = [t.name for t in modules_of(first.adapter.manifest)[joint.name]]
    try:
        if factors is None:
            for name in names:
                _write_entries(out, joint, name)
            return _Norms()
        others = set(names) - {factors.left, factors.right, factors.bias}
        for name in others:
            _write_entries(out, joint, name)
        if factors.bias is not None:
            _write_bias(out, joint, factors.bias)
        return _write_factors(out, joint, factors)
    except ValueError as error:
        raise FatalError(
            f"{joint.name} cannot be combined: {error}", hint="git soup diff A B"
        ) from None
    except OverflowError as error:
        raise FatalError(
            f"{joint.name}: {error}, the dtype of both sides", hint="smaller soup.merge.weights"
        ) from None


def _write_entries(out: TensorWriter, joint: _Joint, name: str) -> None:
    """Task arithmetic entry by entry: v_0 + Σ w·(v_i − v_0), which is exact for whole tensors."""
    start = joint.origin.file[name].read(work=np.float64)
    total = start + sum(
        v.weight * (v.opened.file[name].read(work=np.float64) - start) for v in joint.versions
    )
    out.put(name, to_bits(total, joint.dtype_of(name)))


def _write_bias(out: TensorWriter, joint: _Joint, name: str) -> None:
    """lora_bias comes with the scaling, as ΔW does: s·b is what is added up."""

    def scaled(opened: OpenAdapter) -> Array:
        bias = opened.file[name].read(work=np.float64)
        return bias * opened.modules[joint.name].scale

    start = scaled(joint.origin)
    total = start + sum(v.weight * (scaled(v.opened) - start) for v in joint.versions)
    scale = joint.versions[0].opened.modules[joint.name].scale or 1.0
    out.put(name, to_bits(total / scale, joint.dtype_of(name)))


def _write_factors(out: TensorWriter, joint: _Joint, module: Module) -> _Norms:
    experts = [opened.updates(opened.modules[joint.name]) for opened in joint.opened]
    rank = joint.rank or _own_rank(joint, module)
    lefts, norms = [], _Norms()
    for number, updates in enumerate(zip(*experts, strict=True)):
        found, step = _combine(
            joint, updates[0], updates[1:], rank, number if module.experts > 1 else -1
        )
        at = number * rank * updates[0].shape[1]
        out.put(module.right, to_bits(found.right, joint.dtype_of(module.right)), at)
        # A scaling of 0 makes any factor right: the update is 0.
        lefts.append(to_bits(found.left / (module.scale or 1.0), joint.dtype_of(module.left)))
        norms += _Norms(found.norm**2, found.residual**2, step**2)
    # PEFT interleaves the experts along B's rank axis.
    out.put(module.left, lefts[0] if len(lefts) == 1 else np.stack(lefts, axis=2))
    return norms


def _combine(
    joint: _Joint, origin: Update, updates: Sequence[Update], rank: int, expert: int
) -> tuple[LowRank, float]:
    """origin + merge(task vectors), the best approximation of rank `rank`; and ‖merge(task vectors)‖."""
    work = work_dtype(*(u.left.dtype for u in updates))
    method = joint.strategy.method
    if joint.strategy.inputs not in {None, len(updates)}:
        raise ValueError(f"the strategy takes {joint.strategy.inputs} versions, not {len(updates)}")
    if isinstance(method, Linear):
        weights = joint.weights
        if method.coefficients is not as_given:
            weights = method.coefficients([_task_vector(u, origin) for u in updates], weights)
        rest = 1.0 - sum(weights)
        # The origin cancels in a mean, and then costs nothing.
        parts = list(updates) if abs(rest) < 1e-12 else [origin, *updates]
        moved = weighted_sum([origin, *updates], [rest - 1.0, *weights], rank, work)
        return weighted_sum(parts, [rest, *weights][-len(parts) :], rank, work), moved.norm
    vectors = [_task_vector(u, origin) for u in updates]
    task = Task(
        name=joint.name if expert < 0 else f"{joint.name}.{expert}",
        updates=vectors,
        weights=joint.weights,
        digests=[v.opened.adapter.manifest.weights_md5 for v in joint.versions],
        rank=min(sum(v.rank for v in vectors), *origin.shape),
        work=work,
    )
    step = merge(task, joint.strategy, "shared", joint.settings)
    added = Update(Stored(step.left, _name(step.left)), Stored(step.right, _name(step.right)), 1.0)
    found = weighted_sum([origin, added], [1.0, 1.0], rank, work)
    return replace(found, residual=math.hypot(found.residual, step.residual)), step.norm


def _task_vector(update: Update, origin: Update) -> Update:
    """ΔW − ΔW_0 as factors; telescoped where the ranks are equal, so that a small step is exact.

    B·A − B_0·A_0 = B·(A − A_0) + (B − B_0)·A_0, the scalings folded into A.
    """
    left, left0 = (u.left.read(work=np.float64) for u in (update, origin))
    right, right0 = (u.right.read(work=np.float64) * u.scale for u in (update, origin))
    if update.rank == origin.rank:
        lefts, rights = (left, left - left0), (right - right0, right0)
    else:
        lefts, rights = (left, -left0), (right, right0)
    return Update(Stored(np.hstack(lefts), "F64"), Stored(np.vstack(rights), "F64"), 1.0)


def _name(values: Array) -> str:
    return "F64" if values.dtype == np.float64 else "F32"
