"""`git soup lock write|show|check`: the pins of a run, and whether the world still agrees."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import ClassVar

import soup_git
from soup_git.core.digests import SHA256_HEX
from soup_git.core.lock import LOCK, PINS, Lock, now, parse_lock
from soup_git.core.manifest import MANIFEST, parse_manifest_header
from soup_git.core.text import shortened
from soup_git.core.trainconfig import CONFIG_FILE, ConfigPins, parse_config_pins
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table, say
from soup_git.storage.dvcfiles import POINTER_SUFFIX
from soup_git.storage.environment import can_train, env_hash, environment
from soup_git.storage.files import write_atomically
from soup_git.storage.inputs import CheckedInput, checked_inputs, written_inputs
from soup_git.storage.pins import (
    Pin,
    base_model_pin,
    config_pin,
    dataset_path,
    dataset_pin,
    pointer_pin,
)
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace

VERSION = f"git-soup {soup_git.__version__}"


@dataclass(frozen=True)
class Overrides:
    """Pins given on the command line instead of computed: what the original tool asks for."""

    base_model: str | None = None
    base_sha: str | None = None
    dataset_sha: str | None = None
    env_hash: str | None = None

    def __post_init__(self) -> None:
        for flag, value in (
            ("--base-sha", self.base_sha),
            ("--dataset-sha", self.dataset_sha),
            ("--env-hash", self.env_hash),
        ):
            if value is not None and not SHA256_HEX.fullmatch(value):
                raise FatalError(
                    f"{flag} {value!r} is not a sha256: 64 lowercase hexadecimal digits",
                    hint=f"sha256sum FILE prints one; without {flag} it is computed",
                )


@dataclass(frozen=True)
class LockReport:
    schema: ClassVar[str] = "soup.lock/1"
    soup_version: str
    created_at: str
    base_model: str | None
    base_model_sha: str | None
    dataset_sha: str | None
    dataset_md5: str | None
    dataset_path: str | None
    env_hash: str | None
    config_sha: str | None
    config_path: str | None
    closure_sha: str | None
    run: str | None
    seed: int | None
    adapters: dict[str, str]
    inputs: dict[str, str | None]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            ("base_model", _digest(self.base_model_sha), self.base_model or ""),
            ("dataset", _digest(self.dataset_sha), self.dataset_path or ""),
            ("env", _digest(self.env_hash), "git soup env show"),
            ("config", _digest(self.config_sha), self.config_path or ""),
            *(("config", _digest(sha), path) for path, sha in sorted(self.inputs.items())),
            ("closure", _digest(self.closure_sha), ""),
        ]
        rows += [("adapter", f"md5:{md5}", path) for path, md5 in sorted(self.adapters.items())]
        return [
            Table(("pin", "digest", "of"), rows, after=f"{self.soup_version}, {self.created_at}")
        ]


def lock_report(lock: Lock) -> LockReport:
    fields = {**lock.__dict__, "closure_sha": lock.closure_sha, "run": lock.run}
    del fields["env"]
    return LockReport(**{**fields, "adapters": dict(lock.adapters), "inputs": dict(lock.inputs)})


def _digest(value: str | None) -> str:
    return f"sha256:{value}" if value else "not pinned"


# -- write ----------------------------------------------------------------------------------


def write(workspace: Workspace, overrides: Overrides, output: Path | None) -> LockReport:
    """Compute the lock from `soup.yaml` and the work tree, and write it."""
    target = output or workspace.root / LOCK
    before = _read_if_there(target)
    lock = compute(workspace, overrides, before)
    if before is not None and lock.same_but_when(before):
        lock = replace(lock, created_at=before.created_at, soup_version=before.soup_version)
    write_atomically(target, lock.text().encode())
    return lock_report(lock)


def _read_if_there(path: Path) -> Lock | None:
    try:
        return parse_lock(path.read_bytes(), path.name)
    except (FileNotFoundError, FatalError):
        # A lock that cannot be read is what `lock write` is asked to replace.
        return None


def compute(
    workspace: Workspace,
    overrides: Overrides,
    before: Lock | None,
    *,
    quiet: bool = False,
    config: str | None = None,
) -> Lock:
    """The lock of the work tree as it is now; says what it cannot pin, unless `quiet`.

    `config` is the config to pin, where it is another than `before` pins, or soup.yaml.
    """
    snapshot = workspace.work_tree
    config_path = config or _config_path(snapshot, before)
    pinned_config = config_pin(snapshot, config_path)
    names = _names(snapshot, config_path)
    dataset = _dataset_path(workspace, names) or (before.dataset_path if before else None)
    data = _given(overrides.dataset_sha, dataset) or dataset_pin(workspace, snapshot, dataset)
    base_model = overrides.base_model or names.base or (before.base_model if before else None)
    base = _given(overrides.base_sha, base_model) or base_model_pin(
        workspace, base_model, network=True, revision=names.revision
    )
    for name, pin in (("base_model", base), ("dataset", data), ("config", pinned_config)):
        if pin.digest is None and not quiet:
            say(f"warning: {name} is not pinned: {pin.why}")
    inputs = written_inputs(workspace, snapshot, names, dataset)
    if not quiet:
        _say_not_pinned(names, inputs)
    adapters = adapter_digests(snapshot, names.output)
    return lock_of(
        workspace, pinned_config, base, data, dataset, names.seed, adapters, overrides.env_hash,
        inputs=inputs,
    )  # fmt: skip


def _say_not_pinned(names: ConfigPins, inputs: Mapping[str, Pin]) -> None:
    for path, pin in inputs.items():
        if pin.digest is None:
            say(f"warning: {path} is not pinned: {pin.why}")
    for one in names.inputs:
        if one.path is None:
            say(f"warning: {one.key} is not pinned: {one.name} is outside the repository")


def lock_of(
    workspace: Workspace,
    config: Pin,
    base: Pin,
    data: Pin,
    dataset: str | None,
    seed: int | None,
    adapters: Mapping[str, str],
    env_sha: str | None = None,
    *,
    inputs: Mapping[str, Pin],
) -> Lock:
    """A lock of now, with these pins and this machine's environment, or the one of `env_sha`.

    `dataset` is the dataset's own path; `data` may name the pointer that gives its bytes.
    """
    env = None if env_sha else environment(workspace.facts)
    return Lock(
        soup_version=VERSION,
        created_at=now(datetime.now(UTC)),
        base_model=base.source,
        base_model_sha=base.digest,
        dataset_sha=data.digest,
        dataset_md5=data.md5,
        dataset_path=dataset,
        env_hash=env_sha or env_hash(env or {}),
        env=env,
        config_sha=config.digest,
        config_path=config.source if config.digest else None,
        seed=seed,
        adapters=adapters,
        inputs={path: pin.digest for path, pin in inputs.items()},
    )


def adapter_digests(snapshot: Snapshot, output: str | None = None) -> dict[str, str]:
    """Folder -> weights md5 of the adapters; `output` is one that git may not track yet."""
    folders = {*snapshot.adapters, *([str(PurePosixPath(output))] if output else [])}
    texts = {folder: snapshot.read(inside_folder(folder, MANIFEST)) for folder in sorted(folders)}
    return {
        folder: parse_manifest_header(data, snapshot.where(f"{folder}/{MANIFEST}")).weights_md5
        for folder, data in texts.items()
        if data is not None
    }


def _given(digest: str | None, source: str | None) -> Pin | None:
    return None if digest is None else Pin(digest, source)


def _config_path(snapshot: Snapshot, lock: Lock | None) -> str:
    if lock is not None and lock.config_path and snapshot.read(lock.config_path) is not None:
        return lock.config_path
    return CONFIG_FILE


def _names(snapshot: Snapshot, config_path: str) -> ConfigPins:
    data = snapshot.read(config_path)
    return ConfigPins() if data is None else parse_config_pins(data, config_path)


def _dataset_path(workspace: Workspace, names: ConfigPins) -> str | None:
    if names.dataset is None:
        return None
    return dataset_path(workspace, names.dataset, workspace.root)


# -- show -----------------------------------------------------------------------------------


def show(workspace: Workspace, path: Path | None) -> LockReport:
    """Read and validate a lock file."""
    target = path or workspace.root / LOCK
    return lock_report(read_lock(target))


def read_lock(path: Path) -> Lock:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise FatalError(f"there is no {path.name}", hint="git soup lock write") from None
    return parse_lock(data, str(path))


# -- check ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PinCheck:
    """One pin against the world. `state`: ok, drifted, not pinned, unknown, differs."""

    pin: str
    state: str
    locked: str | None
    actual: str | None
    source: str | None
    why: str = ""
    accept: str = ""

    def line(self) -> str:
        match self.state:
            case "drifted":
                of = f"   {self.source}" if self.source else ""
                before = _short(self.locked) if self.locked else "not pinned"
                return f"{self.pin} drifted: {before} -> {_short(self.actual)}{of}"
            case "differs":
                return f"{self.pin} differs (not counted here): {_short(self.locked)} -> {_short(self.actual)}"
            case "unknown":
                return f"{self.pin} cannot be checked here: {self.why}"
            case "not pinned":
                return f"{self.pin} not pinned{': ' + self.why if self.why else ''}"
        return f"{self.pin} holds"


def _short(digest: str | None) -> str:
    return shortened(digest) if digest else "missing"


@dataclass(frozen=True)
class CheckReport:
    schema: ClassVar[str] = "soup.lock-check/1"
    drifted: bool
    pins: list[PinCheck]

    def tables(self) -> Sequence[Table | str]:
        notable = [pin.line() for pin in self.pins if pin.state != "ok"]
        held = dict.fromkeys(pin.pin for pin in self.pins if pin.state == "ok")
        if not notable:
            return [f"soup.lock holds: {', '.join(held)}"]
        return notable

    @property
    def hints(self) -> list[str]:
        return [pin.accept for pin in self.pins if pin.state == "drifted" and pin.accept]


def check(
    workspace: Workspace,
    overrides: Overrides,
    *,
    staged: bool = False,
    strict: bool = False,
    env: bool = False,
) -> tuple[CheckReport, ExitCode]:
    """Compare the lock with the work tree, or what is staged with itself."""
    snapshot = workspace.staged if staged else workspace.work_tree
    lock = snapshot.lock
    if lock is None:
        if staged:
            return CheckReport(drifted=False, pins=[]), ExitCode.OK
        raise FatalError("there is no soup.lock here", hint="git soup lock write")
    counts_env = env or overrides.env_hash is not None or (not staged and can_train())
    pins = check_pins(workspace, lock, snapshot, overrides, counts_env=counts_env, staged=staged)
    drifted = any(p.state == "drifted" or (strict and p.state == "not pinned") for p in pins)
    return CheckReport(drifted, pins), ExitCode.DRIFT if drifted else ExitCode.OK


def pins_now(workspace: Workspace) -> list[PinCheck]:
    """Every pin of the work tree's lock against the work tree; nothing where there is no lock."""
    snapshot = workspace.work_tree
    if snapshot.lock is None:
        return []
    return check_pins(
        workspace, snapshot.lock, snapshot, Overrides(), counts_env=True, staged=False
    )


