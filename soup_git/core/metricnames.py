"""Which way is better, for the metric names that everybody reads the same way.

For scores of other tools, which come as a name and two numbers. A name that is not here says
nothing: a guess could call a regression an improvement.
"""

from __future__ import annotations

import re

# As Hugging Face's evaluate, lm-evaluation-harness and the trainers spell them.
_HIGHER = {
    "acc", "accuracy", "auc", "bertscore", "bleu", "chrf", "em", "exact_match", "f1", "map", "mcc",
    "mrr", "ndcg", "precision", "r2", "recall", "roc_auc", "rouge1", "rouge2", "rougel", "rougelsum",
    "win_rate",
}  # fmt: skip
_LOWER = {
    "cer", "error_rate", "loss", "mae", "mse", "perplexity", "ppl", "rmse", "ter", "wer",
}  # fmt: skip
# What says on which rows, or how it was normalised, and nothing about the direction.
_AROUND = re.compile(r"^(?:eval|test|val|validation|train|mean|avg)_|(?:_norm|_mean|_avg|@\d+)$")


def higher_is_better(name: str) -> bool | None:
    """True or False for `eval_loss`, `mmlu/acc_norm`, `recall@10`, …; None for any other name."""
    word = re.split(r"[./ ]", name.lower())[-1]
    while (shorter := _AROUND.sub("", word)) != word:
        word = shorter
    return True if word in _HIGHER else False if word in _LOWER else None
