"""`git soup config check|schema`: soup.yaml, checked without training; its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from soup_git.commands.dependencies import say_unseen
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.render.report import Table
from soup_git.storage.environment import can_train
from soup_git.storage.files import inside
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class ConfigReport:
    schema: ClassVar[str] = "soup.config/1"
    path: str
    checked_upstream: bool
    config: dict[str, Any]

    def tables(self) -> Sequence[Table | str]:
        rest = "" if self.checked_upstream else (
            " (the options of TRL and PEFT were not checked: the train extra is not installed)"
        )  # fmt: skip
        return [f"{self.path} is valid{rest}"]


def check(workspace: Workspace, file: Path | None = None) -> ConfigReport:
    """Validate `file`, else soup.yaml; raises with every error at once, each with its line."""
    from soup_git.training.config import load_config

    upstream = can_train()
    path = file or workspace.root / CONFIG_FILE
    config = load_config(path, check_upstream=upstream)
    if path.resolve().is_relative_to(workspace.root.resolve()):
        say_unseen(workspace, inside(workspace.root, path))
    return ConfigReport(str(file or CONFIG_FILE), upstream, config.model_dump(mode="json"))


def schema_text() -> str:
    """The JSON Schema that editors complete and check soup.yaml by."""
    from soup_git.training.config import json_schema

    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
