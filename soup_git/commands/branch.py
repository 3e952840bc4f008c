"""`git soup branch`: a git branch that pins config, dataset, base and environment.

The commit is built beside the index, on top of a revision's tree; neither index nor work
tree is touched. Objects first (dataset into the cache, blobs, tree, commit), the ref last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import soup_git
from soup_git.commands.lock import adapter_digests, lock_of
from soup_git.core.digests import sha256_hex
from soup_git.core.lock import LOCK, Lock
from soup_git.core.manifest import CONFIG
from soup_git.core.names import check_name
from soup_git.core.text import printable
from soup_git.core.trainconfig import CONFIG_FILE, MAX_CONFIG_BYTES, ConfigPins, parse_config_pins
from soup_git.errors import FatalError
from soup_git.render.report import Table, say
from soup_git.storage.dvcfiles import POINTER_SUFFIX, pointer_text
from soup_git.storage.dvcobjects import walk
from soup_git.storage.files import inside
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.inputs import input_pin, written_inputs
from soup_git.storage.pins import Pin, base_model_pin
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace

MAX_BYTES_IN_GIT = 50_000_000


@dataclass(frozen=True)
class BranchReport:
    schema: ClassVar[str] = "soup.branch/1"
    name: str
    commit: str
    config_path: str
    config_sha: str
    dataset_path: str | None
    dataset_sha: str | None
    base_model: str | None
    base_model_sha: str | None
    env_hash: str | None
    closure_sha: str | None
    inputs: dict[str, str | None]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            ("branch", self.name, self.commit[:10]),
            ("config", self.config_path, f"sha256:{self.config_sha}"),
            *(("config", path, _pinned(sha)) for path, sha in sorted(self.inputs.items())),
            ("dataset", self.dataset_path or "-", _pinned(self.dataset_sha)),
            ("base_model", self.base_model or "-", _pinned(self.base_model_sha)),
            ("env", "", _pinned(self.env_hash)),
        ]
        return [Table(("", "", ""), rows)]


def _pinned(digest: str | None) -> str:
    return f"sha256:{digest}" if digest else "not pinned"


@dataclass(frozen=True)
class PinnedData:
    """A dataset as a commit will hold it: its digests, and path -> blob id to put there."""

    path: str
    sha256: str
    md5: str
    changes: dict[str, str | None]


def create(
    workspace: Workspace,
    name: str,
    *,
    config: Path | None,
    base_model: str | None,
    dataset: Path | None,
    start: str,
    force: bool,
) -> BranchReport:
    """Pin the work tree's config and dataset on top of `start`, as branch `name`."""
    ref, old = free_ref(workspace, name, force=force)
    parent = workspace.git.commit(start)
    snapshot = workspace.at(parent, label=start)
    config_path, config_data = _read_config(workspace, config)
    names = parse_config_pins(config_data, config_path)
    data = _pin_dataset(workspace, snapshot, dataset, names)
    inputs, changes = _pin_inputs(workspace, snapshot, names, data.path if data else None)
    base_model = base_model or names.base
    base = base_model_pin(workspace, base_model, network=True, revision=names.revision)
    if base.digest is None:
        say(f"warning: base_model is not pinned: {base.why}")
    adapters = adapter_digests(snapshot)
    pin = Pin(data.sha256, data.path, md5=data.md5) if data else Pin(None)
    pinned_config = Pin(sha256_hex(config_data), config_path)
    lock = lock_of(
        workspace, pinned_config, base, pin, pin.source, names.seed, adapters, inputs=inputs
    )
    if snapshot.lock is None or snapshot.lock.run != lock.run:
        # What the pipeline made from other inputs is not the result of these.
        adapters.pop(PurePosixPath(names.output or "./output").as_posix(), None)
    changes |= {config_path: workspace.git.write_blob(config_data)}
    changes |= data.changes if data else {}
    changes[LOCK] = workspace.git.write_blob(lock.text().encode())
    tree = workspace.git.write_tree(parent, changes)
    commit = workspace.git.write_commit(tree, [parent], _message(name, lock))
    workspace.git.update_refs(
        [RefUpdate(ref, commit, old)],
        f"git soup branch: {'moved' if old else 'created'} from {start}",
    )
    return report_of(name, commit, config_path, config_data, lock)


def report_of(name: str, commit: str, config_path: str, config: bytes, lock: Lock) -> BranchReport:
    """What a branch that was just made pins."""
    return BranchReport(
        name=name,
        commit=commit,
        config_path=config_path,
        config_sha=sha256_hex(config),
        dataset_path=lock.dataset_path,
        dataset_sha=lock.dataset_sha,
        base_model=lock.base_model,
        base_model_sha=lock.base_model_sha,
        env_hash=lock.env_hash,
        closure_sha=lock.closure_sha,
        inputs=dict(lock.inputs),
    )


