"""Adapters in order: what a bisection searches through.

Named one by one, or as the revisions of a range, or as the checkpoints of a training run.
Of revisions only names and object ids are read here, so that thousands cost one process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.digests import sha256_hex
from soup_git.core.manifest import CONFIG, MANIFEST
from soup_git.core.spec import RunSpec, readings
from soup_git.errors import FatalError
from soup_git.storage.materials import Materials, materials
from soup_git.storage.resolver import Adapter, path_among
from soup_git.storage.several import choose
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace

_RANGE = re.compile(r"(?P<good>[^.].*?)(?P<dots>\.{2,3})(?P<bad>[^.].*|)")
_NOTHING = "no adapter"


@dataclass(frozen=True)
class Checkpoint:
    name: str
    """An adapter spec."""
    shown: str
    """The same, for people."""
    key: str
    """Equal keys: equal adapters, byte for byte."""
    commit: str | None
    path: str
    base: str | None
    """The base model that its config names."""
    ready: Materials | None = None

    @property
    def is_there(self) -> bool:
        """A revision of a range need not have the adapter."""
        return self.key != _NOTHING

    def materials(self, workspace: Workspace) -> Materials:
        if self.ready is not None:
            return self.ready
        return materials(workspace.adapter(f"{self.commit}:{self.path}"))


def checkpoints(
    workspace: Workspace, specs: Sequence[str], path: str | None
) -> tuple[Checkpoint, ...]:
    """At least two adapters in order, for one base model. `path` picks one of several.

    Raises `FatalError` for what does not exist, is out of order, or cannot be compared.
    """
    found = _listed(workspace, specs, path)
    if len(found) < 2:
        raise FatalError(
            f"a bisection needs two checkpoints or more, and {' '.join(specs)} gives {len(found)}",
            hint="git soup bisect C1 C2..., GOOD..BAD, or run/ID",
        )
    _check_bases(found)
    return tuple(found)


def _listed(workspace: Workspace, specs: Sequence[str], path: str | None) -> list[Checkpoint]:
    if len(specs) != 1 or Path(specs[0]).is_dir():
        return _named(workspace, specs, path)
    if found := _RANGE.fullmatch(specs[0]):
        if found["dots"] == "...":
            raise FatalError(
                f"{specs[0]} has no order: it is what either side has alone",
                hint=f"git soup bisect {found['good']}..{found['bad']}",
            )
        return _range(workspace, found["good"], found["bad"] or "HEAD", path)
    for reading in readings(specs[0]):
        if isinstance(reading, RunSpec) and reading.step is None:
            return _run(workspace, reading, path)
    return _named(workspace, specs, path)


# -- named one by one -------------------------------------------------------------------------


def _named(workspace: Workspace, specs: Sequence[str], path: str | None) -> list[Checkpoint]:
    path = path_among(workspace, specs, path)
    adapters = [workspace.adapter(spec, path) for spec in specs]
    _check_order(workspace, adapters)
    return [_of_adapter(adapter) for adapter in adapters]


def _of_adapter(adapter: Adapter) -> Checkpoint:
    ready = materials(adapter)
    folder = ready.folder or ""
    content = f"{sha256_hex(ready.config)} {sha256_hex(ready.manifest)} {folder}"
    return Checkpoint(
        name=adapter.spec,
        shown=adapter.spec,
        key=sha256_hex(content.encode()),
        commit=adapter.commit,
        path=adapter.path,
        base=adapter.config.base_model,
        ready=ready,
    )


def _check_order(workspace: Workspace, adapters: Sequence[Adapter]) -> None:
    """Folders have the order they are named in; revisions must not go back in time."""
    dated = [a for a in adapters if a.commit is not None]
    for earlier, later in pairwise(dated):
        if earlier.commit != later.commit and _is_ancestor(
            workspace, str(later.commit), str(earlier.commit)
        ):
            raise FatalError(
                f"{later.spec} comes before {earlier.spec} in history, and is named after it",
                hint="name the oldest first: git log --oneline --reverse",
            )


# -- a range of revisions ---------------------------------------------------------------------


def _range(workspace: Workspace, good: str, bad: str, path: str | None) -> list[Checkpoint]:
    """GOOD, and each commit up to BAD that changed the adapter, along first parents."""
    git = workspace.git
    first, last = git.commit(good), git.commit(bad)
    if first != last and _is_ancestor(workspace, last, first):
        raise FatalError(f"{bad} comes before {good}", hint=f"git soup bisect {bad}..{good}")
    if not _is_ancestor(workspace, first, last):
        raise FatalError(
            f"{good} is no ancestor of {bad}: nothing leads from one to the other",
            hint=f"git soup bisect $(git merge-base {good} {bad})..{bad}",
        )
    chain = git.lines("rev-list", "--first-parent", "--reverse", f"{first}..{last}")
    if chain and git.resolve(f"{chain[0]}^") != first:
        raise FatalError(
            f"{good} came into {bad} by a merge, and is not on its first-parent line",
            hint=f"git bisect start {bad} {good} && git bisect run git soup bisect-step"
            " --eval-command '...' follows every line",
        )
    path = path_among(workspace, [good, bad], path)
    folder = choose(workspace.git, bad, workspace.at(last, label=bad), last, path)
    listed = _of_commits(workspace, [(c, c, c[:10]) for c in [first, *chain]], folder)
    if not listed[0].is_there:
        raise FatalError(
            f"{good} has no adapter at {folder}",
            hint=f"git log --oneline --diff-filter=A -- {inside_folder(folder, MANIFEST)}"
            " tells when it came",
        )
    changed = [b for a, b in pairwise(listed) if a.key != b.key]
    if not changed:
        raise FatalError(
            f"no commit in {good}..{bad} changed the adapter at {folder}",
            hint=f"git log --oneline -- {folder} lists those that did",
        )
    return [listed[0], *changed]


# -- a training run ---------------------------------------------------------------------------


def _run(workspace: Workspace, run: RunSpec, path: str | None) -> list[Checkpoint]:
    git = workspace.git
    if git.resolve(run.ref) is None:
        raise FatalError(
            f"there is no training run {run.run}", hint="git for-each-ref refs/soup/runs"
        )
    form = "--format=%H%x00%(trailers:key=Soup-Step,valueonly,separator=%x2C)%x00%(trailers:key=Soup-Adapter,valueonly,separator=%x2C)"
    commits, folder = [], path
    for line in git.lines("log", "--first-parent", form, run.ref, "--"):
        commit, step, adapter = line.split("\0")
        if not step:
            break
        folder = folder or adapter
        commits.append((commit, f"run/{run.run}@{step}", f"step {step}"))
    return _of_commits(workspace, commits[::-1], os.path.normpath(folder or "."))


# -- both -------------------------------------------------------------------------------------


def _of_commits(
    workspace: Workspace, commits: Sequence[tuple[str, str, str]], folder: str
) -> list[Checkpoint]:
    """(commit, name, shown) -> checkpoints, with two questions to git for all of them."""
    names = [
        f"{commit}:{inside_folder(folder, name)}"
        for commit, _, _ in commits
        for name in (CONFIG, MANIFEST)
    ]
    ids = iter(workspace.git.blob_ids(names))
    pairs = [(next(ids), next(ids)) for _ in commits]
    configs = {config[0] for config, _ in pairs if config is not None}
    bases = {}
    for oid, found in zip(configs, workspace.git.blobs(configs), strict=True):
        if found is not None:
            bases[oid] = parse_adapter_config(found[1], inside_folder(folder, CONFIG)).base_model
    return [
        Checkpoint(
            name=name,
            shown=shown,
            key=f"{config[0]} {manifest[0]}" if config and manifest else _NOTHING,
            commit=commit,
            path=folder,
            base=bases.get(config[0]) if config else None,
        )
        for (commit, name, shown), (config, manifest) in zip(commits, pairs, strict=True)
    ]


def _check_bases(found: Sequence[Checkpoint]) -> None:
    named = [checkpoint for checkpoint in found if checkpoint.base is not None]
    for other in named[1:]:
        if other.base != named[0].base:
            raise FatalError(
                f"{other.shown} is for the base model {other.base}, {named[0].shown} for"
                f" {named[0].base}: one eval cannot judge both",
                hint="bisect the checkpoints of one base model",
            )


def _is_ancestor(workspace: Workspace, older: str, newer: str) -> bool:
    done = workspace.git.run("merge-base", "--is-ancestor", older, newer, check=False)
    return done.returncode == 0
