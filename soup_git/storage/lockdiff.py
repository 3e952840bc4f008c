"""What the locks of two revisions pin differently, and whether each revision holds to its own."""

from __future__ import annotations

from soup_git.core.lock import LOCK, Lock
from soup_git.core.lockdiff import (
    LockDiff,
    Mismatch,
    PackageChange,
    PinChange,
    adapter_changes,
    environment_changes,
    fact_changes,
    input_changes,
    pin_changes,
)
from soup_git.errors import FatalError
from soup_git.storage.lockdrift import lock_mismatches, lock_of
from soup_git.storage.workspace import Workspace

__all__ = ["LockDiff", "Mismatch", "PackageChange", "PinChange", "lock_changes"]


def lock_changes(workspace: Workspace, a: str, b: str) -> LockDiff:
    """Compare `soup.lock` of two revisions. Raises `FatalError` for what names no commit.

    A lock that cannot be read counts as none, and is the revision's own drift.
    """
    old, base_drift = _locked(workspace, a)
    new, head_drift = _locked(workspace, b)
    environment, packages = environment_changes(old, new)
    return LockDiff(
        pins=pin_changes(old, new),
        facts=fact_changes(old, new),
        adapters=adapter_changes(old, new),
        packages=packages,
        environment=environment,
        inputs=input_changes(old, new),
        base_locked=old is not None,
        head_locked=new is not None,
        base_drift=base_drift,
        head_drift=head_drift,
    )


def _locked(workspace: Workspace, revision: str) -> tuple[Lock | None, list[Mismatch]]:
    snapshot = workspace.at(revision)
    lock, drift = lock_of(snapshot)
    if lock is not None:
        try:
            drift = lock_mismatches(workspace, snapshot, lock)
        except FatalError as error:  # a pointer or a folder's list that is damaged
            drift = [Mismatch("dataset", lock.dataset_path or LOCK, str(error))]
    return lock, drift