def free_ref(workspace: Workspace, name: str, *, force: bool) -> tuple[str, str | None]:
    """The ref of a branch to be, and what it names now; refused unless free, or forced."""
    ref = f"refs/heads/{check_name(name)}"
    old = workspace.git.resolve(ref)
    if old is None:
        return ref, None
    if not force:
        raise FatalError(
            f"a branch named {name!r} already exists",
            hint=f"git soup branch --force {name} … moves it; git soup checkout {name} goes there",
        )
    place = workspace.git.checked_out().get(name)
    if place is not None:
        raise FatalError(
            f"{name!r} is checked out in {place} and is not moved under your feet",
            hint=f"git switch --detach there, then again; or edit, git soup lock write and git commit on {name}",
        )
    return ref, old


def _read_config(workspace: Workspace, config: Path | None) -> tuple[str, bytes]:
    path = config if config is not None else workspace.root / CONFIG_FILE
    if not path.is_file():
        raise FatalError(
            f"there is no config {path if config else CONFIG_FILE}",
            hint="git soup branch NAME -c FILE names another one",
        )
    relative = inside(workspace.root, path)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise FatalError(
            f"{relative} is {path.stat().st_size:,} bytes; a config has at most 1 MiB",
            hint=f"ls -l {relative}",
        )
    return relative, path.read_bytes()


# -- the dataset ------------------------------------------------------------------------------


def _pin_dataset(
    workspace: Workspace, snapshot: Snapshot, named: Path | None, names: ConfigPins
) -> PinnedData | None:
    if named is None and names.dataset is None:
        say("warning: dataset is not pinned: no --dataset, and soup.yaml has no data.train")
        return None
    path = named if named is not None else workspace.root / str(names.dataset)
    relative = inside(workspace.root, path)
    if not path.exists():
        return _pin_what_the_pointer_names(workspace, relative)
    _refuse_part_of_a_whole(workspace, relative)
    return _pin_data(workspace, snapshot, path, relative)


def _pin_data(workspace: Workspace, snapshot: Snapshot, path: Path, relative: str) -> PinnedData:
    found = workspace.data_digests(path)
    changes = _dataset_changes(workspace, snapshot, path, relative, found.md5, found.size)
    if workspace.data_digests(path) != found:
        raise FatalError(
            f"{relative} was written to while it was read", hint="let it be finished, then again"
        )
    return PinnedData(relative, found.sha256, found.md5, changes)


def _pin_what_the_pointer_names(workspace: Workspace, path: str) -> PinnedData:
    output = workspace.work_tree.outputs.get(path)
    if output is None or not workspace.dvc.has(output.md5):
        raise FatalError(
            f"the dataset {path} is not here",
            hint=f"dvc pull {path}"
            if output
            else "git soup branch NAME --dataset FILE names another one",
        )
    blob = workspace.git.write_blob(workspace.work_tree.require(output.source))
    return PinnedData(path, workspace.object_sha256(output.md5), output.md5, {output.source: blob})


def _pin_inputs(
    workspace: Workspace, snapshot: Snapshot, names: ConfigPins, dataset: str | None
) -> tuple[dict[str, Pin], dict[str, str | None]]:
    """What the config names beside base and dataset, and path -> blob for the commit.

    Files and rows go along as they are, as the config does. An adapter or a model, and what is
    part of a folder that DVC tracks, is the one that the start holds.
    """
    here = written_inputs(workspace, workspace.work_tree, names, dataset)
    changes: dict[str, str | None] = {}
    pins = {}
    for path, pin in here.items():
        on_disk = workspace.root / path
        if on_disk.exists() and not _is_held_as_a_whole(workspace, path):
            data = _pin_data(workspace, snapshot, on_disk, path)
            pins[path] = Pin(data.sha256, path, md5=data.md5)
            changes |= data.changes
            continue
        pins[path] = input_pin(workspace, snapshot, path)
        if pins[path].digest is None:
            say(f"warning: {path} is not pinned: {pins[path].why}")
        elif pins[path].digest != pin.digest:
            say(f"note: {path} is pinned as {snapshot.label} has it, not as it is here")
    return pins, changes


def _is_held_as_a_whole(workspace: Workspace, path: str) -> bool:
    is_model = any((workspace.root / path / name).is_file() for name in (CONFIG, "config.json"))
    return is_model or any(path.startswith(f"{p}/") for p in workspace.work_tree.outputs)


def _refuse_part_of_a_whole(workspace: Workspace, path: str) -> None:
    whole = [p for p in workspace.work_tree.outputs if path.startswith(f"{p}/")]
    if whole:
        raise FatalError(
            f"{path} is part of {whole[0]}, which DVC tracks as a whole",
            hint=f"git soup branch NAME --dataset {whole[0]}",
        )


