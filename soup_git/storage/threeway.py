"""Adapters merged with their common ancestor: the weights in the cache before a text names them.

Every driver asks here, each by itself, and all get the same weights: what is computed
depends on the manifests and the settings alone, and is remembered, so that the second
driver of a merge computes nothing. numpy is loaded where there are weights to write.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.digests import sha256_hex
from soup_git.core.manifest import Manifest, config_bytes, make_manifest, parse_manifest
from soup_git.core.provenance import Provenance
from soup_git.core.targets import rank_axis
from soup_git.core.text import canonical_json
from soup_git.core.threeway import (
    GROW,
    ORIGIN,
    STEP,
    Choice,
    Clash,
    Combination,
    ConflictError,
    Decision,
    decide,
    parse_combination,
    parse_recipe,
    pick,
    recipe_lines,
    whole,
)
from soup_git.errors import FatalError
from soup_git.storage.manifests import ManifestIndex
from soup_git.storage.resolver import Adapter
from soup_git.storage.workspace import Workspace

_CONFIG_PREFIX = "soup.merge."
_METHOD = "2"
"""Of what is remembered: another number forgets results that were computed otherwise."""
WRITES_CONFIGS = "writesconfigs"
"""A setting of `git soup merge REV` for the drivers of its git: the configs follow the manifests."""
_NO_CONFIG = (
    "soup.merge.rank is grow, and git merge alone cannot write a new rank into adapter_config.json"
)
_BY_SOUP = "git merge --abort, then git soup merge REV; or git -c soup.merge.rank=keep merge REV"
NO_ORIGIN = "both sides added this adapter, and there is no common version to start from"
BY_HAND = "git soup merge A B -o DIR merges two adapters without a common ancestor"


@dataclass(frozen=True)
class Merged:
    manifest: Manifest
    choices: tuple[Choice, ...]
    """Sides are numbered as they were given."""
    residual: float | None = None
    """‖what the rank cost‖/‖merged‖ over the combined modules; None where none was combined."""
    lost: float = 0.0
    """‖what the rank cost‖/‖merged − origin‖ over them."""


class Merger:
    """Three-way merges of this workspace's adapters, as `git config soup.merge.*` says."""

    def __init__(
        self,
        workspace: Workspace,
        fetch: Callable[[Workspace, list[str]], object],
        how: Combination | None = None,
        *,
        writes_configs: bool = False,
    ) -> None:
        """`fetch` may bring objects into the cache before weights are computed from them.

        `writes_configs` says that whoever asks gives the adapters' configs the ranks of the result.
        """
        self._workspace = workspace
        self._fetch = fetch
        self._how = how
        self._is_written = writes_configs

    @cached_property
    def _settings(self) -> dict[str, str]:
        return read_settings(self._workspace)

    @cached_property
    def how(self) -> Combination:
        return self._how or parse_combination(self._settings)

    @property
    def _writes_configs(self) -> bool:
        return self._is_written or self._settings.get(WRITES_CONFIGS) == "true"

    @cached_property
    def index(self) -> ManifestIndex:
        return ManifestIndex(self._workspace.git)

    @cached_property
    def _provenance(self) -> Provenance:
        return Provenance(self.index.find)

    def weights(self, origin: str | None, sides: Sequence[str | None]) -> tuple[str, int] | None:
        """The merged (md5, size) of weights that are named by md5; None where they are deleted.

        Size is 0 where no manifest had to be read. Raises as `adapters` does, and where no
        manifest, or two that differ, describe an md5.
        """
        agreed, md5 = pick(origin, sides)
        if agreed:
            return None if md5 is None else (md5, 0)
        if origin is None:
            raise ConflictError([Clash("", NO_ORIGIN)], hint=BY_HAND)
        there = [side for side in sides if side is not None]
        if len(there) < len(sides):
            reason = "deleted on one side and changed on the other"
            raise ConflictError(
                [Clash("", reason)],
                hint="git checkout HEAD -- DIR, or MERGE_HEAD, takes one side's adapter whole",
            )
        merged = self.adapters(self.index.find(origin), [self.index.find(md5) for md5 in there])
        return merged.manifest.weights_md5, merged.manifest.weights_size

    def adapters(self, origin: Manifest | None, sides: Sequence[Manifest]) -> Merged:
        """Merge; the result's weights are in the cache when this returns.

        Raises `ConflictError` where the versions clash, `FatalError` where weights are missing.
        """
        if all(side.digest() == sides[0].digest() for side in sides):
            return Merged(min(sides, key=Manifest.text), ())
        if origin is None:
            raise ConflictError([Clash("", NO_ORIGIN)], hint=BY_HAND)
        clashes = decide(origin, sides).clashes
        if clashes:
            raise ConflictError(clashes, hint=BY_HAND)
        weighted = list(zip(sides, self.how.of_sides(len(sides)), strict=True))
        # The order of the sides decides no byte: merging back and forth is one adapter.
        order = sorted(range(len(sides)), key=lambda i: _place(*weighted[i]))
        merged = self._in_order(origin, [weighted[i] for i in order])
        return replace(merged, choices=tuple(_renumbered(c, order) for c in merged.choices))

    def _in_order(
        self, origin: Manifest, weighted: Sequence[tuple[Manifest, float | None]]
    ) -> Merged:
        sides = [side for side, _ in weighted]
        decision = decide(origin, sides)
        taken = whole(decision, origin, sides)
        if taken is not None:
            return Merged(_with_header(taken, decision), decision.choices)
        if self._how is STEP:
            again = self._provenance.known_result(
                decision, origin, sides, [weight for _, weight in weighted]
            )
            if again is not None:
                return Merged(again, decision.choices)
        if self.how.rank == GROW and not self._writes_configs and _has_factors(decision, sides):
            raise ConflictError([Clash("", _NO_CONFIG)], hint=_BY_SOUP)
        key = self._key(origin, weighted)
        known = self._remembered(key)
        if known is None:
            known = self._computed(decision, origin, weighted)
            blob = self._workspace.git.write_blob(known.manifest.text().encode())
            self._workspace.facts.put(key, f"{blob}:{known.residual!r}:{known.lost!r}")
        return replace(known, choices=decision.choices)

    def _key(self, origin: Manifest, weighted: Sequence[tuple[Manifest, float | None]]) -> str:
        how = [self.how.strategy, self.how.density, self.how.seed, self.how.rank]
        sides = [[side.digest(), weight] for side, weight in weighted]
        text = canonical_json([_METHOD, how, origin.digest(), sides])
        return f"threeway:{sha256_hex(text.encode())}"

    def _remembered(self, key: str) -> Merged | None:
        """An earlier result whose manifest and weights are still here."""
        blob, residual, lost = ((self._workspace.facts.get(key) or "") + "::").split(":")[:3]
        data = self._workspace.git.blob(blob) if blob else None
        if data is None:
            return None
        manifest = parse_manifest(data, "an earlier merge")
        place = self._workspace.dvc.object_path(manifest.weights_md5)
        if not place.is_file() or place.stat().st_size != manifest.weights_size:
            return None
        return Merged(manifest, (), None if residual == "None" else float(residual), float(lost))

    def _computed(
        self,
        decision: Decision,
        origin: Manifest,
        weighted: Sequence[tuple[Manifest, float | None]],
    ) -> Merged:
        from soup_git.storage.combining import settings_of, write_combined

        workspace = self._workspace
        self._fetch(workspace, [m.weights_md5 for m in (origin, *(side for side, _ in weighted))])
        place = workspace.git.common_dir / "soup"
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="merge-", dir=place) as folder:
            file = Path(folder, "merged")
            written = write_combined(workspace, file, decision, origin, weighted, self.how)
            found = workspace.store_weights(file, "the merged weights")
        if not found.is_finite:
            raise FatalError("the merged weights are not finite", hint="smaller soup.merge.weights")
        manifest = make_manifest(
            parse_adapter_config(written.config, "the merged header"),
            found.tensors,
            weights_md5=found.md5,
            weights_size=found.size,
            recipe=recipe_lines(self.how, settings_of(self.how), origin, weighted),
            facts=decision.facts,
        )
        return Merged(manifest, (), written.residual, written.lost)


