"""`git soup checkout`: bring back config, data and adapters of a branch, or say what drifted.

Everything is verified before anything is touched: the tip against its own lock, the
cached bytes against the digests that name them, the work tree for what would be lost.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from soup_git.commands.fetching import fetch_missing
from soup_git.core.lock import LOCK, Lock
from soup_git.core.lockdiff import Mismatch
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, agrees
from soup_git.core.names import NAME
from soup_git.core.text import counted
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import DriftError, FatalError
from soup_git.render.report import say
from soup_git.storage.beside import refuse_other_files
from soup_git.storage.dvcfiles import POINTER_SUFFIX, Output
from soup_git.storage.dvcobjects import output_target, walk
from soup_git.storage.environment import env_hash, environment
from soup_git.storage.files import write_atomically
from soup_git.storage.lockdrift import lock_mismatches, lock_of, pinned_but
from soup_git.storage.pins import base_model_pin
from soup_git.storage.snapshot import Snapshot, inside_folder, is_dvc_lock
from soup_git.storage.workspace import Workspace
from soup_git.storage.worktree import Plan, execute, keep, local_changes_error, plan_restore


def checkout(workspace: Workspace, name: str, *, force: bool) -> None:
    """Switch to branch `name` and restore what it names."""
    ref, tip = _tip(workspace, name)
    snapshot = workspace.at(tip, label=name)
    way = _what_is_in_the_way(workspace, snapshot)
    changed = _changed_here(workspace) - set(way.equal)
    wanted, current = _outputs_after(workspace, snapshot, set() if force else changed)
    plan = plan_restore(
        workspace,
        wanted,
        current,
        in_git=lambda path: _git_has(workspace, path, changed),
        force=force,
    )
    if plan.local_changes:
        raise local_changes_error(plan.local_changes)
    keep(workspace, plan)
    damaged = _fetched(workspace, plan.restore)
    damaged += _object_mismatches(workspace, plan.restore)
    mismatches = [*_text_mismatches(workspace, snapshot), *_tensor_mismatches(workspace, snapshot)]
    # Bytes that are not what they claim are not restored by force either.
    if damaged or (mismatches and not force):
        raise _refusal(name, mismatches, damaged)
    for mismatch in mismatches:
        say(f"warning: taken as it is:{mismatch.line()}")
    _notes(workspace, snapshot)
    was_there = workspace.git.head_branch() == name
    _switch(workspace, name, ref, way, given_up=sorted(changed) if force else None)
    for path in plan.given_up:
        say(f"warning: gave up the changes in {path}")
    say(f"Already on '{name}'" if was_there else f"Switched to branch '{name}'")
    _execute(workspace, plan)
    _say_restored(plan)


def write_config(workspace: Workspace, name: str, output: Path, *, force: bool) -> None:
    """Write the locked config of branch `name` to a file, and touch nothing else."""
    snapshot = workspace.at(_tip(workspace, name)[1], label=name)
    lock, drifted = lock_of(snapshot)
    path = (lock.config_path if lock else None) or CONFIG_FILE
    if lock is not None:
        drifted = lock_mismatches(workspace, snapshot, lock)
    if drifted and not force:
        raise _refusal(name, drifted, [])
    write_atomically(output, snapshot.require(path))
    say(f"wrote {output}: {path} as {name} pins it")


def repair(workspace: Workspace, *, force: bool) -> None:
    """Bare `git soup checkout`: make the work tree hold what HEAD names."""
    git = workspace.git
    deleted = [path for path in git.paths("ls-files", "--deleted") if _is_ours(workspace, path)]
    git.index.restore(deleted)
    # A pointer with changes of the user's (a stash, a cherry-pick) names what they want.
    plan = plan_restore(workspace, workspace.on_disk.outputs, {}, force=force)
    if plan.local_changes:
        raise local_changes_error(plan.local_changes)
    keep(workspace, plan)
    damaged = _fetched(workspace, plan.restore)
    damaged += _object_mismatches(workspace, plan.restore)
    if damaged:
        raise _refusal("", [], damaged)
    for path in plan.given_up:
        say(f"warning: gave up the changes in {path}")
    _execute(workspace, plan)
    for path in deleted:
        say(f"  restored {path}")
    _say_restored(plan)
    if not plan.restore and not deleted:
        say("nothing to repair: the work tree holds what HEAD names")


def complete_work_tree(workspace: Workspace) -> int:
    """Bring what HEAD names and the work tree lacks, and leave what the user changed.

    Returns how many objects were fetched for it; raises for what is nowhere, or damaged.
    """
    plan = plan_restore(workspace, workspace.on_disk.outputs, {})
    keep(workspace, plan)
    away = sum(not workspace.dvc.has(output.md5) for output in plan.restore)
    damaged = _fetched(workspace, plan.restore)
    damaged += _object_mismatches(workspace, plan.restore)
    if damaged:
        raise _refusal("", [], damaged)
    _execute(workspace, plan)
    _say_restored(plan)
    for path in plan.local_changes:
        say(f"note: {path} has changes of yours and was left as it is; git soup status")
    return away


def follow(workspace: Workspace, old: str | None, new: str, *, via: str | None = None) -> None:
    """After git itself moved HEAD (a hook): bring along what DVC holds, where that is safe.

    `via`: the work tree was followed there since it was at `old`.
    """
    before = dict(workspace.at(old).outputs) if old else {}
    snapshot = workspace.at(new)
    after = snapshot.outputs
    changed = {p: o for p, o in after.items() if before.get(p) != o}
    if via is not None:
        between = workspace.at(via).outputs
        changed |= {p: o for p, o in after.items() if between.get(p) != o}
        before |= between
    moved = {
        p: o
        for p, o in before.items()
        if p in changed or (p not in after and not _is_in(p, snapshot.entries))
    }
    plan = plan_restore(workspace, changed, moved)
    keep(workspace, plan)
    here = tuple(o for o in plan.restore if workspace.object_is_sound(o.md5))
    execute(workspace, replace(plan, restore=here))
    away = len(plan.restore) - len(here)
    if away:
        say(
            f"note: {counted(away, 'object')} not in the DVC cache; git soup checkout fetches what is missing"
        )
    for path in plan.local_changes:
        say(f"note: {path} has changes of yours and was left as it is; git soup status")


def _tip(workspace: Workspace, name: str) -> tuple[str, str]:
    """(full ref, commit) of the branch called `name`: a local one, else the one remote's."""
    git = workspace.git
    local = f"refs/heads/{name}"
    found = git.refs(local).get(local)
    if found is not None:
        return local, found
    remote = git.refs(f"refs/remotes/*/{name}") if NAME.fullmatch(name) else {}
    if len(remote) == 1:
        ref = next(iter(remote))
        return ref, git.commit(ref)
    if remote:
        ref = next(iter(remote)).removeprefix("refs/remotes/")
        raise FatalError(
            f"no branch {name!r} here, and {len(remote)} remotes have one",
            hint=f"git switch --track {ref}",
        )
    raise FatalError(f"there is no branch {name!r}", hint="git soup branches lists them")


