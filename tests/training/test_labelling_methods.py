"""Heads that label and score: what is learnt, and that the adapter carries its head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from tests.training import tiny_model as tiny
from tests.training.methods import points, prepare, run

OTTERS, BAKERS = tiny.SENTENCES[1], tiny.SENTENCES[2]
STEPS = ("training.max_steps=16", "training.lora.dropout=0.0")


class Head:
    """A base with a fresh random head, and the trained adapter on it."""

    def __init__(self, workspace: Path, labels: int) -> None:
        from peft import PeftModel
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(workspace / "base")
        base = AutoModelForSequenceClassification.from_pretrained(
            workspace / "base", num_labels=labels
        )
        self.model = PeftModel.from_pretrained(base, workspace / "output").eval()

    def __call__(self, text: str) -> list[float]:
        import torch

        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits: list[float] = self.model(input_ids=ids).logits[0].tolist()
        return logits


def test_a_reward_model_ranks_and_carries_its_head(workspace: Path) -> None:
    rows = [{"prompt": f"{n}: ", "chosen": OTTERS, "rejected": BAKERS} for n in range(8)]
    too_long = {"prompt": "a", "chosen": "b " * 200, "rejected": "c"}
    prepare(workspace, "reward_model", [*rows, too_long])
    report = run(workspace, *STEPS)
    assert (report.rows, report.dropped_rows) == (8, 1)
    score = Head(workspace, 1)
    end = "<|im_end|>"
    for n in (3, 77):
        assert score(f"{n}: {OTTERS}{end}")[0] > score(f"{n}: {BAKERS}{end}")[0] + 1
    saved = (workspace / "output" / "adapter_config.json").read_text()
    assert '"task_type": "SEQ_CLS"' in saved
    assert '"score"' in saved
    assert run(workspace, *STEPS).weights_sha256 == report.weights_sha256


def test_a_classifier_learns_a_rule(workspace: Path) -> None:
    names = ["bakers", "otters"]
    rows = [{"text": f"{n} {(BAKERS, OTTERS)[n % 2]}", "label": names[n % 2]} for n in range(12)]
    prepare(workspace, "classifier", rows)
    run(workspace, *STEPS, "training.label_names=[bakers, otters]")
    label = Head(workspace, 2)
    for n in (41, 42):
        bakers, otters = label(f"{n} {(BAKERS, OTTERS)[n % 2]}")
        assert (otters > bakers) == bool(n % 2)


@pytest.mark.parametrize("task", ["classifier", "prm"])
def test_accumulated_losses_are_those_of_one_large_batch(workspace: Path, task: str) -> None:
    if task == "prm":
        rows = [{"prompt": OTTERS, "completions": ["1", BAKERS], "labels": [n % 2 == 0, True]}
                for n in range(12)]  # fmt: skip
    else:
        rows = [{"text": f"{n} {OTTERS}", "label": "ab"[n % 2]} for n in range(12)]
    prepare(workspace, task, rows)
    names = ["training.label_names=[a, b]"] if task == "classifier" else []
    even = (*names, "training.max_steps=1", "training.warmup_steps=0", "training.lora.dropout=0.0")
    whole = run(workspace, *even, "training.batch_size=12")
    norm = points(workspace)[0]["grad_norm"]
    parts = run(workspace, *even, "training.batch_size=4", "training.gradient_accumulation_steps=3")
    assert parts.final_loss == pytest.approx(whole.final_loss, rel=1e-4)
    assert points(workspace)[0]["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_a_classifier_of_several_labels_and_one_of_numbers(workspace: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": BAKERS, "label": ["a"]},
        {"text": OTTERS, "label": ["b", "a"]},
        {"text": "nothing", "label": [0, 0]},
        {"text": "b only", "label": [0, 1]},
    ]
    prepare(workspace, "classifier", rows)
    run(workspace, *STEPS, "training.label_names=[a, b]", "training.classifier_kind=multi_label")
    label = Head(workspace, 2)
    assert [tuple(x > 0 for x in label(row["text"])) for row in rows] == [
        (True, False),
        (True, True),
        (False, False),
        (False, True),
    ]
    degrees = [{"text": BAKERS, "label": 2.5}, {"text": OTTERS, "label": -1}]
    prepare(workspace, "classifier", degrees)
    run(workspace, *STEPS, "training.num_labels=1", "training.classifier_kind=regression")
    degree = Head(workspace, 1)
    assert degree(BAKERS)[0] > degree(OTTERS)[0] + 1


def test_a_reranker_prefers_the_document_that_answers(workspace: Path) -> None:
    asked = ("Who decided?", "Whose bridge?")
    rows = [{"query": q, "positive": OTTERS, "negatives": [BAKERS, "Rain"]} for q in asked]
    prepare(workspace, "reranker", rows)
    report = run(workspace, *STEPS)
    score = Head(workspace, 1)
    for question in (*asked, "What is blue?"):
        known, other = (score(f"{question}<|im_end|>{text}")[0] for text in (OTTERS, BAKERS))
        assert known > other + 1
    pairs = [
        {"query": row["query"], "document": text, "label": label}
        for row in rows
        for text, label in ((row["positive"], 1), *((t, 0) for t in row["negatives"]))
    ]
    prepare(workspace, "reranker", pairs)
    again = run(workspace, *STEPS, "training.max_steps=2")
    assert (report.tokens, report.rows) == (again.tokens, 2)


def test_a_cross_encoder_labels_a_pair(workspace: Path) -> None:
    names = ["otters", "bakers"]
    rows = [
        {"text": f"{n} ", "text_pair": text, "label": name}
        for n in range(3)
        for text, name in zip((OTTERS, BAKERS), names, strict=True)
    ]
    prepare(workspace, "cross_encoder", rows)
    run(workspace, *STEPS, "training.label_names=[otters, bakers]")
    label = Head(workspace, 2)
    for row in rows:
        otters, bakers = label(f"{row['text']}<|im_end|>{row['text_pair']}")
        assert names[bakers > otters] == row["label"]


@pytest.mark.parametrize(
    ("task", "label", "options", "what"),
    [
        ("classifier", "spam", ["num_labels=2"], 'label "spam" needs its place in'),
        ("classifier", "spm", ["label_names=[ham, spam]"], "label_names; did you mean spam?"),
        ("classifier", 2, ["num_labels=2"], "a name or a number from 0 to 1, it is 2"),
        ("classifier", 0.5, ["num_labels=2"], "a name or a number from 0 to 1, it is 0.5"),
        ("classifier", 1, ["num_labels=2", "classifier_kind=multi_label"], "should be a list"),
        ("classifier", [1], ["num_labels=2", "classifier_kind=multi_label"], "2 times 0 or 1"),
        ("classifier", "a", ["num_labels=1", "classifier_kind=regression"], "be a number, it is"),
        ("cross_encoder", 1.5, [], "label should be from 0 to 1"),
    ],
)
def test_a_label_without_a_place_is_named_before_torch_is_needed(
    workspace: Path, task: str, label: Any, options: list[str], what: str
) -> None:
    text = {"text": "a", "text_pair": "b"} if task == "cross_encoder" else {"text": "a"}
    prepare(workspace, task, [{**text, "label": label}] * 2)
    with pytest.raises(FatalError) as caught:
        run(workspace, *(f"training.{option}" for option in options))
    assert "data/train.jsonl: 2 rows do not fit, of 2\ndata/train.jsonl:1: " in str(caught.value)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("task", "options", "what"),
    [
        ("classifier", "", "task: classifier needs label_names, or num_labels of at least 2"),
        ("classifier", "num_labels: 1", "num_labels: classifier needs label_names, or num_labels"),
        ("classifier", "num_labels: true", "num_labels: should be a valid integer"),
        ("classifier", "num_labels: 3, label_names: [a, b]", "is 3, but label_names has 2"),
        ("classifier", "label_names: [a, a]", "label_names: a is there twice"),
        ("cross_encoder", "classifier_kind: multi_label, num_labels: 2", "has one label"),
        ("reranker", "num_labels: 2", "task reranker has no such option"),
        ("sft", "classifier_kind: regression", "(task classifier, cross_encoder has)"),
        ("reward_model", "trl: {eos_token: x}", "set it in the base's tokenizer"),
    ],
)
def test_labels_that_do_not_agree_are_refused(task: str, options: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\ntask: {task}\ndata: {{train: x}}\ntraining: {{{options}}}\n")
    assert what in str(caught.value)
