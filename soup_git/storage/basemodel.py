"""A base model's tensors by name, from the safetensors files of its folder."""

from __future__ import annotations

from pathlib import Path

from soup_git.arithmetic.floats import Stored
from soup_git.errors import FatalError
from soup_git.storage.tensors import TensorFile
from soup_git.storage.weights import read_header


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, from the headers alone."""
    files = sorted(folder.glob("*.safetensors"))
    return {entry.name: entry.shape for file in files for entry in read_header(file)}


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
        self._files = [TensorFile(path) for path in paths]

    def tensor(self, name: str) -> Stored:
        """The tensor `name`, also where the file drops or adds the model's own prefix."""
        for file in self._files:
            for key in (name, name.removeprefix("model."), f"model.{name}"):
                if key in file.entries:
                    return file[key]
        raise FatalError(
            f"{self.folder} has no tensor {name}: it is not the base of these adapters",
            hint="git soup show SPEC names an adapter's base model",
        )