def check_pins(
    workspace: Workspace,
    lock: Lock,
    snapshot: Snapshot,
    overrides: Overrides,
    *,
    counts_env: bool,
    staged: bool,
) -> list[PinCheck]:
    config_path = lock.config_path or CONFIG_FILE
    config = config_pin(snapshot, config_path)
    now_named = _names(snapshot, config_path)
    # An edited config may name other inputs: those are what would be trained on now.
    is_edited = config.digest is not None and config.digest != lock.config_sha
    names = now_named if is_edited else ConfigPins()
    dataset = _dataset_path(workspace, names) or lock.dataset_path
    if dataset is None:
        dataset = _dataset_path(workspace, now_named)
    data = _given(overrides.dataset_sha, dataset)
    if data is None and staged and dataset is not None:
        data = pointer_pin(workspace, snapshot, dataset)
    elif data is None:
        data = dataset_pin(workspace, snapshot, dataset)
    base_model = overrides.base_model or names.base or lock.base_model
    base = _given(overrides.base_sha, base_model) or base_model_pin(
        workspace, base_model, network=False, revision=now_named.revision
    )
    actual_env = overrides.env_hash or env_hash(environment(workspace.facts))
    found = {"base_model": base, "dataset": data, "env": Pin(actual_env), "config": config}
    checked = [_compare(pin, lock, found[pin], snapshot, counts_env=counts_env) for pin in PINS]
    inputs = checked_inputs(workspace, snapshot, lock, now_named, is_edited=is_edited)
    return checked + [_compare_input(one, snapshot) for one in inputs]


