"""What soup.yaml names and dvc.yaml does not: DVC would not see it change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soup_git.commands.lock import PinCheck
from soup_git.core.manifest import WEIGHTS
from soup_git.core.stagedeps import ConfigStage, config_stages
from soup_git.core.templates import PIPELINE
from soup_git.core.trainconfig import CONFIG_FILE, NamedInput, parse_config_pins
from soup_git.core.yamltext import load_yaml
from soup_git.errors import FatalError
from soup_git.render.report import say
from soup_git.storage.inputs import is_model_here, named_inputs
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Unseen:
    """An input of a config that a stage reads and does not depend on."""

    stage: ConfigStage
    path: str
    line: str
    """What to add to the stage's dependencies."""


def unseen(workspace: Workspace, config: str | None = None) -> list[Unseen]:
    """Of all stages that train or pin, or of those that read `config`."""
    pipeline = workspace.work_tree_bytes(PIPELINE)
    try:
        stages = config_stages(pipeline) if pipeline is not None else []
    except ValueError:
        return []  # DVC says it better
    return [
        found
        for stage in stages
        if config is None or stage.config == config
        for found in _unseen_by(workspace, stage)
    ]


def moved_unseen(workspace: Workspace, pins: Sequence[PinCheck]) -> list[Unseen]:
    """Those of soup.yaml that are not what soup.lock pins: what was made from them is stale."""
    changed = {pin.source for pin in pins if pin.state == "drifted" and pin.locked is not None}
    return [one for one in unseen(workspace, CONFIG_FILE) if one.path in changed] if changed else []


def _unseen_by(workspace: Workspace, stage: ConfigStage) -> list[Unseen]:
    data = workspace.work_tree_bytes(stage.config)
    try:
        names = parse_config_pins(data or b"", stage.config)
    except FatalError:
        return []  # whoever reads the config says it better
    raw = load_yaml(data or b"")
    return [
        Unseen(stage, path, f"- {_dependency(workspace, stage, named, path)}")
        for path, named in named_inputs(workspace, names).items()
        if (workspace.root / path).exists() or not named.may_be_elsewhere
        if not stage.sees(path, raw)
    ]


def _dependency(workspace: Workspace, stage: ConfigStage, named: NamedInput, path: str) -> str:
    name = f"${{{named.key}}}" if stage.interpolates else path
    # A stage's output is a dependency by its own name; the folder around it is none.
    is_adapter = named.key.endswith("_model") and not is_model_here(workspace, path)
    return f"{name}/{WEIGHTS}" if is_adapter else name


def say_unseen(workspace: Workspace, config: str | None = None) -> None:
    """Warn, with the lines to write."""
    found = unseen(workspace, config)
    if not found:
        return
    by_lines: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(one.stage.name for one in found):
        lines = tuple(one.line for one in found if one.stage.name == name)
        by_lines.setdefault(lines, []).append(name)
    paths = _listed(list(dict.fromkeys(one.path for one in found)))
    say(f"warning: dvc repro does not see when {paths} changes: {PIPELINE} does not name it")
    for lines, names in by_lines.items():
        stages = f"stage{'s' if len(names) > 1 else ''} {_listed(names)}"
        say(f"hint: in {PIPELINE}, add to deps of {stages}:")
        for line in lines:
            say(f"      {line}")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
