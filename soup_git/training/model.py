"""Finds and loads the base model and its tokenizer: safetensors only, no remote code.

The folder is inspected before torch is imported, so that a base that is missing, pickled
or wants to run code is named in a second.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from soup_git.errors import FatalError
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import HEADS
from soup_git.training.tasks import load as load_named

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class NamesBase(Protocol):
    """What names a base model: a training config, or an evaluation's choice."""

    @property
    def base(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def trust_remote_code(self) -> bool: ...
    def refuse(self, key: str, what: str, *, hint: str = "") -> FatalError: ...


@dataclass(frozen=True)
class Base:
    """Where the base is: `source` is what from_pretrained takes, a folder or a hub id."""

    name: str
    source: str
    revision: str | None
    local: bool


def locate(config: NamesBase, workspace_root: Path) -> Base:
    """The base that the config names: a folder (relative to the workspace), else a hub id."""
    folder = workspace_root / config.base
    if folder.is_dir():
        if config.revision is not None:
            raise config.refuse("revision", f"{config.base} is a folder, which has no revisions")
        _inspect(config, folder)
        return Base(config.base, str(folder.resolve()), None, local=True)
    if folder.exists() or not HUB_ID.fullmatch(config.base):
        raise config.refuse(
            "base",
            f"{config.base} is not a folder",
            hint="a folder with config.json and *.safetensors, or a hub id such as Qwen/Qwen3-0.6B",
        )
    _offline_if_unreachable()
    return Base(config.base, config.base, config.revision, local=False)


def _offline_if_unreachable() -> None:
    """Without a network, look into the hub's cache at once: the hub client would retry first.

    It reads the variable when it is imported, which is later.
    """
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if hub.hostname is None or any(os.environ.get(p) for p in ("HTTPS_PROXY", "https_proxy")):
        return
    try:
        socket.create_connection((hub.hostname, hub.port or 443), timeout=5).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def _inspect(config: NamesBase, folder: Path) -> None:
    name = config.base
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise config.refuse("base", f"{name} is an adapter, not a base model")
        raise config.refuse("base", f"{name} has no config.json, so it is no model's folder")
    for file in ("config.json", "tokenizer_config.json"):
        described = _json(config, folder / file)
        if "auto_map" in described and not config.trust_remote_code:
            raise config.refuse(
                "base",
                f"{name} wants to run Python code of its own (auto_map in {file})",
                hint="read that code; then trust_remote_code: true lets it run",
            )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES)
        if pickles:
            raise config.refuse(
                "base",
                f"{name} has pickled weights ({pickles[0]}), which can run code when loaded",
                hint="take a revision with safetensors, or convert it in a sandbox: "
                "https://huggingface.co/docs/safetensors/convert-weights",
            )
        raise config.refuse("base", f"{name} has no *.safetensors, the weights are missing")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json(config, index).get("weight_map", {}).values()
        for shard in sorted(set(map(str, shards))):
            if not (folder / shard).is_file():
                raise config.refuse("base", f"{name} is incomplete: {shard} is missing")


def _json(config: NamesBase, path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise config.refuse("base", f"{config.base}/{path.name} is not JSON") from None
    return value if isinstance(value, dict) else {}


def load_tokenizer(base: Base, config: NamesBase) -> Any:
    """The base's tokenizer, which must be a fast one: masks need the offsets of tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base.source, revision=base.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(config, "the tokenizer of ", error) from error
    if not tokenizer.is_fast:
        raise config.refuse(
            "base", f"the tokenizer of {config.base} is a slow one; it needs a tokenizer.json"
        )
    return tokenizer


def own_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; of named ones, the default."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def load(base: Base, config: SoupConfig, *, dtype: str, **options: Any) -> Any:
    """The base model for training, in `dtype` ("float32", …), frozen by PEFT later."""
    task = config.method
    extra = dict(config.training.trl.get("model_init_kwargs") or {})
    if task.head_options:
        extra |= load_named(task.head_options)(config)
    return load_weights(base, config, dtype=dtype, auto=HEADS[task.head].auto, **extra, **options)


def load_weights(
    base: Base, config: NamesBase, *, dtype: str, auto: str = HEADS["words"].auto, **extra: Any
) -> Any:
    """The base model in `dtype`, from safetensors; `extra` goes to from_pretrained of `auto`,
    the class in transformers. Draws from torch's generator for a head that the base lacks."""
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        with _no_report_of_a_new_head(auto):
            return getattr(transformers, auto).from_pretrained(
                base.source,
                revision=base.revision,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                **extra,
            )
    except (OSError, ValueError, KeyError, TypeError, ImportError, SafetensorError) as error:
        raise _not_loaded(config, "", error) from error


@contextlib.contextmanager
def _no_report_of_a_new_head(auto: str) -> Iterator[None]:
    """transformers warns that a head is new, which is what training it is for; and, of a model
    without one, which parts a plan for several machines leaves out."""
    names = ("transformers.modeling_utils", "transformers.distributed.tensor_parallel")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    if auto != HEADS["words"].auto:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _not_loaded(config: NamesBase, part: str, error: Exception) -> FatalError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = lines[0] if lines else type(error).__name__
    where = f"base {config.base}"
    if config.revision:
        where += f" at {config.revision}"
    return config.refuse(
        "base",
        f"{part}{where} cannot be loaded: {why}",
        hint="there is no such folder here; is the hub reachable, and the id right?"
        if HUB_ID.fullmatch(config.base)
        else "see what the folder holds: config.json, tokenizer.json, *.safetensors",
    )
