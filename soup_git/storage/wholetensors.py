"""What a merge holds besides factors: tensors that stand in the base's place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soup_git.arithmetic.floats import Array, to_bits, widest
from soup_git.errors import FatalError
from soup_git.storage.basemodel import BaseModel
from soup_git.storage.mergedmodules import Sink
from soup_git.storage.mergeinputs import Input
from soup_git.storage.tensors import Slot
from soup_git.storage.updates import OpenAdapter

_PREFIX = "base_model.model."
_TOKENS = ".token_adapter.trainable_tokens_delta"


class WholeTensors:
    """Tensors that replace the base's (`modules_to_save`, biases): v0 + Σ w·(v − v0).

    v0, the base's value, cancels where the weights of those that have the tensor add up to
    1 and every input has it; else it must be given.
    """

    def __init__(self, inputs: Sequence[Input], base: BaseModel | None) -> None:
        self._inputs = inputs
        self._base = base
        names = dict.fromkeys(name for i in inputs for name in i.opened.extras)
        self._kept = {name for i in inputs for name in i.kept}
        self._having = {n: [i.inside(n) for i in inputs if n in i.opened.extras] for n in names}
        for name, having in self._having.items():
            self._check(name, having)

    def _check(self, name: str, having: Sequence[Input]) -> None:
        shapes = {i.opened.file.entries[name].shape for i in having}
        if len(shapes) > 1:
            raise FatalError(
                f"{name} has other shapes in {having[0].opened.spec} than in another input",
                hint="adapters of one base model have the same shapes: git soup show SPEC",
            )
        if self._base is None and not self._base_cancels(name, having):
            has = {id(i.opened) for i in having}
            missing = [i.opened.spec for i in self._inputs if id(i.opened) not in has]
            why = f"{', '.join(missing)} has none" if missing else "the weights do not add up to 1"
            raise FatalError(
                f"{name} replaces the base's tensor, and {why}: its merge needs the base's value",
                hint="--base FOLDER-OF-THE-BASE-MODEL, or weights that add up to 1 (--normalize)",
            )

    def _base_cancels(self, name: str, having: Sequence[Input]) -> bool:
        everywhere = len(having) == len(self._inputs) or name in self._kept
        return everywhere and abs(sum(i.weight for i in having) - 1.0) < 1e-9

    def slots(self) -> list[Slot]:
        return [
            Slot(name, self._dtype(name), having[0].opened.file.entries[name].shape)
            for name, having in self._having.items()
        ]

    def notes(self) -> list[str]:
        count = len(self._having)
        if not count:
            return []
        return [
            f"{count} whole tensor{'s' if count > 1 else ''} (modules_to_save, biases) merged as a weighted mean"
        ]

    def _dtype(self, name: str) -> str:
        return widest({i.opened.file[name].dtype for i in self._having[name]})

    def write(self, out: Sink) -> None:
        for name, having in self._having.items():
            digests = {i.opened.tensors[name].sha256 for i in having}
            if len(digests) == 1 and self._base_cancels(name, having):
                out.put(name, having[0].opened.file[name].bits)
            else:
                out.put(name, to_bits(self._merged(name, having), self._dtype(name)))

    def _merged(self, name: str, having: Sequence[Input]) -> Array:
        values = [i.opened.file[name].read(work=np.float64) for i in having]
        total = np.asarray(sum(i.weight * v for i, v in zip(having, values, strict=True)))
        rest = 1.0 - sum(i.weight for i in having)
        if self._base is not None and not self._base_cancels(name, having):
            total = total + rest * _base_value(self._base, name, having[0].opened)
        return total


def _base_value(base: BaseModel, name: str, opened: OpenAdapter) -> Array:
    """What the base has where an adapter has the whole tensor `name`, float64."""
    plain = name.removeprefix(_PREFIX).replace(".base_layer.", ".")
    module = plain.removesuffix(_TOKENS)
    if module == plain:
        return base.tensor(plain).read(work=np.float64)
    # Some rows of an embedding: PEFT names them per module, or for the input embeddings alone.
    indices = opened.settings.get("trainable_token_indices")
    if isinstance(indices, dict):
        indices = next((v for k, v in indices.items() if f".{module}".endswith(f".{k}")), None)
    if not isinstance(indices, list):
        raise FatalError(
            f"{opened.spec}: its config names no trainable_token_indices for {module}",
            hint="save the adapter again with PEFT's model.save_pretrained(DIR)",
        )
    return base.tensor(f"{module}.weight").read(indices, np.float64)
