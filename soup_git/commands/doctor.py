"""`git soup doctor`: what of this machine, installation and clone stands in the way.

Outside a repository the machine and the packages are looked at, inside one its workspace,
and where there is a soup.yaml what its training needs. Nothing is changed, imported or
contacted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soup_git.commands import clonechecks, machinechecks, packagechecks
from soup_git.core.checkup import Check
from soup_git.core.lock import LOCK
from soup_git.core.text import counted
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.environment import can_train
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class DoctorReport:
    schema: ClassVar[str] = "soup.doctor/1"
    checks: list[Check]
    problems: int
    warnings: int

    def tables(self) -> Sequence[Table | str]:
        rows = [(c.area, c.name, c.state, c.found) for c in self.checks]
        parts: list[Table | str] = [Table(("", "", "", ""), rows)]
        for check in self.checks:
            if check.state != "ok":
                parts += ["", f"{check.state}: {check.name}: {check.found}"]
                parts += [f"  {check.means}"] if check.means else []
                parts += [f"  fix: {check.fix}"] if check.fix else []
        if not self.problems and not self.warnings:
            return [*parts, "", "nothing is wrong"]
        return [
            *parts,
            "",
            f"{counted(self.problems, 'problem')}, {counted(self.warnings, 'warning')}",
        ]


def doctor(start: Path) -> tuple[DoctorReport, ExitCode]:
    """Everything that can be looked at from `start`; the code is 1 when there is a problem."""
    git, why = _repository(start)
    root = git.root if git is not None else start
    trains = (root / CONFIG_FILE).is_file()
    found = [*machinechecks.checks(root), *packagechecks.checks(trains=trains)]
    if git is None:
        found.append(
            Check("workspace", "repository", "ok", "none here", why, "git init, then git soup init")
        )
    else:
        found += _of_repository(git)
    if trains:
        found += _of_training(git, root)
    states = [check.state for check in found]
    report = DoctorReport(found, states.count("problem"), states.count("warning"))
    return report, ExitCode.CHECK_FAILED if report.problems else ExitCode.OK


def _repository(start: Path) -> tuple[GitRepo | None, str]:
    try:
        return GitRepo.discover(start), ""
    except FatalError as error:
        return None, str(error)


# -- the workspace ----------------------------------------------------------------------------


def _of_repository(git: GitRepo) -> Iterator[Check]:
    workspace = Workspace(git)
    if not workspace.dvc.exists:
        yield Check(
            "workspace", "parts", "warning", "this repository is not a workspace",
            "git soup keeps nothing in it yet", "git soup init",
        )  # fmt: skip
        yield clonechecks.left_locks(git)
        return
    yield _parts(git)
    yield _hooks(git)
    yield _settings(git)
    yield from clonechecks.checks(workspace)


def _parts(git: GitRepo) -> Check:
    """What `git soup init --check` says."""
    from soup_git.commands.init import init

    report, _ = init(git.here, check_only=True)
    missing = [f"{part.part} ({part.note})" for part in report.parts if part.state == "missing"]
    if missing:
        return Check(
            "workspace", "parts", "problem", f"missing: {', '.join(missing)}",
            "hooks, merges or fetches work only in part", "git soup init",
        )  # fmt: skip
    return Check("workspace", "parts", "ok", "complete: files, hooks, drivers, settings")


def _settings(git: GitRepo) -> Check:
    """Whether DVC can read `.git/config` where it copies it, for an experiment that runs apart."""
    from soup_git.storage.gitsetup import repeated_keys, respelling

    repeated = repeated_keys(git)
    if not repeated:
        return Check("workspace", "settings", "ok", "DVC's experiments can read .git/config")
    return Check(
        "workspace", "settings", "warning", f"{repeated[0]} is in .git/config more than once",
        "dvc exp run --temp and its queue stop with DuplicateError; spelled apart, git still reads"
        " one key", respelling(git, repeated[0]),
    )  # fmt: skip


def _hooks(git: GitRepo) -> Check:
    """Hooks of others: they run, chained behind ours, unless all repositories share a folder."""
    from soup_git.storage.githooks import CHAINED, HOOKS

    shared = git.config_values("core.hooksPath", "--global")
    if shared and not git.config_values("core.hooksPath", "--local"):
        return Check(
            "workspace", "hooks", "problem", f"core.hooksPath is {shared[0]} for all repositories",
            "git runs those, and not this repository's",
            "git config --local core.hooksPath .git/hooks, then git soup init",
        )  # fmt: skip
    chained = [hook for hook in HOOKS if (git.hooks_dir / f"{hook}{CHAINED}").exists()]
    deaf = [h for h in chained if not os.access(git.hooks_dir / f"{h}{CHAINED}", os.X_OK)]
    if deaf:
        return Check(
            "workspace", "hooks", "warning", f"{', '.join(deaf)} of yours is not executable",
            "it was chained behind ours, and does not run",
            f"chmod +x {git.hooks_dir / (deaf[0] + CHAINED)}",
        )  # fmt: skip
    return Check(
        "workspace", "hooks", "ok", f"chained: {', '.join(chained)}" if chained else "ours alone"
    )


# -- training ---------------------------------------------------------------------------------


def _of_training(git: GitRepo | None, root: Path) -> Iterator[Check]:
    yield _config(root)
    if (root / LOCK).is_file() and git is not None:
        yield _environment(git)
    yield _base(root)


def _config(root: Path) -> Check:
    from soup_git.training.config import load_config

    upstream = can_train()
    try:
        load_config(root / CONFIG_FILE, check_upstream=upstream)
    except FatalError as error:
        first, *rest = str(error).splitlines()
        more = f" (and {counted(len(rest), 'more line')})" if rest else ""
        return Check(
            "training", CONFIG_FILE, "problem", first + more, "no training starts with it",
            "git soup config check",
        )  # fmt: skip
    note = "valid" if upstream else "valid; the options of TRL and PEFT were not checked"
    return Check("training", CONFIG_FILE, "ok", note)


def _environment(git: GitRepo) -> Check:
    """What `git soup env check` says; a healthy machine may differ from a colleague's."""
    from soup_git.commands.env import check

    try:
        report, code = check(Workspace(git))
    except FatalError as error:
        return Check("training", "environment", "warning", str(error), "", error.hint)
    if code == ExitCode.OK:
        return Check("training", "environment", "ok", "the locked one")
    names = [str(d["name"]) for d in report.differences]
    found = f"not the locked one: {', '.join(names[:4])}{'…' if len(names) > 4 else ''}" if names else (
        "not the locked one"
    )  # fmt: skip
    return Check(
        "training", "environment", "warning", found, "a training here gives other bytes",
        "git soup env check lists the differences; git soup lock write accepts them",
    )  # fmt: skip


