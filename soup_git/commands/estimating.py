"""What a measured probe says of the training that soup.yaml describes now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup_git.core.batchsearch import decide, search_key
from soup_git.core.measurement import Estimate, estimate, measurement_key
from soup_git.core.trainconfig import CONFIG_FILE
from soup_git.errors import FatalError
from soup_git.storage.environment import env_hash, environment
from soup_git.storage.measurements import machine_name, stored, stored_search
from soup_git.storage.workspace import Workspace

if TYPE_CHECKING:
    from soup_git.training.schema import SoupConfig


def key_of(workspace: Workspace, config: SoupConfig) -> str:
    """What a measurement is kept under: it holds as long as nothing of this changes."""
    return measurement_key(*_deciding(workspace, config))


def batch_key(workspace: Workspace, config: SoupConfig) -> str:
    """What a search for a batch size is kept under."""
    return search_key(*_deciding(workspace, config))


def _deciding(workspace: Workspace, config: SoupConfig) -> tuple[dict[str, Any], str, str, str]:
    names = [config.data.train, config.data.validation]
    rows = [workspace.path_md5(workspace.root / name) if name else None for name in names]
    # Of the base its shape decides, not its weights: hashing those would take minutes.
    shape = workspace.path_md5(workspace.root / config.base / "config.json")
    here = env_hash(environment(workspace.facts))
    decides = f"{rows} {shape}"
    return config.model_dump(mode="json"), decides, here, machine_name()


def known_estimate(workspace: Workspace, path: Path | None = None) -> Estimate | None:
    """The estimate for soup.yaml as it is; None where nothing was measured for it."""
    from soup_git.training.config import load_config

    try:
        config = load_config(path or workspace.root / CONFIG_FILE, check_upstream=False)
    except FatalError:
        return None  # another stage's business: a plan does not judge soup.yaml
    if config.training.batch_size == "auto":
        found = stored_search(workspace, batch_key(workspace, config))
        size = decide(found).size if found is not None else None
        if size is None:
            return None
        config = config.with_batch_size(size)
    measured = stored(workspace, key_of(workspace, config))
    return estimate(measured, config.training.model_dump()) if measured is not None else None
