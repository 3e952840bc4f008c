"""`git soup verify`: rebuild an adapter from its lock, elsewhere, and compare digests."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import ClassVar

from soup_git.commands.diff import compare
from soup_git.commands.fetching import fetch_missing
from soup_git.commands.lock import Overrides, check_pins
from soup_git.commands.merge import rebuild
from soup_git.core.lock import Lock
from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS, Manifest
from soup_git.core.threeway import has_origin, parse_recipe
from soup_git.core.trainconfig import CONFIG_FILE, ConfigPins, parse_config_pins
from soup_git.core.verification import Verification, parse_verifications
from soup_git.errors import DriftError, ExitCode, FatalError
from soup_git.render.report import Table, say
from soup_git.storage.inputs import named_inputs
from soup_git.storage.lockdrift import lock_of
from soup_git.storage.notes import note, read_lines
from soup_git.storage.snapshot import Snapshot, inside_folder
from soup_git.storage.workspace import Workspace
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
    workspace: Workspace,
    revision: str,
    tolerance: float | None,
    adapter: str | None = None,
    *,
    write_note: bool = True,
) -> tuple[VerifyReport, ExitCode]:
    """Make an adapter of `revision` again from what it pins; exit 0 only for the same one."""
    commit = workspace.git.commit(revision)
    report, code = _verified(workspace, commit, revision, tolerance, adapter)
    if write_note:
        _write_note(workspace, commit, report, tolerance)
    return report, code


def _write_note(
    workspace: Workspace, commit: str, report: VerifyReport, tolerance: float | None
) -> None:
    """The verdict, where reviewers of the commit look for it; the same one is not noted twice."""
    now = datetime.now(UTC).replace(microsecond=0).isoformat()
    lock = workspace.at(commit, report.revision).lock
    found = Verification(
        report.adapter, report.verdict, report.expected_md5, report.rebuilt_md5, now,
        lock.run if lock is not None else None, tolerance if report.verdict == "equivalent" else None, report.largest_relative_difference,
    )  # fmt: skip
    there = read_lines(workspace.git, [commit], parse_verifications).get(commit, [])
    if all(replace(one, at=now) != found for one in there):
        note(workspace, commit, [found])
        say(f"noted on {commit[:10]}: git notes --ref=soup show {commit[:10]}")


def _verified(
    workspace: Workspace, commit: str, revision: str, tolerance: float | None, adapter: str | None
) -> tuple[VerifyReport, ExitCode]:
    snapshot = workspace.at(commit, label=revision)
    folder = _adapter_of(snapshot, adapter)
    expected = snapshot.manifest(folder)
    if expected.is_merged:
        with _temporary(workspace) as place:
            _remake(workspace, snapshot, folder, place / "merged")
            return _compare(workspace, revision, folder, expected, place / "merged", tolerance)
    lock = snapshot.lock
    if lock is None:
        raise FatalError(
            f"{revision} has no soup.lock: nothing says what to rebuild from",
            hint="git soup lock write, git commit, then again",
        )
    config = lock.config_path or CONFIG_FILE
    names = parse_config_pins(snapshot.require(config), snapshot.where(config))
    if folder != _output(names):
        raise FatalError(
            f"{folder} in {revision} was added, not trained: its config trains {_output(names)}",
            hint=f"git log --diff-filter=A -- {folder} tells where it came from",
        )
    _refuse_drift(workspace, snapshot, lock)
    with _temporary(workspace) as place, _scratch(workspace, commit, place) as scratch:
        named = named_inputs(workspace, names)
        inputs = [str(PurePosixPath(p)) for p in (lock.dataset_path, *named, *lock.inputs) if p]
        for path, output in snapshot.outputs.items():
            if any(_overlap(path, one) for one in inputs):
                fetch_missing(workspace, [output.md5])
                restore_output(scratch, output)
        _bring_base(workspace, scratch, names.base)
        for path in (path for path, one in named.items() if one.may_be_elsewhere):
            _bring_base(workspace, scratch, path)
        rebuilt = _train(scratch, scratch.root / config, folder)
        return _compare(workspace, revision, folder, expected, rebuilt, tolerance)


def _overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or below it."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _remake(workspace: Workspace, snapshot: Snapshot, folder: str, output: Path) -> None:
    """A merged adapter again from its recipe."""
    manifest = snapshot.manifest(folder)
    if not has_origin(manifest):
        rebuild(workspace, snapshot, manifest, output)
        return
    from soup_git.storage import threeway

    output.mkdir()
    where = inside_folder(folder, MANIFEST)
    recipe = parse_recipe(manifest, where)
    fetch_missing(workspace, [md5 for md5, _ in (recipe.origin, *recipe.sides)])
    threeway.rebuild(workspace, manifest, output / WEIGHTS, where)
    (output / CONFIG).write_bytes(snapshot.require(inside_folder(folder, CONFIG)))


def _adapter_of(snapshot: Snapshot, named: str | None) -> str:
    """The adapter to rebuild: the named one, else the one its config trains, else the only one."""
    if named is not None:
        folder = PurePosixPath(named).as_posix()
        if folder not in snapshot.adapters:
            raise FatalError(
                f"{snapshot.label} has no adapter at {named}",
                hint=f"it has {', '.join(snapshot.adapters) or 'none'}",
            )
        return folder
    data = snapshot.read(CONFIG_FILE)
    trained = _output(parse_config_pins(data, snapshot.where(CONFIG_FILE))) if data else None
    if trained in snapshot.adapters:
        return str(trained)
    if len(snapshot.adapters) == 1:
        return snapshot.adapters[0]
    raise FatalError(
        f"{snapshot.label} has {len(snapshot.adapters)} adapters, and none where its config puts one",
        hint="git soup verify --adapter PATH names one"
        if snapshot.adapters
        else "git soup train makes one",
    )


def is_rebuildable(snapshot: Snapshot, folder: str) -> bool:
    """Whether the revision says what its adapter at `folder` is made of: a recipe, or a lock."""
    if snapshot.manifest(folder).is_merged:
        return True
    lock, _ = lock_of(snapshot)
    data = snapshot.read(lock.config_path or CONFIG_FILE) if lock is not None else None
    try:
        return data is not None and folder == _output(parse_config_pins(data, CONFIG_FILE))
    except FatalError:
        return False  # a config that cannot be read trains nothing


def _output(names: ConfigPins) -> str:
    return PurePosixPath(names.output or "./output").as_posix()


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
def _temporary(workspace: Workspace) -> Iterator[Path]:
    """A folder under git's own that is gone afterwards, also after an error."""
    place = workspace.git.common_dir / "soup"
    place.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="verify-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _scratch(workspace: Workspace, commit: str, place: Path) -> Iterator[Workspace]:
    """A linked work tree of `commit` in `place`."""
    tree = place / "tree"
    try:
        workspace.git.run("worktree", "add", "--quiet", "--detach", str(tree), commit)
        scratch = Workspace.open(tree)
        yield scratch
        scratch.git.close()
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        workspace.git.run("worktree", "prune", check=False)


