"""A base model's tensors by name, from the safetensors files of its folder.

A name is looked up as the adapter has it, then as other versions of transformers wrote it into
files, and at last as what a tied model reads instead: its embeddings are its output layer too, and
its file holds them once (`tie_word_embeddings`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from soup_git.arithmetic.floats import Stored
from soup_git.errors import FatalError
from soup_git.storage.files import bytes_of
from soup_git.storage.tensors import TensorFile
from soup_git.storage.weights import read_header

# Where the text model's tensors lie: in a file of today, of before transformers 4.52, of a bare
# model that was saved without its head, of GPT-2.
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "transformer.", "")  # fmt: skip
# A layer norm's names in checkpoints converted from TensorFlow; a normed weight's before PyTorch 2.1.
_ENDINGS = (
    (".weight", ".gamma"),
    (".bias", ".beta"),
    (".parametrizations.weight.original0", ".weight_g"),
    (".parametrizations.weight.original1", ".weight_v"),
)
_OUTPUTS = {"lm_head.weight", "embed_out.weight", "output.weight", "cls.predictions.decoder.weight"}
_INPUTS = (
    "embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "shared.weight",
    "decoder.embed_tokens.weight", "gpt_neox.embed_in.weight", "embeddings.word_embeddings.weight",
    "bert.embeddings.word_embeddings.weight", "word_embeddings.weight", "backbone.embeddings.weight",
)  # fmt: skip


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of what is stored as floating point, from the headers alone.

    A quantised weight is packed: its shape is none of its layer's.
    """
    files = sorted(folder.glob("*.safetensors"))
    entries = (entry for file in files for entry in read_header(file, any_dtype=True))
    return {e.name: e.shape for e in entries if e.dtype.startswith(("F", "BF"))}


def names_in_files(name: str) -> Iterator[str]:
    """The names under which a model's file may hold the tensor `name`, likeliest first."""
    yield name
    rest = next(name.removeprefix(p) for p in _PREFIXES if name.startswith(p))
    for prefix in _PREFIXES:
        yield prefix + rest
    for new, old in _ENDINGS:
        for one, other in ((new, old), (old, new)):
            if rest.endswith(one):
                yield from (p + rest.removesuffix(one) + other for p in _PREFIXES)


class BaseModel:
    """The weights of a model's folder, mapped; nothing is loaded until it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            raise FatalError(
                f"{folder} holds no safetensors files: no base model",
                hint="--base takes the folder of the model that the adapters were trained on",
            )
        self._files = [TensorFile(path, any_dtype=True) for path in paths]

    def tensor(self, name: str) -> Stored:
        """The tensor `name`, by whatever name the files have it.

        Raises `FatalError` where they have it by none.
        """
        found = self._find(name)
        if found is None and self._is_output(name) and self._ties():
            found = next(filter(None, map(self._find, _INPUTS)), None)
        if found is None:
            raise FatalError(
                f"{self.folder} has no tensor {name}, nor one by a name that other versions of"
                f" transformers gave it{self._untied(name)}: it is not the base of these adapters",
                hint="git soup show SPEC names an adapter's base model",
            )
        file, key = found
        return file[key]

    def _find(self, name: str) -> tuple[TensorFile, str] | None:
        for key in dict.fromkeys(names_in_files(name)):
            for file in self._files:
                if key in file.entries:
                    return file, key
        return None

    def _is_output(self, name: str) -> bool:
        return any(name.endswith(output) for output in _OUTPUTS)

    def _ties(self) -> bool:
        """Whether the output layer is the embeddings: unless the config says that it is not.

        Where the config is silent its model type's default holds, and a file without an output
        layer is one of a tied model.
        """
        text = self._config.get("text_config")
        inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
        return self._config.get("tie_word_embeddings", inner) is not False

    @cached_property
    def _config(self) -> dict[str, Any]:
        try:
            config = json.loads(bytes_of(self.folder / "config.json") or b"{}")
        except (ValueError, RecursionError):
            return {}
        return config if isinstance(config, dict) else {}

    def _untied(self, name: str) -> str:
        untied = self._is_output(name) and not self._ties()
        return ", and its config.json says that its embeddings are not tied" if untied else ""
