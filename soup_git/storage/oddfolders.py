"""Why a folder is no adapter that is read, and what to type about it.

Trainers, the hub and their bug reports leave folders that look like adapters: weights in shards,
under another name, as a pickle, in a folder below. Each is refused by what it is.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from soup_git.core.manifest import CONFIG, MANIFEST, WEIGHTS
from soup_git.core.rewrites import from_pickle, joined
from soup_git.errors import FatalError
from soup_git.storage.filenames import typed
from soup_git.storage.weights import read_header

PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin", "adapter.pkl")
_SAVE = "save the adapter again with PEFT's model.save_pretrained(DIR)"
_ROUTER = "xlora_classifier.safetensors"
_MOST_BELOW = 64


def no_config(folder: Path, shown: str) -> FatalError:
    """Of a folder without an `adapter_config.json`."""
    below = _adapters_below(folder)
    if below:
        names = " ".join(shlex.quote(typed(path)) for path in below)
        what = "the adapter lies" if len(below) == 1 else f"{len(below)} adapters lie"
        return FatalError(
            f"{shown} has no {CONFIG}: no adapter; {what} in a folder below it"
            f" ({', '.join(path.relative_to(folder).as_posix() for path in below[:3])})",
            hint=f"git soup add {names}",
        )
    if (folder / "config.json").is_file():
        return FatalError(
            f"{shown} has no {CONFIG}: it is a whole model's folder, not an adapter's",
            hint="an adapter is what PEFT's model.save_pretrained(DIR) writes; soup.yaml's `base`"
            " names models",
        )
    return FatalError(
        f"{shown} has no {CONFIG}: no adapter",
        hint=f"ls {shlex.quote(shown)}; an adapter is what PEFT's model.save_pretrained(DIR) writes",
    )


def _adapters_below(folder: Path) -> list[Path]:
    """Folders in it (PEFT's for an adapter's name, trainers' checkpoints) that are adapters."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)[:_MOST_BELOW]
    return [
        Path(entry.path)
        for entry in entries
        if entry.is_dir(follow_symlinks=False) and Path(entry.path, CONFIG).is_file()
    ]


def pickled(folder: Path) -> list[str]:
    """The pickles in a folder that a user may take for weights."""
    return [name for name in PICKLES if (folder / name).is_file()]


def no_weights(folder: Path, shown: str) -> FatalError:
    """Of a folder whose `adapter_model.safetensors` is not there."""
    weights = folder / WEIGHTS
    if weights.is_symlink() and not _is_tracked(folder):
        return dangling(weights, f"{shown}/{WEIGHTS}")
    names = pickled(folder)
    if names:
        line = from_pickle(typed(folder / names[0]), typed(weights))
        return FatalError(
            f"{shown}/{names[0]} is a pickle, which can run code when it is read; only"
            " safetensors files are",
            hint=f"convert it where you trust it: {line}",
        )
    return _by_another_name(folder, shown) or FatalError(
        f"{shown} has no {WEIGHTS}",
        hint="git soup checkout brings tracked weights back" if _is_tracked(folder) else _SAVE,
    )


def dangling(link: Path, shown: str) -> FatalError:
    """Of a symbolic link whose target is not there."""
    return FatalError(
        f"{shown} is a symbolic link to {link.readlink()}, which is not there",
        hint=f"ls -l {shlex.quote(typed(link))}; copy the file itself here, from where the link was"
        " made (cp -L)",
    )


def _is_tracked(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or (folder / f"{WEIGHTS}.dvc").is_file()


def _by_another_name(folder: Path, shown: str) -> FatalError | None:
    """Weights that are there, and not where PEFT looks for them."""
    weights = typed(folder / WEIGHTS)
    found = sorted(folder.glob("*.safetensors"))
    files = [file for file in found if file.is_file() and file.name != WEIGHTS]
    if (folder / _ROUTER).is_file():
        below = " ".join(shlex.quote(typed(path)) for path in _adapters_below(folder))
        return FatalError(
            f"{shown} is an X-LoRA mixture: {_ROUTER} is its router, and its experts are adapters"
            " of their own; a mixture is not versioned as one adapter",
            hint=f"git soup add {below}" if below else "git soup add the folder of each expert",
        )
    shards = [file for file in files if "-of-" in file.name]
    index = sorted(folder.glob("*.safetensors.index.json"))
    if shards or index:
        what = f"{shards[0].name}, …" if shards else index[0].name
        return FatalError(
            f"{shown} has its weights in shards ({what}); PEFT loads one {WEIGHTS}",
            hint=f"join them: {joined([typed(file) for file in shards], weights)}"
            if shards
            else "the index names its shards: copy them here too",
        )
    if len(files) != 1 or _is_tracked(folder):
        return None
    if any(".lora_" in entry.name for entry in read_header(files[0], f"{shown}/{files[0].name}")):
        return FatalError(
            f"{shown} has its weights under another name ({files[0].name}); PEFT loads {WEIGHTS}",
            hint=f"mv {shlex.quote(typed(files[0]))} {shlex.quote(weights)}",
        )
    return FatalError(
        f"{shown} has no {WEIGHTS}, and {files[0].name} holds no LoRA factor: a whole model, or"
        " another method's file",
        hint=_SAVE,
    )
