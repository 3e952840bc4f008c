"""sentence-transformers' trainer around a model that has its adapter already.

Imported late: it loads sentence-transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling

from soup_git.training.schema import TrainingBlock

_POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


class Tokens(torch.nn.Module):  # type: ignore[misc]
    """First module of an embedder: token ids to a vector for each token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = {key: features[key] for key in ("input_ids", "attention_mask")}
        return features | {"token_embeddings": self.model(**inputs).last_hidden_state}


def embedder(model: Any, pooling: str) -> SentenceTransformer:
    """`model`, a base with its adapter, and what makes one vector of its tokens'."""
    size = model.config.get_text_config().hidden_size
    modules = [Tokens(model), Pooling(size, pooling_mode=_POOLING[pooling])]
    return SentenceTransformer(modules=modules, device=str(model.device))


def loss(model: SentenceTransformer, training: TrainingBlock) -> torch.nn.Module:
    """The loss that `embedding_loss` names."""
    scale = 1 / training.embedding_temperature
    if training.embedding_loss == "contrastive":
        return losses.MultipleNegativesRankingLoss(model, scale=scale)
    if training.embedding_loss == "symmetric":
        return losses.MultipleNegativesRankingLoss(
            model,
            scale=scale,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )
    if training.embedding_loss == "triplet":
        return losses.TripletLoss(
            model,
            distance_metric=losses.TripletDistanceMetric.COSINE,
            triplet_margin=training.embedding_margin,
        )
    return losses.CosineSimilarityLoss(model)


class Embedding(SentenceTransformerTrainer):  # type: ignore[misc]
    """Trains the embedder around the model that is given."""

    def __init__(self, *, model: Any, embedder: SentenceTransformer, **kwargs: Any) -> None:
        del model  # it is in there
        super().__init__(model=embedder, **kwargs)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: a card has dates in it, and asks the hub."""
