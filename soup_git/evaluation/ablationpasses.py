"""One pass of the model over a batch of rows: with a part taken out, from its layer on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from soup_git.evaluation.ablationparts import Part
from soup_git.evaluation.model import Model
from soup_git.evaluation.prefixreuse import LayerStack, find_layers
from soup_git.evaluation.removal import Adapted
from soup_git.training.prepared import Encoded

_KEPT_BYTES = 1 << 30
_LOGITS = 1 << 26  # numbers of a row of tokens × vocabulary that are looked at together


@dataclass(frozen=True)
class Batch:
    """Rows that go together, as tensors on the model's device."""

    rows: Any
    """Which rows: int64, (rows,), numpy."""
    ids: Any
    mask: Any
    row: Any
    place: Any
    target: Any
    """Of each token in the loss: its row in the batch, its place, the token."""
    cells: int
    """rows × width: what a pass costs."""


class Passes:
    """A model that is asked for losses; layers below a part are not run again once it may."""

    def __init__(self, adapted: Adapted, model: Model) -> None:
        self.adapted = adapted
        self.model = model
        self.stack: LayerStack | None = None
        self.most_cells = 0
        """Of a batch whose layers' outputs can all be kept; 0 is any."""

    def reuse_layers(self, shortest: Sequence[Encoded], inside: ExitStack) -> str | None:
        """Enter the layers while `inside` is open; else say why not. `shortest` are tried on."""
        stack = find_layers(self.adapted.model, self.adapted.hooked)
        if stack is None:
            return "no stack of layers was found"
        probe = self.batch(range(len(shortest)), shortest)
        with ExitStack() as trial:
            trial.enter_context(stack)
            why = stack.why_not(lambda: self._losses(probe))
            if why is not None:
                return why
            kept = max(1, stack.kept_bytes // max(probe.cells, 1))
            self.most_cells = _KEPT_BYTES // kept
            inside.push(trial.pop_all())
        self.stack = stack
        return None

    @property
    def layers(self) -> int:
        """How many can be entered one by one."""
        return len(self.stack) if self.stack else 0

    def depth(self, part: Part) -> int:
        if self.stack is None:
            return 0
        return min(self.stack.depth(f"base_model.model.{name}") for name in part.modules)

    def batch(self, rows: Sequence[int], some: Sequence[Encoded]) -> Batch:
        """`some` are the tokens of `rows`."""
        import torch

        width = max(len(s.ids) for s in some)
        device, pad = self.model.model.device, self.model.pad
        tokens = [
            (r, p, s.ids[p])
            for r, s in enumerate(some)
            for p in range(1, len(s.ids))
            if s.in_loss[p]
        ]

        def tensor(values: object) -> Any:
            return torch.tensor(values, device=device, dtype=torch.long)

        return Batch(
            rows=np.array(rows, dtype=np.int64),
            ids=tensor([s.ids + [pad] * (width - len(s.ids)) for s in some]),
            mask=tensor([[1] * len(s.ids) + [0] * (width - len(s.ids)) for s in some]),
            row=tensor([r for r, _, _ in tokens]),
            place=tensor([p for _, p, _ in tokens]),
            target=tensor([t for _, _, t in tokens]),
            cells=len(some) * width,
        )

    # -- summed losses per row: float64, numpy --------------------------------------------------

    def with_all(self, batch: Batch) -> Any:
        """Layers keep what they put out, for the passes without something."""
        with ExitStack() as inside:
            if self.stack is not None:
                inside.enter_context(self.stack.recording())
            return self._losses(batch).cpu().numpy()

    def without(self, batch: Batch, part: Part, depth: int | None = None) -> Any:
        """`depth` is the layer to enter at, where it is not the part's own."""
        with ExitStack() as inside:
            inside.enter_context(self.adapted.without(part.modules))
            if self.stack is not None:
                first = self.depth(part) if depth is None else depth
                inside.enter_context(self.stack.from_layer(first))
            return self._losses(batch).cpu().numpy()

    def without_all(self, batch: Batch, parts: Sequence[Part]) -> Any:
        return self.without(batch, Part("", tuple(n for part in parts for n in part.modules)))

    def gradient(
        self, batches: Sequence[Batch], parts: Sequence[Part], tokens: float, value: float
    ) -> Any:
        """d(mean loss)/d(gate) of every part with all gates at `value`: float64, (parts,)."""
        import torch

        names = [name for part in parts for name in part.modules]
        if self.stack is not None:
            self.stack.forget()
        found = np.zeros(len(names))
        for batch in batches:
            with torch.enable_grad(), self.adapted.gated(names, float(value)) as gates:
                (self._losses(batch).sum() / tokens).backward()
            found += [0.0 if g.grad is None else float(g.grad) for g in gates]
        each = iter(found)
        return np.array([sum(float(next(each)) for _ in part.modules) for part in parts])

    def _losses(self, batch: Batch) -> Any:
        """Summed nats per row over its tokens in the loss: float64, (rows,)."""
        import torch

        logits = self.model.model(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
        ).logits
        found = torch.zeros(len(batch.rows), dtype=torch.float64, device=logits.device)
        step = max(1, _LOGITS // logits.shape[-1])
        for start in range(0, len(batch.target), step):
            some = slice(start, start + step)
            row, target = batch.row[some], batch.target[some]
            before = logits[row, batch.place[some] - 1].float()
            chosen = torch.log_softmax(before, dim=-1).gather(1, target.unsqueeze(1)).squeeze(1)
            found = found.index_add(0, row, -chosen.double())
        return found
