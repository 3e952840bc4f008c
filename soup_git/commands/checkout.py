"""`git soup checkout`: bring back config, data and adapters of a branch, or say what drifted.

Everything is verified before anything is touched: the tip against its own lock, the
cached bytes against the digests that name them, the work tree for what would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from soup_git.core.digests import sha256_hex
from soup_git.core.lock import LOCK, Lock
from soup_git.core.manifest import MANIFEST, WEIGHTS, make_manifest
from soup_git.core.names import check_name
from soup_git.core.text import shortened
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import DriftError, FatalError
from soup_git.render.report import say
from soup_git.storage.dvcrepo import Output
from soup_git.storage.environment import env_hash, environment
from soup_git.storage.files import target_inside, write_atomically
from soup_git.storage.pins import base_model_pin, pointer_pin
from soup_git.storage.workspace import Snapshot, Workspace, inside_folder
from soup_git.storage.worktree import Plan, execute, local_changes_error, plan_restore


@dataclass(frozen=True)
class Mismatch:
    """One thing at a tip that is not what its lock, or its own digest, says."""

    pin: str
    path: str
    what: str

    def line(self) -> str:
        return f"  {self.pin:<10}{self.path}   {self.what}"


def checkout(workspace: Workspace, name: str, *, force: bool) -> None:
    """Switch to branch `name` and restore what it names."""
    check_name(name)
    tip = _tip(workspace, name)
    snapshot = workspace.at(tip, label=name)
    wanted = snapshot.outputs
    plan = plan_restore(workspace, wanted, workspace.work_tree.outputs, force=force)
    if plan.local_changes:
        raise local_changes_error(plan.local_changes)
    _fetch_missing(workspace, plan.restore)
    damaged = _object_mismatches(workspace, plan.restore)
    mismatches = [*_text_mismatches(workspace, snapshot), *_tensor_mismatches(workspace, snapshot)]
    # Bytes that are not what they claim are not restored by force either.
    blocking = damaged if force else [*mismatches, *damaged]
    if blocking:
        raise _refusal(name, blocking)
    for mismatch in mismatches:
        say(f"warning: taken as it is:{mismatch.line()}")
    _notes(workspace, snapshot)
    was_there = workspace.git.head_branch() == name
    adopted = _adopt_equal(workspace, snapshot)
    try:
        _switch(workspace, name)
    except FatalError:
        workspace.git.stage_blobs(adopted)
        raise
    execute(workspace, plan)
    say(f"Already on '{name}'" if was_there else f"Switched to branch '{name}'")
    _say_restored(plan)


def write_config(workspace: Workspace, name: str, output: Path, *, force: bool) -> None:
    """Write the locked config of branch `name` to a file, and touch nothing else."""
    check_name(name)
    snapshot = workspace.at(_tip(workspace, name), label=name)
    lock = snapshot.lock
    path = (lock.config_path if lock else None) or CONFIG_FILE
    data = snapshot.require(path)
    if lock is not None and not force:
        drifted = [
            m for m in _text_mismatches(workspace, snapshot) if m.pin in {"config", "dataset"}
        ]
        if drifted:
            raise _refusal(name, drifted)
    write_atomically(output, data)
    say(f"wrote {output}: {path} as {name} pins it")


def repair(workspace: Workspace, *, force: bool) -> None:
    """Bare `git soup checkout`: make the work tree hold what HEAD names."""
    git = workspace.git
    head = workspace.at("HEAD")
    deleted = [
        path
        for path in git.lines("ls-files", "--deleted")
        if path in head.entries and _is_ours(path, head)
    ]
    if deleted:
        git.run_with_patience("checkout", "HEAD", "--", *deleted)
    # A pointer with changes of the user's (a stash, a cherry-pick) names what they want.
    plan = plan_restore(workspace, workspace.work_tree.outputs, {}, force=force)
    if plan.local_changes:
        raise local_changes_error(plan.local_changes)
    _fetch_missing(workspace, plan.restore)
    damaged = _object_mismatches(workspace, plan.restore)
    if damaged:
        raise _refusal("HEAD", damaged)
    execute(workspace, plan)
    _say_restored(plan)
    if not plan.restore and not deleted:
        say("nothing to repair: the work tree holds what HEAD names")


def follow(workspace: Workspace, old: str | None, new: str) -> None:
    """After git itself moved HEAD (a hook): bring along what DVC holds, where that is safe."""
    before = workspace.at(old).outputs if old else {}
    after = workspace.at(new).outputs
    changed = {p: o for p, o in after.items() if before.get(p) != o}
    gone = {p: o for p, o in before.items() if p not in after}
    plan = plan_restore(workspace, changed, gone)
    here = [o for o in plan.restore if workspace.object_is_sound(o.md5)]
    execute(workspace, Plan(tuple(here), plan.remove, plan.unchanged, ()))
    away = len(plan.restore) - len(here)
    if away:
        say(f"note: {away} objects are not in the DVC cache; git soup checkout fetches them")
    for path in plan.local_changes:
        say(f"note: {path} has changes of yours and was left as it is; git soup status")


def _tip(workspace: Workspace, name: str) -> str:
    git = workspace.git
    local = git.resolve(f"refs/heads/{name}")
    if local is not None:
        return local
    remote = list(git.refs(f"refs/remotes/*/{name}"))
    if len(remote) == 1:
        return git.commit(remote[0])
    if remote:
        raise FatalError(
            f"no branch {name!r} here, and {len(remote)} remotes have one",
            hint=f"git switch --track {remote[0].removeprefix('refs/remotes/')}",
        )
    raise FatalError(f"there is no branch {name!r}", hint="git soup branches lists them")


def _switch(workspace: Workspace, name: str) -> None:
    git = workspace.git
    if git.resolve(f"refs/heads/{name}") is not None:
        git.switch(name)
    else:
        remote = next(iter(git.refs(f"refs/remotes/*/{name}")))
        git.run("switch", "--quiet", "--track", "-c", name, remote.removeprefix("refs/remotes/"))


# -- verifying ------------------------------------------------------------------------------


def _text_mismatches(workspace: Workspace, snapshot: Snapshot) -> list[Mismatch]:
    """The tip against its own lock, and its manifests against its configs: no weights read."""
    found = []
    lock = snapshot.lock
    if lock is not None:
        found += _lock_mismatches(workspace, snapshot, lock)
    for folder in snapshot.adapters:
        manifest, config = snapshot.manifest(folder), snapshot.config(folder)
        path = inside_folder(folder, MANIFEST)
        expected = make_manifest(
            config,
            manifest.tensors,
            weights_md5=manifest.weights_md5,
            weights_size=manifest.weights_size,
            recipe=manifest.recipe,
        )
        if expected != manifest:
            found.append(
                Mismatch("adapter", path, "its header is not what adapter_config.json gives")
            )
        pointer = snapshot.weights(folder)
        if pointer is None:
            found.append(Mismatch("adapter", folder, "no pointer names its weights"))
        elif pointer.md5 != manifest.weights_md5:
            found.append(
                Mismatch(
                    "adapter",
                    path,
                    f"md5:{manifest.weights_md5} in the manifest, md5:{pointer.md5} in {pointer.source}",
                )
            )
    return found


def _lock_mismatches(workspace: Workspace, snapshot: Snapshot, lock: Lock) -> list[Mismatch]:
    found = []
    config = lock.config_path or CONFIG_FILE
    if lock.config_sha is not None:
        data = snapshot.read(config)
        actual = sha256_hex(data) if data is not None else None
        if actual != lock.config_sha:
            found.append(Mismatch("config", config, _pinned_but(lock.config_sha, actual)))
    path = lock.dataset_path
    if path is not None and lock.dataset_sha is not None:
        pin = pointer_pin(workspace, snapshot, path)
        if pin.md5 is not None and lock.dataset_md5 is not None and pin.md5 != lock.dataset_md5:
            what = f"md5:{lock.dataset_md5} pinned, md5:{pin.md5} in {pin.source}"
            found.append(Mismatch("dataset", path, what))
        elif pin.digest is not None and pin.digest != lock.dataset_sha:
            found.append(Mismatch("dataset", path, _pinned_but(lock.dataset_sha, pin.digest)))
        elif pin.digest is None and pin.md5 is None:
            found.append(Mismatch("dataset", path, _pinned_but(lock.dataset_sha, None)))
    return found


def _pinned_but(pinned: str, actual: str | None) -> str:
    now = f"{shortened(f'sha256:{actual}')} at the tip" if actual else "missing at the tip"
    return f"{shortened(f'sha256:{pinned}')} pinned, {now}"


def _object_mismatches(workspace: Workspace, outputs: Iterable[Output]) -> list[Mismatch]:
    """What is to be restored against the digests that name it."""
    checked = ((output, _object_mismatch(workspace, output)) for output in outputs)
    return [Mismatch(_kind(output.path), output.path, wrong) for output, wrong in checked if wrong]


def _tensor_mismatches(workspace: Workspace, snapshot: Snapshot) -> list[Mismatch]:
    """Each manifest's tensor lines against the weights it names, where these are here."""
    found = []
    for folder in snapshot.adapters:
        manifest = snapshot.manifest(folder)
        weights = workspace.local_weights(manifest.weights_md5, folder)
        if (
            weights is not None
            and workspace.md5(weights) == manifest.weights_md5
            and workspace.weights_match(manifest, weights)
        ):
            path = inside_folder(folder, MANIFEST)
            found.append(Mismatch("adapter", path, "its tensor lines are not those of its weights"))
    return found