def rebuild(workspace: Workspace, manifest: Manifest, file: Path, where: str) -> None:
    """Write the weights of a merge with an origin to `file`, from its recipe."""
    from soup_git.storage.combining import write_combined

    recipe = parse_recipe(manifest, where)
    origin = _described(workspace, *recipe.origin)
    sides = [_described(workspace, *version) for version in recipe.sides]
    weighted = list(zip(sides, recipe.weights, strict=True))
    write_combined(workspace, file, decide(origin, sides), origin, weighted, recipe.how)


def _described(workspace: Workspace, md5: str, config: bytes) -> Manifest:
    """The manifest of weights in the cache, as it was when they were merged."""
    place = workspace.dvc.object_path(md5)
    if not place.is_file():
        raise FatalError(
            f"the recipe's weights md5:{md5} are not in the DVC cache",
            hint="git soup pull, or dvc fetch --all-commits",
        )
    found = workspace.fingerprint(place)
    return make_manifest(
        parse_adapter_config(config, "the recipe"),
        found.tensors,
        weights_md5=found.md5,
        weights_size=found.size,
        where="the recipe",
    )


def adapter_of(workspace: Workspace, manifest: Manifest, label: str) -> Adapter:
    """An adapter of which there is a manifest only: its config is what the header says.

    Raises `FatalError` where its weights are not here, or have other bytes than their name says.
    """
    md5 = manifest.weights_md5
    place = workspace.dvc.object_path(md5)
    if not place.is_file():
        raise FatalError(
            f"the weights of {label} (md5:{md5}) are not in the DVC cache",
            hint="git merge --abort, git soup pull (or dvc fetch --all-commits), then merge again",
        )
    if workspace.md5(place) != md5:
        raise FatalError(
            f"the weights of {label} are damaged: {place} has other bytes than md5:{md5}",
            hint=f"rm {place}, then dvc fetch --all-commits gets it again",
        )
    data = config_bytes(manifest.header)
    config = parse_adapter_config(data, f"the manifest of {label}")
    return Adapter(label, label, label, None, data, config, manifest, place)