# -- what is here now -----------------------------------------------------------------------


def _changed_here(workspace: Workspace) -> set[str]:
    """Tracked files with changes, staged or not: what git carries to another branch."""
    if workspace.git.resolve("HEAD") is None:
        return set(workspace.staged.entries)
    return set(workspace.git.paths("diff", "--name-only", "HEAD", "--"))


def _outputs_after(
    workspace: Workspace, snapshot: Snapshot, carried: set[str]
) -> tuple[dict[str, Output], dict[str, Output]]:
    """What the pointers will name after the switch, and what they name now.

    A pointer with changes keeps them over a switch, or git refuses to switch: either way
    the weights that belong to it are the ones it names now. What git itself will hold
    at the branch is no output, whatever held it before.
    """
    here = workspace.work_tree.outputs
    wanted = {p: o for p, o in snapshot.outputs.items() if o.source not in carried}
    wanted |= {p: o for p, o in here.items() if o.source in carried}
    current = {p: o for p, o in here.items() if not _is_in(p, snapshot.entries)}
    return wanted, current


def _is_in(path: str, entries: Mapping[str, str]) -> bool:
    return path in entries or any(entry.startswith(f"{path}/") for entry in entries)


def _git_has(workspace: Workspace, path: str, changed: set[str]) -> bool:
    """Whether git has the bytes that lie at `path` now, so that replacing them loses nothing."""
    entries = workspace.staged.entries
    target = output_target(workspace.root, path)
    if not target.is_dir():
        return path in entries and path not in changed
    names = [file.relative_to(workspace.root).as_posix() for file in walk(target)]
    return bool(names) and all(name in entries and name not in changed for name in names)


# -- verifying ------------------------------------------------------------------------------


def _text_mismatches(workspace: Workspace, snapshot: Snapshot) -> list[Mismatch]:
    """The tip against its own lock, and its manifests against its configs: no weights read."""
    lock, found = lock_of(snapshot)
    if lock is not None:
        found += lock_mismatches(workspace, snapshot, lock)
        found += _base_mismatches(workspace, snapshot, lock)
    for folder in snapshot.adapters:
        found += _adapter_mismatches(workspace, snapshot, folder)
    return found