def _object_mismatch(workspace: Workspace, output: Output) -> str | None:
    if not workspace.dvc.has(output.md5):
        return f"md5:{output.md5} is neither in the DVC cache nor in a remote"
    if not workspace.object_is_sound(output.md5):
        return f"md5:{output.md5} pinned, other bytes in the DVC cache"
    return None


def _kind(path: str) -> str:
    return "adapter" if path == WEIGHTS or path.endswith(f"/{WEIGHTS}") else "dataset"


def _refusal(name: str, mismatches: Sequence[Mismatch]) -> DriftError:
    lines = "".join(f"\n{m.line()}" for m in mismatches)
    if any("in the DVC cache" in m.what for m in mismatches):
        hint = "dvc fetch, or git soup fsck to see every object that is damaged or gone"
    else:
        hint = f"git log -p {name} -- {mismatches[0].path} tells who changed it;"
        hint += f" git soup checkout --force {name} takes it as it is"
    return DriftError(f"{name} does not match its lock{lines}", hint=hint)


def _notes(workspace: Workspace, snapshot: Snapshot) -> None:
    """What may differ for healthy reasons, or is recorded late: said, never a refusal."""
    lock = snapshot.lock
    if lock is None:
        say(f"note: {snapshot.label} has no {LOCK}; nothing pins its config and data")
        return
    if lock.env_hash is not None and lock.env_hash != env_hash(environment(workspace.facts)):
        say("note: the environment is not the locked one; git soup env check lists the packages")
    config = snapshot.read(lock.config_path or CONFIG_FILE) or b""
    revision = parse_config_pins(config, snapshot.where(CONFIG_FILE)).revision
    base = base_model_pin(workspace, lock.base_model, network=False, revision=revision)
    if lock.base_model_sha is not None and base.digest not in {None, lock.base_model_sha}:
        raise _refusal(
            str(snapshot.label),
            [
                Mismatch(
                    "base_model",
                    str(lock.base_model),
                    _pinned_but(lock.base_model_sha, base.digest),
                )
            ],
        )
    for folder, md5 in sorted(lock.adapters.items()):
        output = snapshot.weights(folder)
        if output is None or output.md5 != md5:
            say(f"note: {folder} is not the adapter that {LOCK} records (md5:{md5})")


