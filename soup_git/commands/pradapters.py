"""The adapters that a pull request changes: which, how far, how good, and whether they come again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from soup_git.commands.diff import compare
from soup_git.commands.fetching import with_weights
from soup_git.commands.prsamples import remembered
from soup_git.commands.prscores import Side, given, noted
from soup_git.commands.verify import is_rebuildable
from soup_git.core.drift import DriftSummary, LayerDrift
from soup_git.core.manifest import CONFIG, MANIFEST, Manifest
from soup_git.core.prfiles import GivenDelta
from soup_git.core.pullrequest import AdapterChange, Reproduction, Revision, SamplePair, Scores
from soup_git.core.verification import (
    Verification,
    latest_verification,
    parse_verifications,
)
from soup_git.errors import FatalError
from soup_git.storage.lockdrift import lock_of
from soup_git.storage.notes import read_lines
from soup_git.storage.resolver import Adapter
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Chosen:
    """What was given instead of computed, and of which adapter."""

    adapter: str | None
    deltas: tuple[Sequence[GivenDelta], str] | None
    samples: Sequence[SamplePair] | None


def adapter_changes(
    workspace: Workspace, base: Revision, head: Revision, chosen: Chosen
) -> list[AdapterChange]:
    """Each adapter that is not the same at both ends; `base` is the merge base.

    Of a folder that no revision has, the adapter that lies there now. Where files are given,
    they may be of an adapter that did not change.

    Raises FatalError for an adapter that neither end has, and when files are given for one
    of several, or for none.
    """
    before = workspace.at(base.commit, base.name)
    after = workspace.at(head.commit, head.name)
    named = _folder(workspace, chosen.adapter)
    is_given = chosen.deltas is not None or chosen.samples is not None
    if named is not None and chosen.adapter is not None and not _has(before, after, named):
        loose = _loose(workspace, chosen.adapter)
        if loose is not None:
            none = Side(base.name, base.commit, before, named, None)
            there = Side(head.name, head.commit, after, named, loose.manifest, loose)
            return [_change(workspace, none, there, chosen)]
    pairs = _pairs(before, after, named)
    if not pairs and (is_given or named is not None):
        kept = set(before.adapters) & set(after.adapters)
        pairs = [(path, path) for path in sorted(kept) if named in {None, path}]
    if is_given and not pairs:
        raise FatalError(
            f"{after.label} has no adapter that these files could be of",
            hint="git soup pr --adapter DIR names one that no revision has yet",
        )
    if is_given and len(pairs) > 1:
        names = ", ".join(new or old or "" for old, new in pairs)
        raise FatalError(
            f"which adapter are these files of? This changes {names}",
            hint=f"git soup pr --adapter {shlex.quote(pairs[0][1] or pairs[0][0] or '')}",
        )
    sides = [
        (
            Side(base.name, base.commit, before, old or new or "", _manifest(before, old)),
            Side(head.name, head.commit, after, new or old or "", _manifest(after, new)),
        )
        for old, new in pairs
    ]
    return [_change(workspace, *pair, chosen) for pair in sides]


def with_changes_in_base(
    workspace: Workspace,
    adapters: Sequence[AdapterChange],
    base: Revision,
    fork: str,
    head: Revision,
) -> list[AdapterChange]:
    """Marks what the base changed as well since the merge base `fork`: it would be combined."""
    if base.commit == fork:
        return list(adapters)
    tip, before, after = (workspace.at(commit) for commit in (base.commit, fork, head.commit))
    marked = []
    for adapter in adapters:
        old = inside_folder(adapter.renamed_from or adapter.path, MANIFEST)
        new = inside_folder(adapter.path, MANIFEST)
        there = tip.entries.get(new) or tip.entries.get(old)
        is_other = there != before.entries.get(old) and there != after.entries.get(new)
        marked.append(replace(adapter, changed_in_base=is_other))
    return marked


def _folder(workspace: Workspace, named: str | None) -> str | None:
    """A named adapter's path from the top, where it lies inside; else as it was typed."""
    if named is None:
        return None
    root = workspace.root.resolve()
    there = Path(named).resolve()
    if Path(named).is_dir() and there.is_relative_to(root):
        return there.relative_to(root).as_posix()
    return PurePosixPath(named).as_posix()


def _has(before: Snapshot, after: Snapshot, folder: str) -> bool:
    return folder in before.adapters or folder in after.adapters


def _loose(workspace: Workspace, named: str) -> Adapter | None:
    """The adapter in a folder of this machine, if `named` is one."""
    if not Path(named, CONFIG).is_file():
        return None
    return workspace.adapter_in_folder(Path(named), named)


def _manifest(snapshot: Snapshot, folder: str | None) -> Manifest | None:
    return None if folder is None else snapshot.manifest(folder)


