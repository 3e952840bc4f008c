"""Several rows in one sequence, and that none sees another: checked on the model, not trusted.

TRL says where a packed row begins by positions that start again, and transformers makes masks
of them for attention. A base that carries a state from token to token, or has attention of its
own, takes the same positions and mixes the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from soup_git.core.yamllines import Where
from soup_git.training.schema import SoupConfig

if TYPE_CHECKING:
    import torch

    from soup_git.training.prepared import Encoded

_TOKENS = 12
"""Of each of the texts that the model is probed with."""
_ROUNDING, _COARSE_ROUNDING = 0.01, 0.2
"""What rounding may do to a text's logits, as a share of what a text before it does where it is
seen: 3e-7 was measured in float32, up to 2% in half precision."""
_INSTEAD = "training.packing: false trains longer, and reads each row by itself"


def check(config: SoupConfig, _given: set[Where]) -> Iterator[tuple[Where, str]]:
    """Packings of TRL's that mix rows."""
    trl = config.training.trl
    if trl.get("packing_strategy") == "wrapped":
        whole = "bfd keeps rows whole, bfd_split cuts those beyond data.max_length"
        yield (
            ("training", "trl", "packing_strategy"),
            f"is not taken: wrapped cuts rows anywhere, and what shares a sequence sees each other; {whole}",
        )
    if trl.get("eval_packing") and not config.training.packing:
        yield (
            ("training", "trl", "eval_packing"),
            "is not taken without training.packing: rows held out would see each other",
        )


def refuse_leaks(
    trainer: Any, config: SoupConfig, rows: Sequence[Encoded], special: set[int]
) -> None:
    """Raises FatalError where the trainer's model lets a packed row see the one before it.

    A text is packed behind another, as the trainer would feed both. No gradient may flow from
    the text to what is before it: behind a mask it is exactly zero, in any precision. And what
    the model says of it is what it says of the text alone, as its positions start again. Four
    passes over two dozen tokens; the model is as before.
    """
    from soup_git.training.loop import untouched_generators

    before, text = _texts(rows, special)
    model, was_training = trainer.model, trainer.model.training
    try:
        with untouched_generators():
            model.train()
            sees = _sees(trainer, before, text)
            model.eval()
            alone, packed, seen = (
                _logits(trainer, texts) for texts in ([text], [before, text], [before + text])
            )
    except (TypeError, ValueError) as error:
        raise config.refuse(
            "training.packing",
            f"transformers refuses packed rows for {config.base}: {error}",
            hint=_INSTEAD,
        ) from error
    finally:
        model.train(was_training)
    is_exact = model.dtype == alone.dtype and not getattr(model, "is_quantized", False)
    allowed = _ROUNDING if is_exact else _COARSE_ROUNDING
    if sees or _distance(packed, alone) > allowed * _distance(seen, alone):
        raise config.refuse(
            "training.packing",
            f"{config.base} lets packed rows see each other: what it says of a row depends on the"
            " row before it in the sequence",
            hint=_INSTEAD,
        )


def _texts(rows: Sequence[Encoded], special: set[int]) -> tuple[list[int], list[int]]:
    """Two texts of tokens that the rows have: one that nothing reads, or that stands for a
    picture, says nothing. They have none in common where there are enough."""
    found = {i for row in rows for i in row.ids}
    known = sorted(found - special) or sorted(found)
    # From all over the vocabulary, which is ordered by how frequent a token is.
    spread = [known[i * len(known) // (2 * _TOKENS)] for i in range(2 * _TOKENS)]
    return spread[0::2], spread[1::2]


def _forward(trainer: Any, texts: Sequence[list[int]]) -> torch.Tensor:
    """Of the last text's tokens, from a batch as the trainer makes and computes it."""
    import torch

    ids = [i for text in texts for i in text]
    row = {"input_ids": ids, "labels": ids, "seq_lengths": [len(text) for text in texts]}
    batch = trainer._prepare_inputs(trainer.data_collator([row]))
    del batch["labels"]  # of the logits nothing would be left, where the loss is fused with them
    # A model that is going to be split among processes is not on their devices yet.
    device = trainer.model.device
    batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
    with trainer.accelerator.autocast():
        logits: torch.Tensor = trainer.model(**batch).logits
    return logits[0, -_TOKENS:].float()


def _logits(trainer: Any, texts: Sequence[list[int]]) -> torch.Tensor:
    import torch

    with torch.no_grad():
        return _forward(trainer, texts)


def _sees(trainer: Any, before: list[int], text: list[int]) -> bool:
    """Whether a gradient flows from what the model says of `text` to the tokens of `before`."""
    kept: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, vectors: torch.Tensor) -> torch.Tensor:
        kept.append(vectors.detach().requires_grad_())
        return kept[0]

    hook = trainer.model.get_input_embeddings().register_forward_hook(keep)
    try:
        _forward(trainer, [before, text]).pow(2).sum().backward()
    finally:
        hook.remove()
        trainer.model.zero_grad(set_to_none=True)
    gradient = kept[0].grad
    return gradient is not None and bool(gradient[0, : len(before)].any())


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).pow(2).mean().sqrt())