def _base(root: Path) -> Check:
    """Is the base here, or may it be fetched? Offline settings and the hub's cache."""
    try:
        base = parse_config_pins((root / CONFIG_FILE).read_bytes(), CONFIG_FILE).base
    except FatalError:
        base = None
    cache = _hub_cache()
    offline = [n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _is_set(n)]
    setting = f"; {' and '.join(offline)} set" if offline else ""
    if base is None:
        return Check("training", "base model", "ok", f"none named{setting}")
    if (root / base).is_dir():
        return Check("training", "base model", "ok", f"{base}, a folder here{setting}")
    if (cache / f"models--{base.replace('/', '--')}" / "snapshots").is_dir():
        return Check("training", "base model", "ok", f"{base}, in {cache}{setting}")
    if offline:
        return Check(
            "training", "base model", "problem", f"{base} is not in {cache}{setting}",
            "it cannot be fetched either", f"unset {' '.join(offline)}, or name a folder as base",
        )  # fmt: skip
    parent = next(p for p in (cache, *cache.parents) if p.exists())
    if not os.access(parent, os.W_OK):
        return Check(
            "training", "base model", "problem", f"{base}, and {cache} cannot be written",
            "it will be fetched from the hub, and has no place", "export HF_HOME=PATH",
        )  # fmt: skip
    return Check("training", "base model", "ok", f"{base}, to be fetched into {cache}")


def _hub_cache() -> Path:
    home = (
        os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}
