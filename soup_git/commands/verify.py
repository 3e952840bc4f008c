"""`git soup verify`: rebuild an adapter from its lock, elsewhere, and compare digests."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from soup_git.commands.diff import compare
from soup_git.commands.lock import Overrides, check_pins
from soup_git.core.lock import Lock
from soup_git.core.manifest import Manifest
from soup_git.core.trainconfig import CONFIG_FILE, parse_config_pins
from soup_git.errors import DriftError, ExitCode, FatalError
from soup_git.render.report import Table, say
from soup_git.storage.workspace import Snapshot, Workspace
from soup_git.storage.worktree import restore_output


@dataclass(frozen=True)
class VerifyReport:
    schema: ClassVar[str] = "soup.verify/1"
    revision: str
    adapter: str
    verdict: str
    """identical, equivalent (within the tolerance) or different."""
    expected_md5: str
    rebuilt_md5: str
    largest_relative_difference: float | None
    largest_in: str | None

    def tables(self) -> Sequence[Table | str]:
        rows = [
            (self.adapter, self.verdict),
            ("expected", f"md5:{self.expected_md5}"),
            ("rebuilt", f"md5:{self.rebuilt_md5}"),
        ]
        if self.largest_relative_difference is not None:
            rows.append(
                (
                    "largest relative difference",
                    f"{self.largest_relative_difference:.3g} in {self.largest_in}",
                )
            )
        return [Table(("", ""), rows)]


def verify(
    workspace: Workspace, revision: str, tolerance: float | None
) -> tuple[VerifyReport, ExitCode]:
    """Train what `revision` pins in a scratch work tree; exit 0 only for the same adapter."""
    commit = workspace.git.commit(revision)
    snapshot = workspace.at(commit, label=revision)
    lock = snapshot.lock
    if lock is None:
        raise FatalError(
            f"{revision} has no soup.lock: nothing says what to rebuild from",
            hint="git soup lock write, git commit, then again",
        )
    config = lock.config_path or CONFIG_FILE
    names = parse_config_pins(snapshot.require(config), snapshot.where(config))
    adapter = str(PurePosixPath(names.output or "./output"))
    if adapter not in snapshot.adapters:
        raise FatalError(
            f"{revision} has no adapter at {adapter}, where its config puts it",
            hint=f"git checkout {revision}, then git soup train",
        )
    expected = snapshot.manifest(adapter)
    if expected.is_merged:
        raise FatalError(
            f"{adapter} in {revision} was merged, not trained; its manifest's recipe says from what",
            hint=f"git soup show {revision}:{adapter}",
        )
    _refuse_drift(workspace, snapshot, lock)
    with _scratch(workspace, commit) as scratch:
        for path, output in snapshot.outputs.items():
            if path == lock.dataset_path or path.startswith(f"{lock.dataset_path}/"):
                if not workspace.object_is_sound(output.md5):
                    workspace.dvc.fetch([output])
                restore_output(scratch, output)
        _bring_base(workspace, scratch, names.base)
        folder = _train(scratch, scratch.root / config, adapter)
        return _compare(workspace, revision, adapter, expected, folder, tolerance)


def _refuse_drift(workspace: Workspace, snapshot: Snapshot, lock: Lock) -> None:
    """Say before hours of training that it cannot come out the same."""
    pins = check_pins(workspace, lock, snapshot, Overrides(), counts_env=True, staged=True)
    moved = [pin for pin in pins if pin.state == "drifted"]
    if moved:
        lines = "".join(f"\n  {pin.line()}" for pin in moved)
        say(f"warning: the world is not what {snapshot.label} pins:{lines}")
    if any(pin.pin in {"dataset", "config", "base_model"} for pin in moved):
        raise DriftError(
            f"{snapshot.label} cannot be rebuilt: its inputs are not the pinned ones",
            hint="git soup lock check at that revision; git soup checkout restores its data",
        )


@contextlib.contextmanager
def _scratch(workspace: Workspace, commit: str) -> Iterator[Workspace]:
    """A linked work tree of `commit` that is gone afterwards, also after an error."""
    place = workspace.git.common_dir / "soup"
    place.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=place))
    try:
        tree = folder / "tree"
        workspace.git.run("worktree", "add", "--quiet", "--detach", str(tree), commit)
        scratch = Workspace.open(tree)
        yield scratch
        scratch.git.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        workspace.git.run("worktree", "prune", check=False)


def _bring_base(workspace: Workspace, scratch: Workspace, base: str | None) -> None:
    """A base in a folder that git does not hold is used from where it is."""
    if base is None or base.startswith("/"):
        return
    there, here = workspace.root / base, scratch.root / base
    if there.is_dir() and not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(there.resolve(), target_is_directory=True)


def _train(scratch: Workspace, config: Path, adapter: str) -> Path:
    from soup_git.training.config import load_config
    from soup_git.training.train import train

    output = scratch.root / adapter
    shutil.rmtree(output)
    state = scratch.root.parent / "state"
    train(
        load_config(config),
        workspace_root=scratch.root,
        output=output,
        state_dir=state,
        resume=False,
    )
    return output


def _compare(
    workspace: Workspace,
    revision: str,
    adapter: str,
    expected: Manifest,
    folder: Path,
    tolerance: float | None,
) -> tuple[VerifyReport, ExitCode]:
    rebuilt = workspace.adapter_in_folder(folder, "rebuilt").manifest
    same = expected.tensors_sha256() == rebuilt.tensors_sha256()
    largest: float | None = None
    where: str | None = None
    if not same and workspace.local_weights(expected.weights_md5, adapter) is not None:
        layers = compare(
            workspace.adapter(revision, adapter), workspace.adapter_in_folder(folder, "rebuilt")
        ).layers
        drifts = [(layer.relative_drift, layer.module) for layer in layers if layer.relative_drift]
        largest, where = max(drifts, default=(None, None))
    verdict = "identical" if same else "different"
    if not same and largest is not None and tolerance is not None and largest <= tolerance:
        verdict = "equivalent"
    report = VerifyReport(
        revision, adapter, verdict, expected.weights_md5, rebuilt.weights_md5, largest, where
    )
    return report, ExitCode.CHECK_FAILED if verdict == "different" else ExitCode.OK
