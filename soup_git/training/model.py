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
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from soup_git.errors import FatalError
from soup_git.storage.pointers import instead
from soup_git.storage.weights import read_header
from soup_git.training import architecture
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import HEADS, LABELLING, SAVED_HEADS
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
        if file == "config.json":
            _check_described(config, described)
        if "auto_map" in described and not config.trust_remote_code:
            raise config.refuse(
                "base",
                f"{name} wants to run Python code of its own (auto_map in {file})",
                hint="read that code; then trust_remote_code: true lets it run",
            )
    for file in ("tokenizer.json", "tokenizer.model"):
        _refuse_foreign(config, folder / file)
    _check_weights(config, folder)


def _check_weights(config: NamesBase, folder: Path) -> None:
    name = config.base
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
    for file in weights:
        try:
            read_header(file, f"{name}/{file.name}", any_dtype=True)
        except FatalError as error:
            raise config.refuse("base", str(error), hint=error.hint) from None
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _json(config, index).get("weight_map", {}).values()
        for shard in sorted(set(map(str, shards))):
            if not (folder / shard).is_file():
                raise config.refuse("base", f"{name} is incomplete: {shard} is missing")


def _refuse_foreign(config: NamesBase, path: Path) -> None:
    """A clone without git-lfs has pointers in the place of weights, and often of the tokenizer."""
    if path.is_file():
        found = instead(path)
        if found is not None:
            raise config.refuse("base", f"{config.base}/{path.name} {found.what}", hint=found.hint)


def _check_described(config: NamesBase, described: dict[str, Any]) -> None:
    path, hint = f"{config.base}/config.json", "fetch the base's config.json again"
    if not isinstance(described.get("model_type"), str):
        raise config.refuse(
            "base", f"{path} names no model_type, so it describes no model", hint=hint
        )
    quantized = described.get("quantization_config")
    if quantized is None:
        return
    keys = ("quant_method", "load_in_4bit", "load_in_8bit")
    if not isinstance(quantized, dict) or not any(quantized.get(key) for key in keys):
        raise config.refuse(
            "base",
            f"{path} has a quantization_config that does not say what the weights are in "
            "(quant_method)",
            hint=hint,
        )


