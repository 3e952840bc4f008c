"""Who holds the weights of an adapter: a pointer of its own, a stage, a whole folder, or git.

Two owners of one file break DVC for all of its files ("output is specified in"), so what lies
on disk counts, committed or not, as it does for DVC.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePosixPath

from soup_git.core.manifest import CONFIG, WEIGHTS
from soup_git.core.templates import PIPELINE
from soup_git.errors import FatalError
from soup_git.storage.dvcfiles import (
    POINTER_SUFFIX,
    Output,
    declared_outputs,
    is_import,
    parse_pointer,
    pointer_text,
    with_weights,
)
from soup_git.storage.files import bytes_of
from soup_git.storage.snapshot import inside_folder, is_dvc_lock
from soup_git.storage.workspace import Workspace


def stage_output(workspace: Workspace, folder: str) -> Output | None:
    """The output of a stage that the weights in `folder` are; None where a pointer may name them.

    Raises `FatalError`, with how to change it, where something else holds them.
    """
    weights, outputs = inside_folder(folder, WEIGHTS), workspace.on_disk.outputs
    for path, output in outputs.items():
        if weights.startswith(f"{path}/"):
            raise _part_of(workspace, folder, weights, output)
    if weights in workspace.staged.entries:
        raise FatalError(
            f"git itself tracks {weights}; weights belong in the DVC cache",
            hint=f"git rm --cached {_here(workspace, weights)}, then again",
        )
    config = outputs.get(inside_folder(folder, CONFIG))
    if config is not None and _is_ignored(workspace, config.path):
        raise _config_in_dvc(workspace, config)
    found = outputs.get(weights)
    if found is None:
        _refuse_stage_without_record(workspace, folder)
        return None
    if is_dvc_lock(found.source):
        _check_stage(workspace, folder, found)
        return found
    if found.source != f"{weights}{POINTER_SUFFIX}":
        raise FatalError(
            f"{found.source} names {weights}; the pointer of an adapter lies beside its weights",
            hint=f"{_removal(workspace, found.source)}, then git soup add {_here(workspace, folder)}",
        )
    _refuse_changed_import(workspace, folder, found)
    return None


def own_pointer(folder: Path, path: str, md5: str, size: int) -> bytes:
    """The pointer for the weights in `folder`, which is at `path`.

    One that is there keeps what else it says (a description, the source of an import); one
    that DVC 2 wrote is brought to the layout of the cache that the weights are in.
    """
    where = inside_folder(path, f"{WEIGHTS}{POINTER_SUFFIX}")
    there = bytes_of(folder / f"{WEIGHTS}{POINTER_SUFFIX}") or b""
    if b"\n  hash: md5\n" in there:
        changed = with_weights(there.decode("utf-8", "surrogateescape"), md5, size)
        for text in (there, changed.encode("utf-8", "surrogateescape")):
            if [(o.md5, o.size) for o in parse_pointer(text, where)] == [(md5, size)]:
                return text
    return pointer_text(WEIGHTS, md5, size).encode()


def _part_of(workspace: Workspace, folder: str, weights: str, whole: Output) -> FatalError:
    what = f"{folder} lies in {whole.path}, which DVC tracks as a whole ({whole.source})"
    if is_dvc_lock(whole.source):
        return FatalError(
            what,
            hint=f"in the stage's outs in {whole.source.removesuffix('.lock')}.yaml, name {weights}"
            f" and not {whole.path}; then dvc repro, and git soup add {_here(workspace, folder)}",
        )
    return FatalError(
        what, hint=f"{_removal(workspace, whole.source)}, then git soup add each adapter in it"
    )


def _removal(workspace: Workspace, pointer: str) -> str:
    return f"dvc remove {_here(workspace, pointer)}"


def _here(workspace: Workspace, path: str) -> str:
    """A path of the work tree as one types it where one stands."""
    return shlex.quote(os.path.relpath(workspace.root / path, workspace.git.here))


def _is_ignored(workspace: Workspace, path: str) -> bool:
    """Whether git is told to leave a file alone: DVC does so for outputs that it caches."""
    return not workspace.git.run("check-ignore", "--quiet", "--", path, check=False).returncode


def _config_in_dvc(workspace: Workspace, config: Output) -> FatalError:
    if is_dvc_lock(config.source):
        name = config.path.rpartition("/")[2]
        hint = (
            f"in {config.source.removesuffix('.lock')}.yaml, write - {config.path}: {{cache: false}}"
            f" under the stage's outs, take /{name} out of the .gitignore beside it, then dvc repro"
        )
    else:
        hint = f"{_removal(workspace, config.source)}, then again"
    return FatalError(
        f"{config.path} is in DVC's cache ({config.source}); git has to hold it, as text", hint=hint
    )


def _check_stage(workspace: Workspace, folder: str, output: Output) -> None:
    pointer = f"{output.path}{POINTER_SUFFIX}"
    if (workspace.root / pointer).exists():
        raise FatalError(
            f"both a stage ({output.source}) and {pointer} name {output.path}: DVC refuses that",
            hint=f"rm {_here(workspace, pointer)}, then git soup add {_here(workspace, folder)}",
        )
    if workspace.md5(workspace.root / output.path) != output.md5:
        raise FatalError(
            f"{output.path} is the output of a stage, and not what {output.source} records",
            hint="dvc repro, or dvc commit to record a change made by hand; then again",
        )


def _refuse_changed_import(workspace: Workspace, folder: str, output: Output) -> None:
    data = workspace.on_disk.read(output.source)
    if data is None or not is_import(data, output.source):
        return
    if workspace.md5(workspace.root / output.path) != output.md5:
        raise FatalError(
            f"{output.path} was imported ({output.source}) and is not what was imported",
            hint=f"dvc update {_here(workspace, output.source)} takes the source's; or, to keep yours:"
            f" {_removal(workspace, output.source)}, then git soup add {_here(workspace, folder)}",
        )


def _refuse_stage_without_record(workspace: Workspace, folder: str) -> None:
    """A stage that never ran owns its outputs already: a pointer beside it would break DVC."""
    weights = inside_folder(folder, WEIGHTS)
    around = [weights, *(parent.as_posix() for parent in PurePosixPath(weights).parents)]
    for path in workspace.on_disk.entries:
        if path != PIPELINE and not path.endswith(f"/{PIPELINE}"):
            continue
        data = workspace.on_disk.read(path)
        for stage, names in declared_outputs(data, path).items() if data is not None else ():
            ends = [_literal_end(name) for name in names]
            if not any(place.endswith(end) for place in around for end in ends):
                continue
            # Templates and `wdir` are DVC's to resolve; that costs its start, and is rare.
            dvc = workspace.dvc_of(path)
            project = dvc.root.relative_to(workspace.root)
            if set(around) & {(project / output).as_posix() for output in dvc.outputs()}:
                raise FatalError(
                    f"stage {stage} of {path} makes {weights}, and dvc.lock does not record it",
                    hint=f"dvc repro runs it; dvc commit --force {_here(workspace, path)} records"
                    f" what lies here; then git soup add {_here(workspace, folder)}",
                )


def _literal_end(name: str) -> str:
    """What the path of an output ends with, whatever its templates stand for."""
    return name.rpartition("}")[2].rpartition("../")[2].removeprefix("./").rstrip("/")
