"""What a version is made of: the versions that were trained, each with its share.

A merge and a step that was put elsewhere are sums, and their recipes say of what. Read back,
the sums cancel exactly where the numbers, cut to a rank and rounded, would nearly cancel: a
step that was picked and is reverted leaves what was there before, byte for byte.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from soup_git.core.adapter import AdapterConfig
from soup_git.core.manifest import Manifest, Tensor, config_bytes
from soup_git.core.threeway import (
    DEFAULT_STRATEGY,
    ORIGIN,
    Choice,
    Decision,
    config_of,
    decide,
    distinct,
    has_origin,
    modules_of,
    parse_recipe,
    sorted_by_name,
)
from soup_git.errors import FatalError

MAX_VERSIONS = 64
"""That are followed back; what lies beyond counts as trained."""

Lookup = Callable[[str], Manifest]
"""A weights md5 -> its manifest; raises `FatalError` where there is none, or several."""

_Group = tuple[Tensor, ...]
_Trained = tuple[_Group, object]
"""One module's tensors, and the scaling they were trained with."""
_Sum = dict[_Trained, Fraction]


class _Version:
    """A manifest, read once: its modules and its config."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.modules = modules_of(manifest)
        self.key = manifest.weights_md5, config_bytes(manifest.header)

    @cached_property
    def _config(self) -> AdapterConfig:
        return config_of(self.manifest)

    def trained(self, module: str) -> _Trained:
        config = self._config
        scaling = config.rank_of(module), config.alpha_of(module), config.rslora
        return self.modules[module], scaling


@dataclass(frozen=True)
class _Made:
    """A linear merge: its versions, their weights, and what was decided for each module."""

    origin: _Version
    sides: Sequence[_Version]
    weights: Sequence[float | None]
    choices: Mapping[str, Choice]

    def source(self, choice: Choice) -> _Version:
        return self.origin if choice.source == ORIGIN else self.sides[choice.source]

    def parts(self, choice: Choice) -> list[tuple[_Version, Fraction]]:
        """What is added up to a module: Σ w·side + (1 − Σ w)·origin, or one version as it is."""
        if choice.kind != "combined":
            return [(self.source(choice), Fraction(1))]
        found = distinct(choice, [side.manifest for side in self.sides], self.weights)
        rest = 1 - sum((weight for _, weight in found), Fraction(0))
        return [(self.origin, rest), *((self.sides[side], weight) for side, weight in found)]


class Provenance:
    """Sums of trained versions, module by module."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._versions: dict[str, _Version] = {}
        self._made: dict[str, _Made | None] = {}
        self._sums: dict[tuple[tuple[str, bytes], str], _Sum] = {}

    def known_result(
        self,
        decision: Decision,
        origin: Manifest,
        sides: Sequence[Manifest],
        weights: Sequence[float | None],
    ) -> Manifest | None:
        """The version that a linear merge gives back whole; None where it is a new one."""
        versions = [_Version(side) for side in sides]
        merge = _merge(decision, _Version(origin), versions, weights)
        wanted: list[Tensor] = []
        for choice in decision.choices:
            if choice.kind == "combined":
                terms = list(self._total(merge, choice).items())
                if len(terms) != 1 or terms[0][1] != 1:
                    return None
                wanted += terms[0][0][0]
            elif choice.kind != "deleted":
                wanted += merge.source(choice).modules[choice.module]
        tensors = sorted_by_name(wanted)
        seen = [*sides, origin, *(version.manifest for version in self._versions.values())]
        equal = [m for m in seen if m.tensors == tensors and _means(m, decision)]
        return min(equal, key=Manifest.text, default=None)

    def _total(self, merge: _Made, choice: Choice) -> _Sum:
        total: _Sum = {}
        for version, share in merge.parts(choice):
            for trained, of_it in self._sum(version, choice.module).items():
                total[trained] = total.get(trained, Fraction(0)) + of_it * share
        return {trained: share for trained, share in total.items() if share}

    def _sum(self, version: _Version, module: str) -> _Sum:
        """What one module of a version is made of; itself alone where it was trained."""
        key = version.key, module
        if key not in self._sums:
            made = self._read(version)
            choice = made.choices.get(module) if made is not None else None
            self._sums[key] = (
                {version.trained(module): Fraction(1)}
                if made is None or choice is None
                else self._total(made, choice)
            )
        return self._sums[key]

    def _read(self, version: _Version) -> _Made | None:
        """Of what a version was merged; None of one that was trained, or cannot be followed."""
        md5 = version.manifest.weights_md5
        if md5 not in self._made:
            self._made[md5] = None
            if len(self._made) <= MAX_VERSIONS:
                # What history does not describe counts as trained.
                with contextlib.suppress(FatalError):
                    self._made[md5] = self._recipe(md5)
        return self._made[md5]

    def _recipe(self, md5: str) -> _Made | None:
        # The index and not the version at hand: every driver follows the same recipes.
        manifest = self._found(md5).manifest
        recipe = parse_recipe(manifest, "a recipe") if has_origin(manifest) else None
        if recipe is None or recipe.how.strategy != DEFAULT_STRATEGY:
            return None
        origin = self._found(recipe.origin[0])
        sides = [self._found(side) for side, _ in recipe.sides]
        decision = decide(origin.manifest, [side.manifest for side in sides])
        return None if decision.clashes else _merge(decision, origin, sides, recipe.weights)

    def _found(self, md5: str) -> _Version:
        if md5 not in self._versions:
            self._versions[md5] = _Version(self._lookup(md5))
        return self._versions[md5]


def _merge(
    decision: Decision,
    origin: _Version,
    sides: Sequence[_Version],
    weights: Sequence[float | None],
) -> _Made:
    choices = {c.module: c for c in decision.choices if c.kind != "deleted"}
    return _Made(origin, sides, weights, choices)


def _means(version: Manifest, decision: Decision) -> bool:
    """Whether a version says of its weights what the merged header says."""
    return config_bytes(version.header) == decision.config and version.facts == decision.facts
