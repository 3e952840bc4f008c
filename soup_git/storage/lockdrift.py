"""A revision against its own lock: the config and the data it holds, and those it pins."""

from __future__ import annotations

from soup_git.core.digests import sha256_hex
from soup_git.core.lock import LOCK, Lock
from soup_git.core.lockdiff import Mismatch
from soup_git.core.text import shortened
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import FatalError
from soup_git.storage.inputs import input_pin, named_inputs
from soup_git.storage.pins import Pin, pointer_pin
from soup_git.storage.snapshot import Snapshot
from soup_git.storage.workspace import Workspace


def lock_of(snapshot: Snapshot) -> tuple[Lock | None, list[Mismatch]]:
    """The lock, None where there is none; one that contradicts itself is a mismatch of its own."""
    try:
        return snapshot.lock, []
    except FatalError as error:
        return None, [Mismatch("lock", LOCK, str(error))]


def config_path(snapshot: Snapshot) -> str:
    """The config that a revision's lock names, else `soup.yaml`."""
    lock, _ = lock_of(snapshot)
    return (lock.config_path if lock else None) or CONFIG_FILE


def lock_mismatches(workspace: Workspace, snapshot: Snapshot, lock: Lock) -> list[Mismatch]:
    found = []
    config = lock.config_path or CONFIG_FILE
    if lock.config_sha is not None:
        data = snapshot.read(config)
        actual = sha256_hex(data) if data is not None else None
        if actual != lock.config_sha:
            found.append(Mismatch("config", config, pinned_but(lock.config_sha, actual)))
    path = lock.dataset_path
    if path is not None and lock.dataset_sha is not None:
        pin = pointer_pin(workspace, snapshot, path)
        if pin.md5 is not None and lock.dataset_md5 is not None and pin.md5 != lock.dataset_md5:
            what = f"md5:{lock.dataset_md5} pinned, md5:{pin.md5} in {pin.source}"
            found.append(Mismatch("dataset", path, what))
        elif pin.digest is not None and pin.digest != lock.dataset_sha:
            found.append(Mismatch("dataset", path, pinned_but(lock.dataset_sha, pin.digest)))
        elif pin.digest is None and pin.md5 is None:
            found.append(Mismatch("dataset", path, pinned_but(lock.dataset_sha, None)))
    return found + _input_mismatches(workspace, snapshot, lock)


def _input_mismatches(workspace: Workspace, snapshot: Snapshot, lock: Lock) -> list[Mismatch]:
    """What the config names beside base and dataset; which that is says the lock."""
    found = []
    for path in sorted(lock.inputs):
        pin = input_pin(workspace, snapshot, path)
        if not input_holds(workspace, snapshot, lock, path, pin):
            found.append(Mismatch("config", path, pinned_but(str(lock.inputs[path]), pin.digest)))
    return found


def input_holds(workspace: Workspace, snapshot: Snapshot, lock: Lock, path: str, pin: Pin) -> bool:
    """Whether an input that a lock names is the pinned one, as far as its bytes are here."""
    locked = lock.inputs[path]
    if locked is None or pin.digest == locked or pin.md5 is not None:
        return True
    if pin.digest is not None:
        return False
    config = lock.config_path or CONFIG_FILE
    try:
        names = parse_config_pins(snapshot.read(config) or b"", snapshot.where(config))
    except FatalError:
        return False
    named = named_inputs(workspace, names).get(path)
    return named is not None and named.may_be_elsewhere


def pinned_but(pinned: str, actual: str | None, where: str = "at the tip") -> str:
    now = f"{shortened(f'sha256:{actual}')} {where}" if actual else f"missing {where}"
    return f"{shortened(f'sha256:{pinned}')} pinned, {now}"
