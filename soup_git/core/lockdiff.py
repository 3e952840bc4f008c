"""What two locks pin differently, and what their environments hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from soup_git.core.lock import PINS, Lock


@dataclass(frozen=True)
class PinChange:
    """One pin on both sides. None: that side does not pin it."""

    pin: str
    """base_model, dataset, env or config; in `facts` another field of the lock."""
    old: str | None
    new: str | None

    @property
    def changed(self) -> bool:
        return self.old != self.new


@dataclass(frozen=True)
class PackageChange:
    """A package, or `python`, `platform`, `accelerator`. None: not there."""

    name: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Mismatch:
    """One thing of a revision that is not what its lock, or its own digest, says."""

    pin: str
    path: str
    what: str
    mend: str = ""
    """How to get the bytes again, where bytes that are not what they claim are the matter."""

    def line(self) -> str:
        return f"  {self.pin:<10}{self.path}   {self.what}"


@dataclass(frozen=True)
class LockDiff:
    pins: list[PinChange]
    """All four, in the order of `PINS`, as sha256 hex, whether they changed or not."""
    facts: list[PinChange]
    """What else differs: base_model_id, dataset_path, config_path, seed, soup_version, created_at."""
    adapters: list[PinChange]
    """Folder, and the md5 of its weights on both sides, where these differ."""
    packages: list[PackageChange]
    environment: str
    """`same`, `packages` (the list says which), or `digest only` (a lock without the list)."""
    base_locked: bool
    head_locked: bool
    """Whether the revision has a lock that can be read."""
    inputs: list[PinChange] = field(default_factory=list)
    """Path, and its digest on both sides, of what the configs name beside base and dataset."""
    base_drift: list[Mismatch] = field(default_factory=list)
    head_drift: list[Mismatch] = field(default_factory=list)
    """What the revision's own config and data are not as its lock says; a damaged lock too."""


SAME, PACKAGES, DIGEST_ONLY = "same", "packages", "digest only"


def pin_changes(old: Lock | None, new: Lock | None) -> list[PinChange]:
    """The four pins on both sides; a side without a lock pins nothing."""
    before, after = ({n: lock.pin(n) for n in PINS} if lock else {} for lock in (old, new))
    return [PinChange(name, before.get(name), after.get(name)) for name in PINS]


def fact_changes(old: Lock | None, new: Lock | None) -> list[PinChange]:
    """What locks say beside their pins, where the two say it differently."""
    before, after = _facts(old), _facts(new)
    found = [PinChange(name, before.get(name), after.get(name)) for name in {**before, **after}]
    return [change for change in found if change.changed]


def _facts(lock: Lock | None) -> dict[str, str]:
    if lock is None:
        return {}
    told = {
        "base_model_id": lock.base_model,
        "dataset_path": lock.dataset_path,
        "config_path": lock.config_path,
        "seed": lock.seed,
        "closure": lock.closure_sha,
        "soup_version": lock.soup_version,
        "created_at": lock.created_at,
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def adapter_changes(old: Lock | None, new: Lock | None) -> list[PinChange]:
    """Folder -> md5 of the weights, where the two locks differ."""
    before, after = (dict(lock.adapters) if lock else {} for lock in (old, new))
    found = [PinChange(path, before.get(path), after.get(path)) for path in {**before, **after}]
    return sorted((change for change in found if change.changed), key=lambda c: c.pin)


def input_changes(old: Lock | None, new: Lock | None) -> list[PinChange]:
    """Path -> digest of what the pin `config` holds beside the config, where the two differ."""
    before, after = (dict(lock.inputs) if lock else {} for lock in (old, new))
    found = [PinChange(path, before.get(path), after.get(path)) for path in {**before, **after}]
    return sorted((change for change in found if change.changed), key=lambda c: c.pin)


def environment_changes(old: Lock | None, new: Lock | None) -> tuple[str, list[PackageChange]]:
    """(`same`, `packages` or `digest only`; the packages that differ)."""
    if (old and old.env_hash) == (new and new.env_hash):
        return SAME, []
    if old is None or new is None or old.env is None or new.env is None:
        return DIGEST_ONLY, []
    return PACKAGES, package_changes(old.env, new.env)


def package_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[PackageChange]:
    """Two environments as `environment()` describes them, by the name of what differs."""
    before, after = _by_name(old), _by_name(new)
    return [
        PackageChange(name, before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _by_name(env: Mapping[str, Any]) -> dict[str, str]:
    named = {key: str(value) for key, value in env.items() if key != "packages"}
    packages = env.get("packages")
    lines = packages if isinstance(packages, list) else []
    return {**named, **{n: v for n, _, v in (str(line).partition("==") for line in lines)}}
