"""Stage `train`: from soup.yaml to a tracked adapter. Read it top to bottom."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import PurePosixPath

from soup_git.errors import run_to_exit_code


def main() -> int:
    from soup_git.commands.lock import Overrides, compute
    from soup_git.commands.traingate import gate_of
    from soup_git.core.lock import LOCK
    from soup_git.core.manifest import MANIFEST
    from soup_git.core.trainconfig import CONFIG_FILE
    from soup_git.storage.files import target_inside, write_atomically
    from soup_git.storage.runs import RunRecorder, manifest_of
    from soup_git.storage.workspace import Workspace
    from soup_git.training.config import load_config
    from soup_git.training.train import train

    workspace = Workspace.open()
    root = workspace.root
    config = load_config(root / CONFIG_FILE)
    adapter = str(PurePosixPath(config.output))
    output = target_inside(root, adapter)
    state_dir = workspace.training_state(adapter)

    # What the run is pinned to is known before it starts, and travels with each checkpoint.
    lock = replace(compute(workspace, Overrides(), None), adapters={})
    pinned = {CONFIG_FILE: (root / CONFIG_FILE).read_bytes(), LOCK: lock.text().encode()}
    recorder = RunRecorder(workspace, adapter, state_dir, pinned)

    train(
        config,
        workspace_root=root,
        output=output,
        state_dir=state_dir,
        on_checkpoint=recorder.record,
        gate=gate_of(workspace, config),
    )

    manifest = manifest_of(workspace, output, adapter, keep=True)
    write_atomically(output / MANIFEST, manifest.text().encode())
    results = [root / "metrics.json", *sorted((root / "plots").glob("*.csv"))]
    recorder.finish({p.relative_to(root).as_posix(): p.read_bytes() for p in results}, lock.run)
    shutil.rmtree(state_dir)
    if recorder.run is not None:
        sys.stderr.write(f"run/{recorder.run}: git log soup/runs/{recorder.run}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_to_exit_code(main))
