"""Texts to vectors: which texts become neighbours, and that PEFT loads what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import EXTRA_OF, FatalError
from soup_git.training import upstream
from soup_git.training.config import load_config
from soup_git.training.tasks import TASKS
from tests.training import tiny_model as tiny
from tests.training.methods import curve, prepare, run

needs_sentence_transformers = pytest.mark.skipif(
    not upstream.installed("sentence_transformers"),
    reason="sentence-transformers is not installed: pip install 'git-soup[embedding]'",
)
ASKED = ["Who runs?", "What is blue?", "Who counts?", "What stands there?", "What waits?"]
STEPS = ("training.max_steps=12", "training.lora.dropout=0.0")


def rows(*, negatives: bool) -> list[dict[str, str]]:
    found = []
    for n in range(10):
        row = {"anchor": f"{ASKED[n % 5]} {n}", "positive": tiny.SENTENCES[n % 5]}
        found.append(row | ({"negative": tiny.SENTENCES[(n + 2) % 5]} if negatives else {}))
    return found


class Vectors:
    """The base with the trained adapter, as PEFT and transformers alone load it."""

    def __init__(self, workspace: Path, pooling: str = "mean") -> None:
        from peft import PeftModel
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(workspace / "base")
        base = AutoModel.from_pretrained(workspace / "base")
        self.model = PeftModel.from_pretrained(base, workspace / "output").eval()
        self.pooling = pooling

    def __call__(self, text: str) -> Any:
        import torch

        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = self.model(input_ids=ids).last_hidden_state[0]
        vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[self.pooling]
        return torch.nn.functional.normalize(vector, dim=0)

    def wrong(self, *, negatives: bool) -> int:
        """How many of five questions, asked anew, are nearer to their negative (else to any other
        answer) than to what answers them."""
        known = [self(text) for text in tiny.SENTENCES]
        found = 0
        for n, text in enumerate(ASKED):
            asked = self(f"{text} 77")
            others = {(n + 2) % 5} if negatives else set(range(5)) - {n}
            found += any(asked @ known[i] >= asked @ known[n] for i in others)
        return found


@needs_sentence_transformers
@pytest.mark.parametrize(
    ("loss", "pooling"),
    [("contrastive", "mean"), ("symmetric", "mean"), ("triplet", "mean"), ("cosine", "mean")],
)
def test_what_belongs_together_becomes_neighbours(workspace: Path, loss: str, pooling: str) -> None:
    negatives = loss in {"triplet", "cosine"}
    prepare(workspace, "embedding", rows(negatives=negatives))
    options = f"training.embedding_loss={loss}", f"training.embedding_pooling={pooling}"
    report = run(workspace, *STEPS, *options, "training.batch_size=5")
    assert Vectors(workspace, pooling).wrong(negatives=negatives) <= 1
    assert report.run["sentence_transformers"]
    saved = (workspace / "output" / "adapter_config.json").read_text()
    assert '"task_type": "FEATURE_EXTRACTION"' in saved


@needs_sentence_transformers
def test_the_losses_options_act_and_a_run_is_its_own_equal(workspace: Path) -> None:
    prepare(workspace, "embedding", rows(negatives=True))
    short = "training.max_steps=1", "training.lora.r=2"
    first = run(workspace, *short, "training.gradient_checkpointing=true")
    assert run(workspace, *short).weights_sha256 == first.weights_sha256
    at_first = [curve(workspace)[0]]
    for option in (
        "training.embedding_temperature=1.0",
        "training.embedding_pooling=cls",
        "training.embedding_pooling=last",
        "training.trl.batch_sampler=no_duplicates",
    ):
        run(workspace, *short, option)
        at_first.append(curve(workspace)[0])
    assert len(set(at_first)) == 5
    triplet = "training.embedding_loss=triplet"
    losses = []
    for margin in (0.5, 1.5):
        run(workspace, *short, triplet, f"training.embedding_margin={margin}")
        losses += curve(workspace)
    assert losses[1] == pytest.approx(losses[0] + 1, abs=1e-4)


@needs_sentence_transformers
def test_rows_without_what_the_loss_compares_with_are_named(workspace: Path) -> None:
    mixed = [*rows(negatives=True)[:9], rows(negatives=False)[9]]
    prepare(workspace, "embedding", mixed)
    with pytest.raises(FatalError, match=r":10: of the rows some have a negative, and some"):
        run(workspace)
    with pytest.raises(FatalError, match=r":10: embedding_loss: triplet needs a negative"):
        run(workspace, "training.embedding_loss=triplet")


@needs_sentence_transformers
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("embedding_margin: 1.0", "embedding_margin: is for embedding_loss: triplet"),
        ("embedding_loss: cosine, embedding_temperature: 1.0", "contrastive or symmetric"),
        ("batch_size: 1", "embedding_loss: contrastive compares with the other rows"),
        ("trl: {prompts: x}", "rows are tokens already"),
        ("trl: {warmup_ratio: 0.1}", "training.warmup_ratio"),
    ],
)
def test_options_of_embedding_that_do_not_go_together(options: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\ntask: embedding\ndata: {{train: x}}\ntraining: {{{options}}}\n")
    assert what in str(caught.value)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_whose_library_is_missing_names_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = "embedding" if name == "embedding" else "train"
    assert {EXTRA_OF[package][0] for package in TASKS[name].packages} == {"train", extra}
    monkeypatch.setattr(upstream, "installed", lambda _package: False)
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\ntask: {name}\ndata: {{train: x}}\n")
    needed = [package for package in TASKS[name].packages if EXTRA_OF[package][0] == extra]
    assert f"{name} needs {needed[0]}: pip install 'git-soup[{extra}]'" in str(caught.value)
