"""What the stages of a `dvc.yaml` that read a training config depend on.

DVC's templates have no optional keys, so a pipeline for every config cannot name a file that
only some configs name: whoever names one adds a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.core.yamltext import load_yaml

_COMMAND = re.compile(
    r"\bsoup_git\.stages\.(?P<stage>train|lock)\b(?:[ \t]+(?P<config>[^\s;&|<>]+))?"
)
_REFERENCE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class ConfigStage:
    """A stage that trains what a config says, or pins it."""

    name: str
    trains: bool
    config: str
    deps: tuple[str, ...]
    """As they are written."""

    @property
    def interpolates(self) -> bool:
        """Whether its names come from the config, as DVC's templates."""
        return any("${" in dep for dep in self.deps)

    def sees(self, path: str, config: Any) -> bool:
        """Whether DVC looks at what is at `path`, or at a file of it, or at a folder around it."""
        for dep in self.deps:
            named = _REFERENCE.sub(lambda found: _value(config, found), dep)
            clean = named.removeprefix("./").rstrip("/")
            if clean == path or clean.startswith(f"{path}/") or path.startswith(f"{clean}/"):
                return True
        return False


def config_stages(dvc_yaml: bytes) -> list[ConfigStage]:
    """Those that say plainly which config they read; raises `ValueError` for what is no YAML."""
    raw = load_yaml(dvc_yaml)
    stages = raw.get("stages") if isinstance(raw, dict) else None
    return [
        found
        for name, stage in (stages.items() if isinstance(stages, dict) else ())
        if isinstance(stage, dict) and "wdir" not in stage
        for found in _config_stage(str(name), stage)
    ]


def _config_stage(name: str, stage: dict[str, Any]) -> Iterator[ConfigStage]:
    lines = stage.get("cmd")
    command = "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines)
    found = _COMMAND.search(command)
    deps = stage.get("deps") or []
    if found is None or not isinstance(deps, list) or "$" in (found["config"] or ""):
        return
    names = [str(next(iter(dep), "")) if isinstance(dep, dict) else str(dep) for dep in deps]
    trains = found["stage"] == "train"
    config = found["config"] if trains and found["config"] else CONFIG_FILE
    yield ConfigStage(name, trains, config, tuple(names))


def _value(config: Any, found: re.Match[str]) -> str:
    """What a reference stands for; itself where the config does not say."""
    value = config
    for key in found[1].replace("[", ".").replace("]", "").split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key.strip()]
        except (KeyError, IndexError, ValueError, TypeError):
            return found[0]
    return str(value)
