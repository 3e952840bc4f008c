"""A stage that runs inside a DVC experiment: what must outlive the experiment's folder.

DVC runs a queued experiment in a repository of its own that it deletes afterwards, also
after a failure, and commits only what its stages declare. Runs, checkpoints and the state
that resuming needs go to the repository that the experiment came from; the files that git
should hold beside the declared ones are staged for DVC's commit.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class Home:
    """Where a training keeps its runs and its state."""

    workspace: Workspace
    experiment: str | None = None
    baseline: str | None = None

    def training_state(self, adapter: str) -> Path:
        """As `Workspace.training_state`; of its own for each experiment."""
        key = adapter if self.experiment is None else f"{self.experiment}\0{adapter}"
        return self.workspace.training_state(key)


def home_of(workspace: Workspace) -> Home:
    """The workspace itself, or the one that the experiment around it came from."""
    name, root = os.environ.get("DVC_EXP_NAME"), os.environ.get("DVC_ROOT")
    if not name or not root or Path(root).resolve() == workspace.root.resolve():
        return Home(workspace)
    return Home(Workspace.open(Path(root)), name, os.environ.get("DVC_EXP_BASELINE_REV"))


def keep_in_experiment(workspace: Workspace, *paths: str) -> None:
    """Inside an experiment, stage files that its commit should hold; elsewhere nothing."""
    if home_of(workspace).experiment is not None:
        workspace.git.index.stage(*paths)
