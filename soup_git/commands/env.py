"""`git soup env show|check`: the environment behind `env_hash`, and which packages differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from soup_git.commands.lock import read_lock
from soup_git.core.lock import LOCK
from soup_git.core.lockdiff import package_changes
from soup_git.core.text import shortened
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.environment import env_hash, environment
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class EnvReport:
    schema: ClassVar[str] = "soup.env/1"
    env_hash: str
    python: str
    platform: str
    accelerator: str
    packages: list[str]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            ("env_hash", f"sha256:{self.env_hash}"),
            ("python", self.python),
            ("platform", self.platform),
            ("accelerator", self.accelerator),
        ]
        note = [] if self.packages else ["no package of the train extra is installed here"]
        return [Table(("", ""), rows), *self.packages, *note]


def show(workspace: Workspace) -> EnvReport:
    env = environment(workspace.facts)
    return EnvReport(env_hash=env_hash(env), **env)


@dataclass(frozen=True)
class EnvCheckReport:
    schema: ClassVar[str] = "soup.env-check/1"
    locked: str
    actual: str
    differences: list[dict[str, Any]]

    def tables(self) -> Sequence[Table | str]:
        if self.locked == self.actual:
            return [f"the environment is the locked one (sha256:{self.actual})"]
        if not self.differences:
            return [
                f"env drifted: {shortened(self.locked)} -> {shortened(self.actual)}; the lock lists no packages"
            ]
        rows = [(d["name"], d["locked"] or "-", d["actual"] or "-") for d in self.differences]
        return [Table(("", "locked", "here"), rows)]


def check(workspace: Workspace) -> tuple[EnvCheckReport, ExitCode]:
    """Which packages differ between the lock's environment and this one."""
    lock = read_lock(workspace.root / LOCK)
    if lock.env_hash is None:
        raise FatalError("soup.lock pins no environment", hint="git soup lock write")
    actual = environment(workspace.facts)
    report = EnvCheckReport(
        locked=lock.env_hash,
        actual=env_hash(actual),
        differences=_differences(lock.env, actual) if lock.env is not None else [],
    )
    return report, ExitCode.OK if report.locked == report.actual else ExitCode.DRIFT


def _differences(locked: Mapping[str, Any], actual: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": change.name, "locked": change.old, "actual": change.new}
        for change in package_changes(locked, actual)
    ]