def _json(config: NamesBase, path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    _refuse_foreign(config, path)
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise config.refuse("base", f"{config.base}/{path.name} is not JSON") from None
    return value if isinstance(value, dict) else {}


def load_tokenizer(base: Base, config: NamesBase) -> Any:
    """The base's tokenizer, which must be a fast one: masks need the offsets of tokens."""
    from transformers import AutoTokenizer

    described(base, config)  # it is read for the tokenizer too, and says better what is wrong
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base.source, revision=base.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded(base, config, "the tokenizer of ", error) from error
    if not tokenizer.is_fast:
        raise config.refuse(
            "base", f"the tokenizer of {config.base} is a slow one; it needs a tokenizer.json"
        )
    return tokenizer


def own_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; of named ones, the default."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def described(base: Base, config: NamesBase, **changed: Any) -> Any:
    """The base's config.json, as transformers reads it, with `changed` in it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            base.source,
            revision=base.revision,
            trust_remote_code=config.trust_remote_code,
            **changed,
        )
    # The values of the file are computed with as they come: heads "x", 0 of them, a list.
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError),
        *(ImportError, StrictDataclassError),
    ) as error:
        raise _not_loaded(base, config, "the config.json of ", error) from error


def load(
    base: Base, config: SoupConfig, *, dtype: str, settings: Any = None, **options: Any
) -> Any:
    """The base model for training, in `dtype` ("float32", …), frozen by PEFT later. `settings`
    go in the place of its config.json, and hold what the head is made with."""
    task = config.method
    extra = dict(config.training.trl.get("model_init_kwargs") or {})
    if settings is not None:
        extra["config"] = settings
    elif task.head_options:
        extra |= load_named(task.head_options)(config)
    return load_weights(
        base,
        config,
        dtype=dtype,
        auto=HEADS[task.head].auto,
        new=config.training.lora.modules_to_save or (),
        extra={**extra, **options},
    )


def load_weights(
    base: Base,
    config: NamesBase,
    *,
    dtype: str,
    auto: str = HEADS["words"].auto,
    new: Collection[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> Any:
    """The base model in `dtype`, from safetensors; `extra` goes to from_pretrained of `auto`,
    the class in transformers. Draws from torch's generator for a head that the base lacks.

    `new` are other modules that the base may lack, because an adapter brings them. Raises
    FatalError for a base that lacks more: it would be filled up with random numbers, others
    each time, and an adapter of them is one of no base.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    architecture.check(described(base, config), config, auto)
    try:
        with _no_report_of_a_new_head(auto):
            model, report = getattr(transformers, auto).from_pretrained(
                base.source,
                revision=base.revision,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=True,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
                # The report says which, where transformers' own error sends to a table.
                ignore_mismatched_sizes=True,
                **(extra or {}),
            )
    except (
        *(OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError),
        SafetensorError,
    ) as error:
        raise _not_loaded(base, config, "", error) from error
    _refuse_other_shapes(config, report["mismatched_keys"])
    _refuse_missing(config, model, {*_new_heads(auto), *new}, report["missing_keys"])
    return model


def _new_heads(auto: str) -> set[str]:
    """What a base lacks when it is given a task that it was not made for: a head, by both names
    that transformers has for one, which PEFT saves whole; and what embedding does not read."""
    if auto in {HEADS[head].auto for head in LABELLING}:
        return set(SAVED_HEADS)
    return {"pooler"} if auto == HEADS["vectors"].auto else set()


def _refuse_other_shapes(config: NamesBase, mismatched: Collection[tuple[str, Any, Any]]) -> None:
    if not mismatched:
        return
    name, found, wanted = min(mismatched)
    shapes = ["x".join(map(str, shape)) for shape in (found, wanted)]
    more = f" (and {len(mismatched) - 1} more like it)" if len(mismatched) > 1 else ""
    if name.partition(".")[0] in SAVED_HEADS:
        raise config.refuse(
            "base",
            f"{config.base} has a head of its own: {name} is {shapes[0]}, this task's is "
            f"{shapes[1]}",
            hint=f"training.num_labels: {found[0]}, or the base that it was trained from",
        )
    raise config.refuse(
        "base",
        f"{config.base} does not fit its config.json: {name} is {shapes[0]} in its files, and "
        f"{shapes[1]} by config.json{more}",
        hint="fetch config.json and *.safetensors again, from one place",
    )


def _refuse_missing(
    config: NamesBase, model: Any, new: Collection[str], missing: Collection[str]
) -> None:
    lacking = sorted(k for k in missing if not any(f".{name}." in f".{k}" for name in new))
    if not lacking:
        return
    more = f" (nor {len(lacking) - 1} others)" if len(lacking) > 1 else ""
    inside = f"{model.base_model_prefix}."
    top = {key.removeprefix(inside).partition(".")[0] for key in lacking}
    if new and all("pooler" in key or not key.startswith(inside) for key in lacking):
        raise config.refuse(
            "base",
            f"{config.base} has no {lacking[0]}{more}: it is as new as the head, and would stay "
            "random, another for everyone who loads the adapter",
            hint=f"training.lora.modules_to_save: [{', '.join(sorted(top))}] trains it and saves "
            "it with the adapter",
        )
    raise config.refuse(
        "base",
        f"{config.base} is incomplete: no {lacking[0]}{more} in its files, so it would be random",
        hint="fetch the base again; config.json and *.safetensors have to be of one model",
    )


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


def _not_loaded(base: Base, config: NamesBase, part: str, error: Exception) -> FatalError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A first line that ends so says only that the reason follows.
    told = lines[:2] if lines and lines[0].endswith(":") else lines[:1]
    why = " ".join(told) or type(error).__name__
    where = f"base {config.base}"
    if config.revision:
        where += f" at {config.revision}"
    return config.refuse(
        "base",
        f"{part}{where} cannot be loaded: {why}",
        hint="see what the folder holds: config.json, tokenizer.json, *.safetensors"
        if base.local
        else "there is no such folder here; is the hub reachable, and the id right?",
    )