def _bring_base(workspace: Workspace, scratch: Workspace, base: str | None) -> None:
    """A base in a folder that git does not hold is used from where it is."""
    if base is None or base.startswith("/"):
        return
    there, here = workspace.root / base, scratch.root / base
    if there.is_dir() and not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(there.resolve(), target_is_directory=True)


def _train(scratch: Workspace, file: Path, adapter: str) -> Path:
    from soup_git.training import launching, memory
    from soup_git.training.config import load_config
    from soup_git.training.machine import prepare_process
    from soup_git.training.train import train

    output = scratch.root / adapter
    shutil.rmtree(output)
    state = scratch.root.parent / "state"
    config = load_config(file)
    prepare_process(config)
    count = launching.count_of(config)
    if count == 1:
        with memory.named(config):
            train(config, workspace_root=scratch.root, output=output, state_dir=state, resume=False)
        return output
    words = [sys.executable, "-P", "-m", "soup_git.stages.rebuild", str(file), str(output), str(state)]  # fmt: skip
    code = launching.launch(config, words, scratch.root, count)
    if code:
        raise FatalError(
            f"its {count} processes did not rebuild it",
            hint="the lines above say why; git soup doctor looks at this machine",
            code=ExitCode.INTERRUPTED if code == ExitCode.INTERRUPTED else ExitCode.FATAL,
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
    if not same:
        fetch_missing(workspace, [expected.weights_md5])
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