def _compare_input(found: CheckedInput, snapshot: Snapshot) -> PinCheck:
    """What the config names beside base and dataset is part of its pin."""
    path, pin = found.path, found.pin
    tagged = f"sha256:{found.locked}" if found.locked else None
    actual = f"sha256:{pin.digest}" if pin.digest else None
    if found.locked is None and found.is_in_lock:
        return PinCheck("config", "not pinned", None, actual, path, path)
    if found.locked is not None and pin.digest == found.locked:
        return PinCheck("config", "ok", tagged, actual, path)
    if found.is_elsewhere:
        return PinCheck("config", "unknown", tagged, None, path, pin.why)
    accept = _accept("config", _way_back_to(snapshot, path) if found.locked else "")
    return PinCheck("config", "drifted", tagged, actual, path, pin.why, accept)


def _compare(name: str, lock: Lock, pin: Pin, snapshot: Snapshot, *, counts_env: bool) -> PinCheck:
    locked = lock.pin(name)
    tagged = f"sha256:{locked}" if locked else None
    actual = f"sha256:{pin.digest}" if pin.digest else None
    if locked is None:
        return PinCheck(name, "not pinned", None, actual, pin.source, pin.why)
    if pin.digest == locked:
        return PinCheck(name, "ok", tagged, actual, pin.source)
    if pin.digest is None and name == "base_model":
        return PinCheck(name, "unknown", tagged, None, pin.source, pin.why)
    if pin.digest is None and pin.md5 is not None and lock.dataset_md5 is not None:
        # The bytes are elsewhere; DVC's digest says whether they are the pinned ones.
        if pin.md5 == lock.dataset_md5:
            return PinCheck(name, "ok", tagged, f"md5:{pin.md5}", pin.source)
        tagged, actual = f"md5:{lock.dataset_md5}", f"md5:{pin.md5}"
    if name == "env" and not counts_env:
        return PinCheck(name, "differs", tagged, actual, None, "environments may differ")
    accept = _accept(name, _way_back(snapshot, lock, name, pin))
    return PinCheck(name, "drifted", tagged, actual, pin.source, pin.why, accept)


