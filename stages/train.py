"""Stage `train`: from soup.yaml to a tracked adapter. Read it top to bottom.

`python -m soup_git.stages.train FOLDER/soup.yaml` trains what another config of the workspace
says: one of several trainings of a pipeline. Its metrics and plots lie beside its config, and
its run is pinned to that config; soup.lock pins soup.yaml, whose adapter is the pipeline's.

With `training.launcher` this process starts others of itself and waits for them: the first of
those writes and records, the rest only compute.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import PurePosixPath

from soup_git.errors import ExitCode, FatalError, run_to_exit_code


def main() -> int:
    from soup_git.commands.batchsize import settled
    from soup_git.commands.dependencies import say_unseen
    from soup_git.commands.lock import Overrides, compute
    from soup_git.commands.traingate import gate_of
    from soup_git.core.lock import LOCK
    from soup_git.core.manifest import CONFIG, MANIFEST
    from soup_git.core.trainconfig import CONFIG_FILE
    from soup_git.storage.files import target_inside, write_atomically
    from soup_git.storage.insideexperiment import home_of, keep_in_experiment
    from soup_git.storage.runs import RunRecorder, manifest_of
    from soup_git.storage.snapshot import inside_folder
    from soup_git.storage.workers import is_worker
    from soup_git.storage.workspace import Workspace
    from soup_git.training import launching, memory, processes
    from soup_git.training.machine import prepare_process
    from soup_git.training.train import train

    workspace = Workspace.open()
    root = workspace.root
    config_path = _named(sys.argv[1:], CONFIG_FILE)
    config_file = target_inside(root, config_path)
    home = home_of(workspace)
    # Before anything is pinned: what is found becomes part of the config.
    config = settled(workspace, home.workspace, config_file)
    if isinstance(config, ExitCode):
        return config
    if not is_worker():
        prepare_process(config)
        count = launching.count_of(config)
        if count > 1:
            words = [sys.executable, "-P", "-m", "soup_git.stages.train", config_path]
            return launching.launch(config, words, root, count)
    adapter = str(PurePosixPath(config.output))
    output = target_inside(root, adapter)
    state_dir = home.training_state(adapter)
    if not processes.here().is_main:
        with memory.named(config):
            train(
                config, workspace_root=root, output=output, state_dir=state_dir,
                gate=gate_of(workspace, config),
            )  # fmt: skip
        return 0

    # What the run is pinned to is known before it starts, and travels with each checkpoint.
    say_unseen(workspace, config_path)
    lock = replace(compute(workspace, Overrides(), None, config=config_path), adapters={})
    pinned = {config_path: config_file.read_bytes(), LOCK: lock.text().encode()}
    recorder = RunRecorder(home.workspace, adapter, state_dir, pinned, home.baseline)

    with memory.named(config):
        train(
            config,
            workspace_root=root,
            output=output,
            state_dir=state_dir,
            results=config_file.parent,
            on_checkpoint=recorder.record,
            gate=gate_of(workspace, config),
            watch=lambda run: setattr(recorder, "base_load", run.base_load),
            pinned={"base_model_sha": lock.base_model_sha},
        )

    manifest = manifest_of(home.workspace, output, adapter, keep=True, base_load=recorder.base_load)
    write_atomically(output / MANIFEST, manifest.text().encode())
    keep_in_experiment(workspace, *(inside_folder(adapter, name) for name in (CONFIG, MANIFEST)))
    folder = config_file.parent
    results = [folder / "metrics.json", *sorted((folder / "plots").glob("*.csv"))]
    recorder.finish({p.relative_to(root).as_posix(): p.read_bytes() for p in results}, lock.run)
    shutil.rmtree(state_dir)
    if recorder.run is not None:
        sys.stderr.write(f"run/{recorder.run}: git log soup/runs/{recorder.run}\n")
    return 0


def _named(arguments: list[str], default: str) -> str:
    """The config to train, as a path from the top of the workspace."""
    if len(arguments) > 1:
        raise FatalError(
            "one argument is taken: a config of the workspace",
            hint="python -m soup_git.stages.train sft/soup.yaml",
            code=ExitCode.USAGE,
        )
    return str(PurePosixPath(arguments[0] if arguments else default))


def _give_back(code: int) -> int:
    """After a training that failed: what DVC removed before it, where nothing came of it."""
    from soup_git.core.stagedeps import config_stages
    from soup_git.core.templates import PIPELINE
    from soup_git.core.trainconfig import CONFIG_FILE
    from soup_git.storage.lastoutputs import bring_back
    from soup_git.storage.workspace import Workspace

    workspace = Workspace.open()
    config = _named(sys.argv[1:], CONFIG_FILE)
    pipeline = workspace.work_tree_bytes(PIPELINE) or b""
    names = [s.name for s in config_stages(pipeline) if s.trains and s.config == config]
    back = [path for name in names for path in bring_back(workspace, name)]
    if back:
        sys.stderr.write(f"brought back, as dvc.lock has them: {', '.join(back)}\n")
    return code


if __name__ == "__main__":
    from soup_git.storage.workers import is_worker, run_as_worker

    if is_worker():
        sys.exit(run_as_worker(main))
    ended = run_to_exit_code(main)
    sys.exit(run_to_exit_code(lambda: _give_back(ended)) if ended else 0)