def _adapter_mismatches(workspace: Workspace, snapshot: Snapshot, folder: str) -> list[Mismatch]:
    path = inside_folder(folder, MANIFEST)
    try:
        manifest, config = snapshot.manifest(folder), snapshot.config(folder)
        fits = agrees(manifest, config)
        refuse_other_files(workspace, snapshot, folder, manifest)
    except FatalError as error:
        return [Mismatch("adapter", path, str(error))]
    found = []
    if not fits:
        found.append(Mismatch("adapter", path, f"its header is not what {CONFIG} gives"))
    pointer = snapshot.weights(folder)
    if pointer is None:
        found.append(Mismatch("adapter", folder, "no pointer names its weights"))
    elif pointer.md5 != manifest.weights_md5:
        what = f"md5:{manifest.weights_md5} in the manifest, md5:{pointer.md5} in {pointer.source}"
        found.append(Mismatch("adapter", path, what))
    return found


def _base_mismatches(workspace: Workspace, snapshot: Snapshot, lock: Lock) -> list[Mismatch]:
    """The base model as it is here; one that is elsewhere cannot be compared."""
    config = lock.config_path or CONFIG_FILE
    try:
        names = parse_config_pins(snapshot.read(config) or b"", snapshot.where(config))
    except FatalError as error:
        return [Mismatch("config", config, str(error))]
    base = base_model_pin(workspace, lock.base_model, network=False, revision=names.revision)
    if lock.base_model_sha is None or base.digest in {None, lock.base_model_sha}:
        return []
    what = pinned_but(lock.base_model_sha, base.digest, "here")
    return [Mismatch("base_model", str(lock.base_model), what)]


def _object_mismatches(workspace: Workspace, outputs: Iterable[Output]) -> list[Mismatch]:
    """What is to be restored against the digests that name it."""
    found = []
    for output in outputs:
        for md5 in workspace.damaged_objects(output.md5):
            place = workspace.dvc.object_path(md5)
            what = f"md5:{md5} pinned, other bytes in the DVC cache"
            mend = f"rm {shlex.quote(str(place))}"
            found.append(Mismatch(_kind(output.path), output.path, what, mend))
        if not workspace.dvc.has(output.md5):
            what = f"md5:{output.md5} is not in the DVC cache, nor in a remote"
            if output.of_dvc2:
                what += f" ({output.source} is DVC 2's: dvc fetch looks in DVC 2's layout)"
            found.append(Mismatch(_kind(output.path), output.path, what))
    return found


def _tensor_mismatches(workspace: Workspace, snapshot: Snapshot) -> list[Mismatch]:
    """Each manifest's tensor lines against the weights it names, where these are here."""
    found = []
    for folder in snapshot.adapters:
        try:
            manifest = snapshot.manifest(folder)
        except FatalError:
            continue  # already a mismatch of its text
        weights = workspace.local_weights(manifest.weights_md5, folder)
        if (
            weights is not None
            and workspace.md5(weights) == manifest.weights_md5
            and workspace.weights_match(manifest, weights)
        ):
            path = inside_folder(folder, MANIFEST)
            found.append(Mismatch("adapter", path, "its tensor lines are not those of its weights"))
    return found


def _kind(path: str) -> str:
    return "adapter" if path == WEIGHTS or path.endswith(f"/{WEIGHTS}") else "dataset"


def _refusal(name: str, mismatches: Sequence[Mismatch], damaged: Sequence[Mismatch]) -> DriftError:
    """`damaged` are bytes that are gone or not their own; no branch and no option mends these."""
    lines = "".join(f"\n{m.line()}" for m in [*mismatches, *damaged])
    again = f"git soup checkout {name}".rstrip()
    if damaged:
        mend = next((m.mend for m in damaged if m.mend), "")
        if mend:
            hint = f"{mend}, then {again} fetches it from the DVC remote; git soup fsck lists all damage"
        else:
            hint = f"dvc push in the clone that has it, or copy its .dvc/cache here; then {again}"
    else:
        hint = f"git log -p {name} -- {mismatches[0].path} tells who changed it;"
        hint += f" git soup checkout --force {name} takes it as it is"
    what = (
        f"{name} does not match its lock"
        if mismatches
        else f"what {name or 'HEAD'} names is not here, or is damaged"
    )
    return DriftError(f"{what}; nothing was changed{lines}", hint=hint)


