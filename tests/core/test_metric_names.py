"""Which way a metric of another tool is better, told by its name or not at all."""

from __future__ import annotations

import pytest

from soup_git.core.metricnames import higher_is_better


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("accuracy", True), ("mmlu/acc_norm", True), ("eval_rougeL", True), ("recall@10", True),
        ("eval_loss", False), ("validation_perplexity", False), ("asr.wer", False),
        ("judge_score", None), ("retry_rate", None), ("lossless", None), ("", None), ("eval_", None),
    ],
)  # fmt: skip
def test_a_name_says_which_way_is_better_or_nothing(name: str, said: bool | None) -> None:
    assert higher_is_better(name) is said