def _dataset_changes(
    workspace: Workspace, snapshot: Snapshot, path: Path, relative: str, md5: str, size: int
) -> dict[str, str | None]:
    """Path -> blob for the commit; what must be in the cache is there when this returns."""
    git, outputs = workspace.git, workspace.work_tree.outputs
    output = outputs.get(relative)
    if output is not None and not output.source.endswith(POINTER_SUFFIX):
        if output.md5 != md5:
            raise FatalError(
                f"{relative} is the output of a stage in {output.source} and was changed since",
                hint="dvc repro, or dvc commit to record the change",
            )
        return {output.source: git.write_blob(workspace.work_tree.require(output.source))}
    in_git = relative in workspace.staged.entries or any(
        entry.startswith(f"{relative}/") for entry in workspace.staged.entries
    )
    # `dvc add` leaves its pointer for the user to stage; it counts from the moment it is there.
    has_pointer = output is not None or (workspace.root / f"{relative}{POINTER_SUFFIX}").is_file()
    if not has_pointer and (in_git or size <= MAX_BYTES_IN_GIT):
        return _blobs(workspace, snapshot, path, relative)
    return _to_cache(workspace, snapshot, path, relative)


def _blobs(
    workspace: Workspace, snapshot: Snapshot, path: Path, relative: str
) -> dict[str, str | None]:
    gone = _held_otherwise(snapshot, relative)
    if path.is_file():
        return gone | {relative: workspace.git.write_blob_of(path)}
    return gone | {
        f"{relative}/{file.relative_to(path).as_posix()}": workspace.git.write_blob_of(file)
        for file in walk(path)
    }


def _held_otherwise(snapshot: Snapshot, relative: str) -> dict[str, str | None]:
    """What the start has at this path, file or folder, git's or DVC's: removed, so that one owns it."""
    pointer = f"{relative}{POINTER_SUFFIX}"
    return {
        entry: None
        for entry in snapshot.entries
        if entry in {relative, pointer} or entry.startswith(f"{relative}/")
    }


def _to_cache(
    workspace: Workspace, snapshot: Snapshot, path: Path, relative: str
) -> dict[str, str | None]:
    folder, _, name = relative.rpartition("/")
    dvc = workspace.dvc_of(relative)
    if path.is_dir():
        md5, size, count = dvc.store_folder(path)
        text = pointer_text(name, md5, size, count)
    else:
        md5, _ = dvc.store_file(path)
        text = pointer_text(name, md5, dvc.object_path(md5).stat().st_size)
    ignore = f"{folder}/.gitignore" if folder else ".gitignore"
    lines = (snapshot.read(ignore) or b"").decode("utf-8", "surrogateescape")
    if f"/{name}" not in lines.splitlines():
        gap = "" if not lines or lines.endswith("\n") else "\n"
        lines += f"{gap}/{name}\n"
    git = workspace.git
    return _held_otherwise(snapshot, relative) | {
        f"{relative}{POINTER_SUFFIX}": git.write_blob(text.encode()),
        ignore: git.write_blob(lines.encode("utf-8", "surrogateescape")),
    }


def _message(name: str, lock: Lock) -> str:
    pinned = [p for p in (lock.config_path, lock.dataset_path, lock.base_model) if p]
    body = "\n".join(pin_trailers(lock))
    return f"Pin {name}: {_one_line(', '.join(pinned))}\n\n{body}\n"


def pin_trailers(lock: Lock) -> list[str]:
    """The pins as the trailers of the commit that pins them."""
    trailers = [f"Soup-Config: {printable(lock.config_path or '')} sha256:{lock.config_sha}"]
    if lock.dataset_path:
        trailers.append(f"Soup-Dataset: {printable(lock.dataset_path)} sha256:{lock.dataset_sha}")
    if lock.base_model:
        trailers.append(f"Soup-Base-Model: {_one_line(lock.base_model)}")
    trailers.append(f"Soup-Version: {soup_git.__version__}")
    return trailers


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


# -- as git does them -------------------------------------------------------------------------


def delete(workspace: Workspace, name: str, *, force: bool) -> None:
    """`git branch -d`: refuses a branch that is not merged, unless forced."""
    _require(workspace, name)
    hint = f"git soup branch -d --force {name} deletes it all the same; its reflog goes with it"
    if workspace.git.checked_out().get(name) is not None:
        hint = "git switch to another branch there, then again"
    done = workspace.git.run_with_patience(
        "branch", "--quiet", "-D" if force else "-d", "--", name, hint=hint
    )
    say(done.stdout.decode(errors="replace").strip() or f"deleted branch {name}")


def rename(workspace: Workspace, old: str, new: str, *, force: bool) -> None:
    """`git branch -m`."""
    _require(workspace, old)
    check_name(new)
    hint = f"git soup branch -m --force {old} {new} replaces {new}"
    workspace.git.run_with_patience("branch", "-M" if force else "-m", "--", old, new, hint=hint)
    say(f"renamed branch {old} to {new}")


def _require(workspace: Workspace, name: str) -> None:
    ref = f"refs/heads/{name}"
    if ref not in workspace.git.refs(ref):
        raise FatalError(f"there is no branch {name!r}", hint="git soup branches lists them")
