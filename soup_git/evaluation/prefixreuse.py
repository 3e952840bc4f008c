"""Running only the layers that a change can reach: the ones before answer from memory.

A decoder hands its hidden states from layer to layer. Whatever is changed in layer k leaves
the outputs of layers 0 … k−1 as they were, so these are kept from one whole pass and given
back instead of being computed again. Embedding, masks, the last norm and the head are run
by the model's own code: nothing of a model's family is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

Forward = Callable[[], Any]
"""One pass of the model over one batch; gives its losses, one per row (float64 tensor)."""

SAME = 1e-6
"""Relative and absolute difference of losses that are still the same computation."""


class LayerStack:
    """The layers of a model, which answer from memory where they are told to.

    They are found, not named: the `ModuleList` that holds most of the adapted modules. Use
    it as a context; afterwards the layers are as they were.
    """

    def __init__(self, name: str, layers: Sequence[Any], adapted: dict[str, Any]) -> None:
        self.name = name
        self.layers = list(layers)
        self._adapted = adapted
        self._kept: list[Any] = [None] * len(self.layers)
        self._order: list[int] = []
        self._first = 0
        self._is_recording = False
        self._depths: dict[str, int] = {}
        self._hooks: list[Any] = []
        self._before: list[Any] = []

    def __len__(self) -> int:
        return len(self.layers)

    def __enter__(self) -> Self:
        for index, layer in enumerate(self.layers):
            # Some libraries give a layer a forward of its own already.
            self._before.append(vars(layer).get("forward"))
            layer.forward = self._answering(index, layer.forward)
        for name, module in self._adapted.items():
            self._hooks.append(module.register_forward_pre_hook(self._seen(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for layer, before in zip(self.layers, self._before, strict=True):
            del layer.forward  # the class's own again
            if before is not None:
                layer.forward = before
        self._before = []
        for hook in self._hooks:
            hook.remove()
        self.forget()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Every layer's output is kept for `from_layer`, in the place of what was."""
        self.forget()
        self._is_recording, self._first = True, 0
        try:
            yield
        finally:
            self._is_recording = False

    @contextmanager
    def from_layer(self, first: int) -> Iterator[None]:
        """Layers before `first` (0 … len) answer as in the recorded pass."""
        self._first = first
        try:
            yield
        finally:
            self._first = 0

    def forget(self) -> None:
        """Let go of what is kept: tokens × layers × width numbers."""
        self._kept = [None] * len(self.layers)
        self._order = []

    def depth(self, name: str) -> int:
        """The layer before which nothing changes when this adapted module does.

        For one in a layer its index, for the embedding 0, for the head the number of layers.
        A module that did not run in the recorded pass changes nothing, but is not trusted: 0.
        """
        return self._depths.get(name, 0)

    @property
    def kept_bytes(self) -> int:
        return sum(_bytes(kept) for kept in self._kept)

    def why_not(self, forward: Forward) -> str | None:
        """Why this model's layers cannot be skipped; None when they can.

        Asked by trying: one recorded pass, then one from every depth, which have to give the
        same losses. A model that writes into an earlier layer's output, runs a layer twice
        or hands something on beside it is found so, whatever its family.
        """
        import torch

        with self.recording():
            expected = forward()
        if self._order != list(range(len(self.layers))):
            return f"the layers of {self.name} do not run once each, in order"
        for first in range(1, len(self.layers) + 1):
            try:
                with self.from_layer(first):
                    found = forward()
            except (RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
                # The model's own code, run in a way that it was not made for.
                return f"{self.name} cannot be entered at layer {first}: {error}"
            if not torch.allclose(found, expected, rtol=SAME, atol=SAME):
                return f"{self.name} gives other losses when it is entered at layer {first}"
        return None

    def _answering(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*arguments: Any, **named: Any) -> Any:
            if index < self._first:
                return self._kept[index]
            found = forward(*arguments, **named)
            if self._is_recording:
                self._kept[index] = found
                self._order.append(index)
            return found

        return answer

    def _seen(self, name: str) -> Callable[[Any, Any], None]:
        inside = next(
            (i for i in range(len(self.layers)) if name.startswith(f"{self.name}.{i}.")), None
        )

        def note(_module: Any, _arguments: Any) -> None:
            if self._is_recording and name not in self._depths:
                self._depths[name] = len(self._order) if inside is None else inside

        return note


def find_layers(model: Any, adapted: dict[str, Any]) -> LayerStack | None:
    """The stack of layers that holds most of the adapted modules; None where there is none.

    `adapted` maps names, as `named_modules` of `model` gives them, to modules.
    """
    from torch.nn import ModuleList

    best: tuple[int, int, str, Any] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, ModuleList) or len(module) < 2:
            continue
        held = sum(inner.startswith(f"{name}.") for inner in adapted)
        # Of nested lists (experts inside layers) the outermost: its name is the shorter one.
        rank = (held, -len(name))
        if held and (best is None or rank > best[:2]):
            best = (*rank, name, module)
    return None if best is None else LayerStack(best[2], best[3], adapted)


def _bytes(kept: Any) -> int:
    if isinstance(kept, tuple | list):
        return sum(_bytes(item) for item in kept)
    count = getattr(kept, "nbytes", 0)
    return count if isinstance(count, int) else 0
