"""Training runs as refs: `refs/soup/runs/ID`, a commit for each saved checkpoint.

A checkpoint's tree is the tree the run was launched from, with the config and lock it ran
with and the adapter as it was at that step. Work tree, index and HEAD are not touched. The
bytes go where `dvc gc` does not look, and are there before the commit names them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from soup_git.core.adapter import parse_adapter_config
from soup_git.core.baseload import AS_IT_IS, BaseLoad
from soup_git.core.manifest import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Manifest,
    base_load_fact,
    make_manifest,
)
from soup_git.errors import FatalError
from soup_git.storage.files import write_atomically
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.snapshot import inside_folder
from soup_git.storage.workspace import Workspace

RUNS = "refs/soup/runs/"
LOCKS = "refs/soup/locks/"
_STATE = "run-ref.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's trailers say."""

    step: int
    loss: float
    learning_rate: float
    elapsed: float
    """Seconds of training so far, over all of its sessions."""


def manifest_of(
    workspace: Workspace, folder: Path, path: str, *, keep: bool, base_load: BaseLoad
) -> Manifest:
    """Store an adapter's weights and return its manifest; `keep` as in `DvcRepo.store_file`.

    `base_load` is how the base was loaded that it was trained on.
    """
    shown = inside_folder(path, WEIGHTS)
    found = workspace.store_weights(folder / WEIGHTS, shown, keep=keep)
    where = inside_folder(path, CONFIG)
    config = parse_adapter_config((folder / CONFIG).read_bytes(), where)
    return make_manifest(
        config, found.tensors, weights_md5=found.md5, weights_size=found.size,
        facts=base_load_fact(base_load), where=where,
    )  # fmt: skip


class RunRecorder:
    """Writes one run's checkpoints, also when it is resumed in another process."""

    def __init__(
        self,
        workspace: Workspace,
        adapter: str,
        state_dir: Path,
        extra: Mapping[str, bytes],
        launched: str | None = None,
    ) -> None:
        """`adapter` is the output's path in the tree, `extra` the config and lock of the run.

        `launched` is the commit that it started from, HEAD unless given.
        """
        self._workspace = workspace
        self._adapter = adapter
        self._state = state_dir / _STATE
        self._extra = extra
        self.base_load = AS_IT_IS
        """How the run's base is loaded: set before the first checkpoint."""
        self._started = time.monotonic()
        self.run, self._launched, self._before = self._resumed(launched)

    def _resumed(self, launched: str | None) -> tuple[str | None, str | None, float]:
        """The run that this state folder belongs to, if its ref is still there."""
        if self._state.is_file():
            known = json.loads(self._state.read_text())
            if self._workspace.git.resolve(RUNS + known["run"]) is not None:
                return known["run"], known["launched"], float(known["elapsed"])
        return None, launched or self._workspace.git.resolve("HEAD"), 0.0

    def record(self, step: int, folder: Path, loss: float, learning_rate: float) -> None:
        """Commit one checkpoint; hearing of the same step twice adds nothing."""
        if self.run is not None and step <= self._last_step():
            return
        manifest = manifest_of(
            self._workspace, folder, self._adapter, keep=True, base_load=self.base_load
        )
        files = self._files(folder, manifest)
        elapsed = self._before + time.monotonic() - self._started
        checkpoint = Checkpoint(step, loss, learning_rate, elapsed)
        if self.run is None:
            self.run = self._create(files, checkpoint)
        else:
            tip = self._workspace.git.commit(RUNS + self.run)
            commit = self._commit(files, self.run, checkpoint, [tip])
            self._move(commit, tip, f"git soup train: step {step}")
        state = {"run": self.run, "launched": self._launched, "elapsed": elapsed}
        write_atomically(self._state, json.dumps(state).encode())

    def finish(self, files: Mapping[str, bytes], run_key: str | None) -> None:
        """Add metrics and plots to the last checkpoint; remember which run gave this lock."""
        if self.run is None:
            return
        git = self._workspace.git
        tip = git.commit(RUNS + self.run)
        blobs = {path: git.write_blob(data) for path, data in files.items()}
        tree = git.write_tree(tip, blobs)
        parents = git.text("log", "-1", "--format=%P", tip).split()
        message = git.text("log", "-1", "--format=%B", tip) + "\n"
        commit = git.write_record(tree, parents, message)
        updates = [RefUpdate(RUNS + self.run, commit, tip)]
        if run_key is not None and git.resolve(LOCKS + run_key) is None:
            updates.append(RefUpdate(LOCKS + run_key, commit, None))
        git.update_refs(updates, "git soup train: trained")

    def _last_step(self) -> int:
        git = self._workspace.git
        tip = git.commit(RUNS + str(self.run))
        return int(
            git.text("log", "-1", "--format=%(trailers:key=Soup-Step,valueonly)", tip).strip()
        )

    def _files(self, folder: Path, manifest: Manifest) -> dict[str, bytes]:
        return {
            **self._extra,
            inside_folder(self._adapter, CONFIG): (folder / CONFIG).read_bytes(),
            inside_folder(self._adapter, MANIFEST): manifest.text().encode(),
        }

    def _create(self, files: Mapping[str, bytes], checkpoint: Checkpoint) -> str:
        """The first checkpoint takes the first free name of the day: 2026-05-15-a, -b, …"""
        parents = [self._launched] if self._launched else []
        # A name that somebody pushed is taken too: two runs of one name cannot be shared.
        refs = self._workspace.git.refs(RUNS, "refs/soup-remotes/*/runs/*")
        taken = {ref.rpartition("/")[2] for ref in refs}
        for name in _names_of_today():
            if name in taken:
                continue
            commit = self._commit(files, name, checkpoint, parents)
            try:
                self._workspace.git.update_refs(
                    [RefUpdate(RUNS + name, commit, None)], "git soup train: first checkpoint"
                )
            except FatalError:
                if self._workspace.git.resolve(RUNS + name) is None:
                    raise
                continue  # another run took the name at the same moment
            return name
        raise FatalError("no free name is left for a run", hint="git for-each-ref refs/soup/runs")

    def _commit(
        self, files: Mapping[str, bytes], run: str, checkpoint: Checkpoint, parents: list[str]
    ) -> str:
        git = self._workspace.git
        blobs = {path: git.write_blob(data) for path, data in files.items()}
        tree = git.write_tree(parents[0] if parents else None, blobs)
        message = (
            f"step {checkpoint.step}: loss {checkpoint.loss:.4f}\n\n"
            f"Soup-Run: {run}\n"
            f"Soup-Step: {checkpoint.step}\n"
            f"Soup-Loss: {checkpoint.loss:.6g}\n"
            f"Soup-Learning-Rate: {checkpoint.learning_rate:.6g}\n"
            f"Soup-Elapsed: {checkpoint.elapsed:.1f}s\n"
            f"Soup-Adapter: {self._adapter}\n"
        )
        return git.write_record(tree, parents, message)

    def _move(self, commit: str, old: str, reason: str) -> None:
        self._workspace.git.update_refs([RefUpdate(RUNS + str(self.run), commit, old)], reason)


def _names_of_today() -> list[str]:
    today = date.today().isoformat()
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [f"{today}-{a}" for a in letters] + [f"{today}-{a}{b}" for a in letters for b in letters]
