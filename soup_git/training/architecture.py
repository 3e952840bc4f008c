"""What a base can answer with, and how far it reads: by its config.json, before its weights.

transformers loads more than can be trained here. A model that reads in both directions becomes
one of words with only a warning, though it sees the answer that it is to learn; one of two
halves fails in the middle of a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import HEADS

if TYPE_CHECKING:
    from soup_git.training.model import NamesBase

# Their table of positions starts with those of padding, which are of no use.
COUNTED_FROM_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke"),
    *("markuplm", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
    "xmod",
)
# Their max_position_embeddings is what they were trained on: a recurrence keeps the order, or
# positions are computed as far as a text goes.
_WITHOUT_A_TABLE = (
    *("inkling2_text", "inkling_text", "jamba", "kimi_linear", "nemotron_h", "rwkv", "xglm"),
    "zamba",
)
# What TRL generates where nothing is said.
_GENERATED = 512

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


def within_positions(config: SoupConfig, described: Any) -> SoupConfig:
    """`config` with a data.max_length that the base has positions for; refuses one that somebody
    wrote and that it has not, since a position that is not there ends in an error of torch."""
    count, key = positions(described), "data.max_length"
    if count is None:
        return config
    room = count
    if "num_generations" in config.method.options:
        answer = config.training.trl.get("max_completion_length", _GENERATED)
        room -= answer if isinstance(answer, int) else 0
        if room < 1:
            raise config.refuse(
                "training.trl.max_completion_length",
                f"is {answer}, and {config.base} has {count} positions, for prompt and answer",
                hint=f"training.trl: {{max_completion_length: {max(count // 2, 1)}}}",
            )
    if config.data.max_length <= room:
        return config
    if config.given(key):
        raise config.refuse(
            key,
            f"is {config.data.max_length}, and {config.base} has {count} positions"
            + (f", {count - room} of them for the answer" if room < count else ""),
            hint=f"data.max_length: {room}",
        )
    data = config.data.model_copy(update={"max_length": room})
    return config.model_copy(update={"data": data})


def positions(described: Any) -> int | None:
    """How many tokens of a text the base can read; None where it computes positions itself."""
    text = getattr(described, "text_config", described)
    count = trained_positions(described)
    if count is None or _computes(text) or text.model_type in _WITHOUT_A_TABLE:
        return None
    if text.model_type in COUNTED_FROM_PADDING:
        return count - (text.pad_token_id or 0) - 1
    return count


def trained_positions(described: Any) -> int | None:
    """The longest text that the base was made for, by its config.json."""
    text = getattr(described, "text_config", described)
    count = getattr(text, "max_position_embeddings", None)
    return count if isinstance(count, int) and count > 0 else None


def _computes(text: Any) -> bool:
    """By rotation (RoPE), by distance (ALiBi, DeBERTa's), or not at all."""
    return bool(
        getattr(text, "rope_parameters", None)
        or getattr(text, "alibi", False)
        or getattr(text, "position_embedding_type", "absolute") not in {"absolute", "learned"}
        or not getattr(text, "position_biased_input", True)
    )


def _sees_what_follows(described: Any) -> bool:
    from transformers.models.auto import modeling_auto

    text = getattr(described, "text_config", described)
    # XLM calls it causal. Of decoders, some have is_decoder as well, which means nothing there.
    masked = described.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    encodes = getattr(text, "is_decoder", getattr(text, "causal", None)) is False
    # Embedding models are made of decoders that are told to look in both directions.
    opened = getattr(text, "use_bidirectional_attention", None) in {True, "all"}
    return (masked and encodes) or opened or getattr(text, "is_causal", None) is False
