"""What a base can answer with, and how far it reads: by its config.json, before its weights.

transformers loads more than can be trained here. A model that reads in both directions becomes
one of words with only a warning, though it sees the answer that it is to learn; one of two
halves fails in the middle of a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soup_git.training.tasks import HEADS

if TYPE_CHECKING:
    from soup_git.training.model import NamesBase

_WHAT = {
    HEADS["words"].auto: "words",
    HEADS["labels"].auto: "labels",
    HEADS["token labels"].auto: "a label for each token",
    HEADS["vectors"].auto: "vectors",
}


def check(described: Any, config: NamesBase, auto: str) -> None:
    """Refuse a base that cannot answer with what `auto`, a class of transformers, stands for.
    `described` is its config.json, as transformers reads it."""
    import transformers

    kind = described.model_type
    if described.is_encoder_decoder:
        raise config.refuse(
            "base",
            f"{config.base} ({kind}) is an encoder with a decoder: it reads a text in one half and "
            "writes in the other, and the rows of no task here are made of two",
            hint="a model of one half: a decoder such as Qwen/Qwen3-0.6B, or for labels and "
            "vectors an encoder such as google-bert/bert-base-uncased",
        )
    both_ways = auto == HEADS["words"].auto and _sees_what_follows(described)
    taken = getattr(transformers, auto)._model_mapping
    # Code that comes with a model registers itself only when it is loaded.
    if both_ways or (type(described) not in taken and not hasattr(described, "auto_map")):
        why = (
            "reads in both directions, so that it would see each word that it is to predict"
            if both_ways
            else f"transformers has no {auto} of it"
        )
        raise config.refuse(
            "base",
            f"{config.base} ({kind}) cannot answer with {_WHAT[auto]}: {why}",
            hint="a decoder such as Qwen/Qwen3-0.6B, which all tasks can train",
        )


def _sees_what_follows(described: Any) -> bool:
    from transformers.models.auto import modeling_auto

    text = described.get_text_config(decoder=True)
    # XLM calls it causal. Of decoders, some have is_decoder as well, which means nothing there.
    masked = described.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    encodes = getattr(text, "is_decoder", getattr(text, "causal", None)) is False
    # Embedding models are made of decoders that are told to look in both directions.
    opened = getattr(text, "use_bidirectional_attention", None) in {True, "all"}
    return (masked and encodes) or opened or getattr(text, "is_causal", None) is False
