"""`git soup status`: adapters, data and lock: clean, modified, missing, drifted.

What git itself can tell (staged, changed text) is git's to tell; this says what it
cannot see: whether the bytes behind a manifest or a pointer are the ones it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.commands.lock import Overrides, PinCheck, check_pins
from soup_git.commands.precommit import check_manifest
from soup_git.core.digests import sha256_hex
from soup_git.core.lock import LOCK
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest, parse_manifest_header
from soup_git.core.text import printable
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.core.waysout import take_one_side
from soup_git.errors import FatalError
from soup_git.render.report import Table
from soup_git.storage import beside
from soup_git.storage.dvcobjects import output_target
from soup_git.storage.environment import can_train
from soup_git.storage.snapshot import inside_folder, is_dvc_lock, is_weights
from soup_git.storage.workspace import Workspace

_LETTERS = {"modified": " M", "missing": " D", "conflict": "UU", "untracked": "??"}
"""State -> git's letters for it; ` !` is what git has no word for: drifted, broken."""


@dataclass(frozen=True)
class AdapterState:
    path: str
    state: str
    """clean, modified, missing, drifted, conflict or untracked."""
    note: str
    merged: bool = False


@dataclass(frozen=True)
class DataState:
    path: str
    state: str
    note: str


@dataclass(frozen=True)
class StatusReport:
    schema: ClassVar[str] = "soup.status/1"
    branch: str | None
    commit: str | None
    adapters: list[AdapterState]
    data: list[DataState]
    lock: str
    """clean, drifted, none or broken."""
    pins: list[PinCheck]
    notes: list[str]

    @property
    def is_clean(self) -> bool:
        states = [a.state for a in self.adapters] + [d.state for d in self.data]
        return self.lock in {"clean", "none"} and set(states) <= {"clean", "untracked"}

    def short(self) -> str:
        """As `git status --short`: two columns, of which git's own would fill the first; a path."""
        found: list[tuple[str, str]] = [(a.path, a.state) for a in self.adapters]
        found += [(d.path, d.state) for d in self.data]
        if self.lock not in {"clean", "none"}:
            found.append((LOCK, self.lock))
        return "".join(
            f"{_LETTERS.get(state, ' !')} {printable(path)}\n"
            for path, state in found
            if state != "clean"
        )

    def tables(self) -> Sequence[Table | str]:
        on = f"On branch {self.branch}" if self.branch else f"HEAD detached at {self.commit or '-'}"
        parts: list[Table | str] = [on]
        if self.adapters:
            rows = [(f"  {a.state}", a.path, a.note) for a in self.adapters]
            parts += [Table(("", "", ""), rows, before="adapters")]
        else:
            parts += ["no adapters; git soup add DIR tracks one"]
        if self.data:
            parts += [
                Table(
                    ("", "", ""),
                    [(f"  {d.state}", d.path, d.note) for d in self.data],
                    before="data",
                )
            ]
        parts.append(f"lock  {self.lock}")
        parts += [f"  {pin.line()}" for pin in self.pins if pin.state != "ok"]
        parts += [f"  {note}" for note in self.notes]
        return parts


def status(workspace: Workspace) -> StatusReport:
    git = workspace.git
    commit = git.resolve("HEAD")
    lock, pins, notes = _lock_state(workspace)
    conflicts = _in_conflict(workspace)
    adapters = conflicts + [
        _adapter_state(workspace, folder)
        for folder in workspace.work_tree.adapters
        if folder not in {conflict.path for conflict in conflicts}
    ]
    adapters.sort(key=lambda adapter: adapter.path)
    recorded = workspace.work_tree.lock.adapters if lock not in {"none", "broken"} else {}  # type: ignore[union-attr]
    notes += _unrecorded(workspace, dict(recorded)) if recorded else []
    notes += _stale_results(workspace, {a.path for a in adapters if a.merged})
    notes += _of_dvc2(workspace)
    return StatusReport(
        branch=git.head_branch(),
        commit=commit[:10] if commit else None,
        adapters=adapters + _untracked(workspace),
        data=_data_states(workspace),
        lock=lock,
        pins=pins,
        notes=notes,
    )


def _adapter_state(workspace: Workspace, folder: str) -> AdapterState:
    snapshot = workspace.work_tree
    path = inside_folder(folder, MANIFEST)
    data = snapshot.read(path)
    if data is None:
        return AdapterState(folder, "missing", f"git checkout -- {path}")
    try:
        header = parse_manifest_header(data, path)
    except FatalError as error:
        return AdapterState(folder, "drifted", str(error))
    merged = header.is_merged
    note = "merged, not trained from this config" if merged else ""
    pointer = workspace.on_disk.weights(folder)
    if pointer is None:
        return AdapterState(
            folder, "drifted", "no pointer names its weights: git soup add it", merged
        )
    if pointer.md5 != header.weights_md5:
        said = f"{pointer.source} names md5:{pointer.md5}, the manifest md5:{header.weights_md5}"
        if is_dvc_lock(pointer.source):
            said += f"; after a run, git soup add {folder}"
        return AdapterState(folder, "drifted", said, merged)
    disagrees = _config_disagrees(
        workspace, path, data, snapshot.read(inside_folder(folder, CONFIG))
    )
    if disagrees:
        return AdapterState(folder, "drifted", disagrees, merged)
    weights = output_target(workspace.root, inside_folder(folder, WEIGHTS))
    if not weights.is_file():
        here = workspace.dvc.has(header.weights_md5)
        how = (
            "git soup checkout brings it back"
            if here
            else "not in the cache: dvc fetch, then git soup checkout"
        )
        return AdapterState(folder, "missing", how, merged)
    md5 = workspace.output_md5(weights, header.weights_md5)
    if md5 != header.weights_md5:
        how = f"git soup add {folder} to track it"
        if md5 is not None and workspace.dvc.has(md5):
            # git moved the text and called no hook: a cherry-pick, a revert, a stash, an abort.
            how = f"another kept version: git soup checkout restores what the manifest names; {how}"
        return AdapterState(folder, "modified", how, merged)
    return _beside_state(workspace, folder, header, note)


