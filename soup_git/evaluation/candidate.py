"""What is evaluated: an adapter's config and weights, from a file or from memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from soup_git.core.baseload import AS_IT_IS, BaseLoad
from soup_git.core.digests import sha256_hex
from soup_git.core.tensornames import canonical
from soup_git.errors import FatalError
from soup_git.evaluation.ownfiles import OwnFiles, own_files
from soup_git.storage.resolver import Adapter

Tensors = Mapping[str, Any]
"""Names as in the adapter's file -> torch tensors or numpy arrays."""


@dataclass(frozen=True)
class Candidate:
    """One adapter, wherever its numbers are.

    `config` is what its adapter_config.json holds. `load()` gives its tensors each time it
    is asked. `digest` names weights and config together; without one, scores are not
    cached. `scaling` multiplies the update of a module (`model.layers.0.mlp.up_proj` -> 0.0
    takes it out): what blame ablates with.
    """

    name: str
    config: Mapping[str, Any]
    load: Callable[[], Tensors]
    digest: str | None = None
    scaling: Mapping[str, float] = field(default_factory=dict)
    own: OwnFiles | None = None
    """The tokenizer and chat template that it brings."""
    base_load: BaseLoad = AS_IT_IS
    """How the base was loaded that it was trained on, as far as its manifest says."""

    @property
    def base(self) -> str | None:
        base = self.config.get("base_model_name_or_path")
        return base if isinstance(base, str) else None

    @property
    def whole_modules(self) -> tuple[str, ...]:
        """Modules that it brings whole, in the place of the base's."""
        named = self.config.get("modules_to_save")
        return tuple(sorted(map(str, named))) if isinstance(named, list) else ()

    @property
    def revision(self) -> str | None:
        revision = self.config.get("revision")
        return revision if isinstance(revision, str) else None


def in_memory(name: str, config: Mapping[str, Any], tensors: Tensors) -> Candidate:
    """A candidate that exists nowhere but here: a search's, never cached."""
    return Candidate(name, config, lambda: tensors)


def refuse_other_head(candidate: Candidate) -> None:
    """Raises FatalError for an adapter whose model answers with labels, scores or vectors."""
    task = candidate.config.get("task_type")
    if task not in {None, "CAUSAL_LM"}:
        raise FatalError(
            f"{candidate.name} is an adapter for {task}; suites ask causal language models",
            hint="evaluate it with a command of your own, as git soup bisect --eval-command does",
        )


def of_adapter(adapter: Adapter) -> Candidate:
    """The candidate of a resolved adapter; its weights must be on this machine."""
    weights = adapter.weights
    if weights is None:
        raise FatalError(
            f"the weights of {adapter.spec} (md5:{adapter.manifest.weights_md5}) are not here",
            hint="git soup checkout, or dvc fetch, brings them from the DVC remote",
        )

    def load() -> Tensors:
        from safetensors.torch import load_file

        return {canonical(name): value for name, value in load_file(weights).items()}

    config = sha256_hex(adapter.config_data)
    own = own_files(adapter)
    tokens = f"-{own.digest}" if own is not None else ""
    return Candidate(
        name=adapter.spec,
        config=json.loads(adapter.config_data),
        load=load,
        digest=f"{adapter.manifest.weights_md5}-{config}{tokens}",
        own=own,
        base_load=adapter.manifest.base_load,
    )