def _pairs(
    before: Snapshot, after: Snapshot, named: str | None
) -> list[tuple[str | None, str | None]]:
    """(folder before, folder after) of what differs, renames joined."""
    old, new = set(before.adapters), set(after.adapters)
    if named is not None and named not in old | new:
        raise FatalError(
            f"neither {before.label} nor {after.label} has an adapter at {named}",
            hint=f"they have {', '.join(sorted(old | new)) or 'none'}",
        )
    pairs: list[tuple[str | None, str | None]] = [
        (path, path) for path in sorted(old & new) if _differs(before, after, path)
    ]
    gone = [(before.manifest(path).tensors_sha256(), path) for path in sorted(old - new)]
    for path in sorted(new - old):
        tensors = after.manifest(path).tensors_sha256()
        moved = next((one for one in gone if one[0] == tensors), None)
        if moved is not None:
            gone.remove(moved)
        pairs.append((moved[1] if moved else None, path))
    pairs += [(path, None) for _, path in gone]
    if named is None:
        return pairs
    return [pair for pair in pairs if named in pair]


def _differs(before: Snapshot, after: Snapshot, folder: str) -> bool:
    names = [inside_folder(folder, name) for name in (MANIFEST, CONFIG)]
    return any(before.entries.get(name) != after.entries.get(name) for name in names)


def _change(workspace: Workspace, before: Side, after: Side, chosen: Chosen) -> AdapterChange:
    status = _status(before, after)
    drift, layers, unknown = _drift(workspace, before, after, status)
    old, new = before.manifest, after.manifest
    scores = _scores(workspace, before, after, chosen)
    samples = chosen.samples
    if samples is None:
        samples = remembered(workspace, before, after, scores)
    return AdapterChange(
        path=after.folder,
        status=status,
        renamed_from=before.folder if before.folder != after.folder else None,
        base_model_before=old.base_model if old else None,
        base_model=new.base_model if new else None,
        weights_before=before.weights,
        weights=after.weights,
        recipe=list(new.recipe) if new else [],
        drift=drift,
        layers=layers,
        drift_unknown=unknown,
        scores=scores,
        scores_command=_eval_command(before, after),
        samples=list(samples),
        samples_command=_compare_command(before, after),
        reproduction=_reproduction(workspace, after),
    )


def _status(before: Side, after: Side) -> str:
    old, new = before.manifest, after.manifest
    if old is None:
        return "added"
    if new is None:
        return "removed"
    if old.digest() == new.digest():
        if before.folder != after.folder:
            return "renamed"
        is_other = _differs(before.snapshot, after.snapshot, after.folder)
        return "reconfigured" if is_other else "unchanged"
    return "changed"


def _drift(
    workspace: Workspace, before: Side, after: Side, status: str
) -> tuple[DriftSummary | None, list[LayerDrift], str]:
    """How far the adapter moved; (None, [], why) where that cannot be said."""
    if status not in {"changed", "reconfigured"}:
        return None, [], ""
    try:
        found = [
            replace(workspace.adapter(side.commit, side.folder), spec=f"{side.name}:{side.folder}")
            for side in (before, after)
        ]
        report = compare(*with_weights(workspace, found))
    except FatalError as error:
        return None, [], str(error).split("\n")[0]
    return report.summary, report.layers, ""


def _scores(workspace: Workspace, before: Side, after: Side, chosen: Chosen) -> list[Scores]:
    if chosen.deltas is not None:
        deltas, source = chosen.deltas
        return [given(deltas, source, before.name)]
    return noted(workspace, before, after) if after.manifest is not None else []


def _eval_command(before: Side, after: Side) -> str:
    baseline = f" --baseline {_spec(before)}" if before.manifest is not None else " --baseline base"
    return f"git soup eval {_spec(after)} --suite SUITE{baseline}"


def _compare_command(before: Side, after: Side) -> str:
    other = _spec(before) if before.manifest is not None else "base"
    return f"git soup compare {other} {_spec(after)} --prompts FILE --json -o samples.json"


def _spec(side: Side) -> str:
    """The adapter of one side, as it is typed."""
    if side.loose is not None:
        return shlex.quote(side.loose.spec)
    commit = side.commit[:12]
    return commit if side.folder == "." else shlex.quote(f"{commit}:{side.folder}")


def _reproduction(workspace: Workspace, after: Side) -> Reproduction:
    blob = after.manifest_blob
    if after.manifest is None or blob is None:
        return Reproduction("unknown", "")
    noted = read_lines(workspace.git, [after.commit, blob], parse_verifications)
    # On the manifest it may be another commit's, which trained these weights from something else.
    mine = [*noted.get(after.commit, []), *(v for v in noted.get(blob, []) if _is_of(v, after))]
    mine = [one for one in mine if one.expected_md5 == after.weights]
    last = latest_verification(mine)
    command = f"git soup verify {after.commit[:12]} --adapter {shlex.quote(after.folder)}"
    if last is None:
        return Reproduction(
            "unknown", command if is_rebuildable(after.snapshot, after.folder) else ""
        )
    return Reproduction(
        last.verdict, command, last.at, last.tolerance, last.largest_relative_difference
    )


def _is_of(found: Verification, after: Side) -> bool:
    """Whether it was made again from what this revision says, not only to the same weights."""
    lock, _ = lock_of(after.snapshot)
    is_same_run = lock is not None and lock.run is not None and lock.run == found.run
    return is_same_run or (after.manifest is not None and after.manifest.is_merged)