def _accept(name: str, back: str) -> str:
    if name == "env":
        return "git soup env check lists the packages; git soup lock write to accept"
    return "git soup lock write to accept" + (f", {back} to go back" if back else "")


def _way_back(snapshot: Snapshot, lock: Lock, name: str, pin: Pin) -> str:
    """The command that brings the pinned input back, where there is one."""
    path = pin.source
    if name in {"base_model", "env"} or path is None:
        return ""
    output = snapshot.outputs.get(path.removesuffix(POINTER_SUFFIX))
    if output is None:
        return f"git checkout -- {shlex.quote(path)}"
    steps = (
        [] if output.md5 == lock.dataset_md5 else [f"git checkout -- {shlex.quote(output.source)}"]
    )
    return " && ".join([*steps, f"rm -rf {shlex.quote(output.path)}", "git soup checkout"])


def _way_back_to(snapshot: Snapshot, path: str) -> str:
    """The command that brings back what git or DVC holds at a path."""
    output = snapshot.outputs.get(path)
    if output is not None:
        is_pointer = output.source.endswith(POINTER_SUFFIX)
        steps = [f"git checkout -- {shlex.quote(output.source)}"] if is_pointer else []
        return " && ".join([*steps, f"rm -rf {shlex.quote(path)}", "git soup checkout"])
    below = f"{path}/"
    if not any(entry == path or entry.startswith(below) for entry in snapshot.entries):
        return ""
    more = " && git soup checkout" if any(p.startswith(below) for p in snapshot.outputs) else ""
    return f"git checkout -- {shlex.quote(path)}{more}"