# -- the work tree --------------------------------------------------------------------------


def _fetch_missing(workspace: Workspace, outputs: Iterable[Output]) -> None:
    missing = [output for output in outputs if not workspace.dvc.has(output.md5)]
    if missing and workspace.dvc.default_remote:
        say(f"fetching {len(missing)} objects from the DVC remote {workspace.dvc.default_remote}")
        try:
            workspace.dvc.fetch(missing)
        except FatalError as error:
            # What is still missing afterwards is named with its path, which says more.
            say(f"warning: {error}")


def _adopt_equal(workspace: Workspace, snapshot: Snapshot) -> dict[str, str | None]:
    """Stage files that already hold the branch's bytes, so that git does not refuse over them.

    Returns path -> the blob that was staged there before, None where none was.
    """
    staged = workspace.staged.entries
    differing = [p for p, oid in snapshot.entries.items() if staged.get(p) != oid]
    equal = [
        path
        for path in differing
        if (file := target_inside(workspace.root, path)).is_file()
        and file.read_bytes() == snapshot.read(path)
    ]
    workspace.git.stage_blobs({path: snapshot.entries[path] for path in equal})
    return {path: staged.get(path) for path in equal}


def _is_ours(path: str, head: Snapshot) -> bool:
    sources = {output.source for output in head.outputs.values()}
    return path in sources or path.rpartition("/")[0] in {
        f if f != "." else "" for f in head.adapters
    }


def _say_restored(plan: Plan) -> None:
    for output in plan.restore:
        say(f"  restored {output.path}")
    for path in plan.remove:
        say(f"  removed  {path} (kept in the DVC cache)")
