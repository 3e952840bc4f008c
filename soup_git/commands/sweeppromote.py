"""`git soup sweep promote`: one experiment becomes a branch that pins what it was made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from soup_git.commands.branch import BranchReport, free_ref, pin_trailers, report_of
from soup_git.commands.lock import lock_of
from soup_git.core.digests import sha256_hex
from soup_git.core.lock import LOCK, Lock
from soup_git.core.manifest import CONFIG, MANIFEST, Manifest, make_manifest
from soup_git.core.trainconfig import CONFIG_FILE, ConfigPins, parse_config_pins
from soup_git.errors import FatalError
from soup_git.storage.experiments import Experiment, Experiments, find_experiment
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.inputs import written_inputs
from soup_git.storage.pins import Pin, base_model_pin, pointer_pin
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace


def promote(workspace: Workspace, name: str, branch: str, *, force: bool) -> BranchReport:
    """One commit on the experiment's baseline, with its files, its adapter and its lock."""
    ref, old = free_ref(workspace, branch, force=force)
    experiment = find_experiment(Experiments(workspace), name)
    snapshot = workspace.at(experiment.commit, label=experiment.name)
    config = snapshot.require(CONFIG_FILE)
    names = parse_config_pins(config, snapshot.where(CONFIG_FILE))
    folder = PurePosixPath(names.output or "./output").as_posix()
    manifest = _manifest(workspace, snapshot, folder)
    lock = _lock(workspace, snapshot, names, folder, manifest.weights_md5)
    git = workspace.git
    changes: dict[str, str | None] = {
        inside_folder(folder, MANIFEST): git.write_blob(manifest.text().encode()),
        LOCK: git.write_blob(lock.text().encode()),
    }
    tree = git.write_tree(experiment.commit, changes)
    commit = git.write_commit(tree, [experiment.baseline], _message(branch, experiment, lock))
    git.update_refs([RefUpdate(ref, commit, old)], f"git soup sweep promote {experiment.name}")
    return report_of(branch, commit, CONFIG_FILE, config, lock)


def _manifest(workspace: Workspace, snapshot: Snapshot, folder: str) -> Manifest:
    """The experiment's own manifest; made from the weights where its stages wrote none."""
    weights = snapshot.weights(folder)
    if weights is None:
        raise FatalError(
            f"{snapshot.label} has no adapter in {folder}: its dvc.lock names no weights there",
            hint=f"git show {snapshot.label}:dvc.lock; output in {CONFIG_FILE} says where it goes",
        )
    if not workspace.object_is_sound(weights.md5):
        raise FatalError(
            f"the weights of {snapshot.label} (md5:{weights.md5}) are not in the DVC cache",
            hint="promote it in the clone that ran the sweep, then git soup push",
        )
    where = inside_folder(folder, CONFIG)
    if where not in snapshot.entries:
        raise FatalError(
            f"{snapshot.label} holds no {where}: its stage wrote none, or did not declare it",
            hint=f"in dvc.yaml, under the stage's outs: - {where}: {{cache: false}}",
        )
    if inside_folder(folder, MANIFEST) in snapshot.entries:
        found = snapshot.manifest(folder)
        if found.weights_md5 == weights.md5:
            return found
    print_ = workspace.fingerprint(workspace.dvc.object_path(weights.md5), weights.path)
    return make_manifest(
        snapshot.config(folder), print_.tensors,
        weights_md5=print_.md5, weights_size=print_.size, where=snapshot.where(where),
    )  # fmt: skip


def _lock(
    workspace: Workspace, snapshot: Snapshot, names: ConfigPins, folder: str, md5: str
) -> Lock:
    """The lock that the experiment's own stage wrote; else one from what its commit pins."""
    config_sha = sha256_hex(snapshot.require(CONFIG_FILE))
    found = snapshot.lock
    if found is not None and (found.config_sha, found.config_path) == (config_sha, CONFIG_FILE):
        return replace(found, adapters={**found.adapters, folder: md5})
    dataset = PurePosixPath(names.dataset).as_posix() if names.dataset else None
    data = pointer_pin(workspace, snapshot, dataset) if dataset else Pin(None)
    base = base_model_pin(workspace, names.base, network=True, revision=names.revision)
    config = Pin(config_sha, CONFIG_FILE)
    inputs = written_inputs(workspace, snapshot, names, dataset)
    return lock_of(workspace, config, base, data, dataset, names.seed, {folder: md5}, inputs=inputs)


def _message(branch: str, experiment: Experiment, lock: Lock) -> str:
    trailers = [*pin_trailers(lock), f"Soup-Experiment: {experiment.name} {experiment.commit}"]
    return f"Promote {experiment.name} to {branch}\n\n" + "\n".join(trailers) + "\n"