def read_settings(workspace: Workspace) -> dict[str, str]:
    """`git config soup.merge.*`, the last value of each key; what `git -c` says included."""
    done = workspace.git.run("config", "-z", "--get-regexp", r"^soup\.merge\.", check=False)
    pairs = (entry.partition("\n") for entry in done.stdout.decode(errors="replace").split("\0"))
    return {key.removeprefix(_CONFIG_PREFIX): value for key, _, value in pairs if key}


def _has_factors(decision: Decision, sides: Sequence[Manifest]) -> bool:
    """Whether a sum of updates is to be made: whole tensors have no rank to grow."""
    combined = {choice.module for choice in decision.combined}
    return any(t.module in combined and rank_axis(t.name) is not None for t in sides[0].tensors)


def _place(side: Manifest, weight: float | None) -> tuple[str, str, float]:
    return side.weights_md5, side.digest(), weight or 0.0


def _with_header(taken: Manifest, decision: Decision) -> Manifest:
    """A version's weights under the merged header: one side may have changed alpha alone."""
    config = parse_adapter_config(decision.config, "the merged header")
    return make_manifest(
        config,
        taken.tensors,
        weights_md5=taken.weights_md5,
        weights_size=taken.weights_size,
        recipe=taken.recipe,
        facts=decision.facts,
        where="the merged header",
    )


def _renumbered(choice: Choice, order: Sequence[int]) -> Choice:
    source = choice.source if choice.source == ORIGIN else order[choice.source]
    return replace(choice, source=source, changed_by=tuple(order[i] for i in choice.changed_by))