def _notes(workspace: Workspace, snapshot: Snapshot) -> None:
    """What may differ for healthy reasons, or is recorded late: said, never a refusal."""
    lock, broken = lock_of(snapshot)
    if lock is None:
        if not broken:
            say(f"note: {snapshot.label} has no {LOCK}; nothing pins its config and data")
        return
    if lock.env_hash is not None and lock.env_hash != env_hash(environment(workspace.facts)):
        say("note: the environment is not the locked one; git soup env check lists the packages")
    for folder, md5 in sorted(lock.adapters.items()):
        output = snapshot.weights(folder)
        if output is None or output.md5 != md5:
            say(f"note: {folder} is not the adapter that {LOCK} records (md5:{md5})")


# -- the work tree --------------------------------------------------------------------------


def _fetched(workspace: Workspace, outputs: Iterable[Output]) -> list[Mismatch]:
    """Get what the cache lacks; what the remote has with other bytes."""
    outputs = list(outputs)
    found = fetch_missing(workspace, [output.md5 for output in outputs])
    return [
        Mismatch(
            _kind(output.path),
            output.path,
            f"md5:{md5} pinned, other bytes in the DVC remote {workspace.dvc.config.default_remote}",
        )
        for output in outputs
        for md5 in found.damaged.get(output.md5, [])
    ]


@dataclass(frozen=True)
class _InTheWay:
    """Files where the branch has other ones (or none are tracked): what may be replaced."""

    equal: list[str]
    """Files with the branch's own bytes: no local changes, whatever git says."""
    kept: dict[str, str]
    """Path -> md5 of untracked files whose bytes are in the cache."""
    untracked: list[str]
    """Untracked files whose bytes are nowhere else."""


def _what_is_in_the_way(workspace: Workspace, snapshot: Snapshot) -> _InTheWay:
    staged = workspace.staged.entries
    edited = set(workspace.git.paths("diff", "--name-only", "--"))
    restaged = set(workspace.git.paths("diff", "--name-only", "--cached", "--"))
    way = _InTheWay([], {}, [])
    for path, oid in snapshot.entries.items():
        file = workspace.root / path
        is_new = path not in staged
        # A staged version that is neither HEAD's nor the branch's is somebody's work.
        is_only_edited = (
            not is_new and path in edited and (staged[path] == oid or path not in restaged)
        )
        if not (is_new or is_only_edited) or not file.is_file() or _is_behind_link(file, path):
            continue
        if file.read_bytes() == snapshot.read(path):
            way.equal.append(path)
        elif is_new and workspace.object_is_sound(workspace.md5(file)):
            way.kept[path] = workspace.md5(file)
        elif is_new:
            way.untracked.append(path)
    return way


def _switch(
    workspace: Workspace, name: str, ref: str, way: _InTheWay, *, given_up: list[str] | None
) -> None:
    """`git switch` over files whose bytes are safe; `given_up` None keeps all others."""
    git = workspace.git
    before = git.index.entries_at(way.equal)
    git.index.adopt(ref, way.equal)
    for path in way.kept:
        (workspace.root / path).unlink()
    remote = None if ref.startswith("refs/heads/") else ref.removeprefix("refs/remotes/")
    try:
        git.switch(name, track=remote, discard=given_up is not None)
    except FatalError:
        git.index.put_back(way.equal, before)
        for path, md5 in way.kept.items():
            workspace.dvc.restore_file(md5, workspace.root / path)
        raise
    git.index.match_modes(way.equal)
    for path in [] if given_up is None else [*given_up, *way.untracked]:
        say(f"warning: gave up the changes in {path}")


def _is_behind_link(file: Path, path: str) -> bool:
    return any(place.is_symlink() for place in [file, *list(file.parents)[: path.count("/")]])


def _execute(workspace: Workspace, plan: Plan) -> None:
    try:
        execute(workspace, plan)
    except OSError as error:
        raise FatalError(
            f"not all data and weights could be restored: {error.filename}: {error.strerror}",
            hint="git soup checkout brings back the rest, once this is mended",
        ) from None


def _is_ours(workspace: Workspace, path: str) -> bool:
    """Whether a tracked file is part of what git-soup versions: adapters, pins, pointers."""
    staged = workspace.staged
    folder = path.rpartition("/")[0] or "."
    if path in {LOCK, CONFIG_FILE} or is_dvc_lock(path) or path.endswith(POINTER_SUFFIX):
        return True
    if folder in staged.adapters or path.rpartition("/")[2] == ".gitignore":
        return True
    lock = lock_of(staged)[0]
    pinned = [] if lock is None else [lock.config_path, lock.dataset_path]
    return any(p is not None and (path == p or path.startswith(f"{p}/")) for p in pinned)


def _say_restored(plan: Plan) -> None:
    for output in plan.restore:
        say(f"  restored {output.path}")
    for path in plan.remove:
        say(f"  removed  {path} (kept in the DVC cache)")