def _beside_state(workspace: Workspace, folder: str, manifest: Manifest, note: str) -> AdapterState:
    """What is left to say of an adapter of which weights and config are right: its other files."""
    found = beside.digests(workspace, workspace.root / folder)
    changed = beside.differing(manifest, found)
    if changed:
        how = (
            f"{', '.join(changed)}: git soup add {folder} to track it, or git checkout -- {folder}"
        )
        return AdapterState(folder, "modified", how, manifest.is_merged)
    fresh = beside.unnamed(manifest, found)
    new = f"{', '.join(fresh)} not versioned yet: git soup add {folder}" if fresh else ""
    return AdapterState(folder, "clean", "; ".join(filter(None, (note, new))), manifest.is_merged)


def _in_conflict(workspace: Workspace) -> list[AdapterState]:
    """Adapters of which git left a file unmerged."""
    patterns = [f":(top,glob)**/{name}" for name in (MANIFEST, CONFIG, f"{WEIGHTS}.dvc")]
    paths = workspace.git.paths(
        "diff", "--name-only", "--no-renames", "--diff-filter=U", "--", *patterns
    )
    folders = sorted({path.rpartition("/")[0] or "." for path in paths})
    return [
        AdapterState(folder, "conflict", take_one_side(inside_folder(folder, MANIFEST)))
        for folder in folders
    ]


def _config_disagrees(
    workspace: Workspace, path: str, manifest: bytes, config: bytes | None
) -> str:
    """Why a manifest is not its config's; remembered by their bytes, as most never change."""
    folder = path.rpartition("/")[0] or "."
    if config is None:
        return f"its {CONFIG} is missing: git checkout -- {inside_folder(folder, CONFIG)}"
    key = f"agree:{sha256_hex(config)}:{sha256_hex(manifest)}"
    if workspace.facts.get(key) == "yes":
        return ""
    try:
        check_manifest(path, manifest, config)
    except FatalError as error:
        return f"{error} ({error.hint})"
    workspace.facts.put(key, "yes")
    return ""


def _untracked(workspace: Workspace) -> list[AdapterState]:
    tracked = set(workspace.staged.adapters)
    found = (path.rpartition("/") for path in workspace.untracked)
    folders = sorted({folder or "." for folder, _, name in found if name == CONFIG})
    return [
        AdapterState(folder, "untracked", f"git soup add {folder}")
        for folder in folders
        if folder not in tracked
    ]


def _data_states(workspace: Workspace) -> list[DataState]:
    states = []
    for path, output in sorted(workspace.on_disk.outputs.items()):
        if is_weights(path):
            continue
        target = output_target(workspace.root, path)
        md5 = workspace.output_md5(target, output.md5, of_dvc2=output.of_dvc2)
        if md5 is None:
            here = workspace.dvc.has(output.md5)
            how = "git soup checkout brings it back" if here else "not in the cache: dvc fetch"
            states.append(DataState(path, "missing", how))
        elif md5 != output.md5:
            states.append(DataState(path, "modified", f"dvc add {path} to track it"))
        else:
            states.append(DataState(path, "clean", ""))
    return states


def _of_dvc2(workspace: Workspace) -> list[str]:
    found = {o.source for o in workspace.on_disk.outputs.values() if o.of_dvc2}
    if not found:
        return []
    named = min(found) if len(found) == 1 else f"{len(found)} of DVC's files"
    how = "dvc checkout && dvc cache migrate --dvc-files, then git commit -a"
    return [f"{named}: as DVC 2 wrote it (no hash: md5), and so read; for DVC 3's layout, {how}"]


def _lock_state(workspace: Workspace) -> tuple[str, list[PinCheck], list[str]]:
    snapshot = workspace.work_tree
    try:
        lock = snapshot.lock
    except FatalError as error:
        return "broken", [], [str(error), error.hint]
    if lock is None:
        note = ["git soup lock write pins what soup.yaml names"] if _has_config(workspace) else []
        return "none", [], note
    pins = check_pins(workspace, lock, snapshot, Overrides(), counts_env=can_train(), staged=False)
    drifted = any(pin.state == "drifted" for pin in pins)
    return ("drifted" if drifted else "clean"), pins, []


def _has_config(workspace: Workspace) -> bool:
    return (workspace.root / CONFIG_FILE).is_file()


def _unrecorded(workspace: Workspace, recorded: dict[str, str]) -> list[str]:
    notes = []
    for folder, md5 in sorted(recorded.items()):
        pointer = workspace.work_tree.weights(folder)
        if pointer is not None and pointer.md5 != md5:
            notes.append(f"{folder} is newer than soup.lock says; git soup lock write records it")
    return notes


def _stale_results(workspace: Workspace, merged: set[str]) -> list[str]:
    """Metrics and plots beside merged weights: a merge keeps ours, and they are of no merge.

    They are stale as long as they are the ones that the run wrote which made our side.
    """
    notes = []
    for outputs in workspace.work_tree.stages.values() if merged else []:
        folders = {o.path.rpartition("/")[0] or "." for o in outputs if is_weights(o.path)}
        stale = [
            output.path
            for output in outputs
            if output.path in workspace.staged.entries
            and workspace.path_md5(output_target(workspace.root, output.path)) == output.md5
        ]
        if folders & merged and stale:
            notes.append(f"stale: {', '.join(stale)}, from before the merge")
    return notes
