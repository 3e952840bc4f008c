"""`training.packing`: rows that share a sequence train as rows of their own, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from soup_git.training.methods import packed
from tests.training import tiny_model as tiny
from tests.training.methods import prepare, run

ROWS: dict[str, list[dict[str, Any]]] = {
    "sft": [tiny.conversation(n) for n in range(12)],
    "pretrain": [{"text": f"{n}: {tiny.SENTENCES[n % 5]}"} for n in range(12)],
}
ALL = ("training.batch_size=12", "data.max_length=80", "training.lora.dropout=0.0")
SOME = "training.lora.target_modules=[in_proj, x_proj]"  # PEFT takes not all of Mamba's
TASKS = pytest.mark.parametrize("task", list(ROWS))


class SeenError(Exception):
    """Ends a training before its first step."""


def gradients(workspace: Path, *overrides: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Of one batch that holds every row, with an adapter that does something; and its shape."""
    import torch

    found: dict[str, Any] = {}
    shape: list[int] = []

    def look(one: Any) -> None:
        parameters = {n: p for n, p in one.model.named_parameters() if p.requires_grad}
        torch.manual_seed(1)
        for parameter in parameters.values():
            parameter.data.normal_(0, 0.1)
        (batch,) = one.trainer.get_train_dataloader()
        shape.extend(batch["input_ids"].shape)
        one.trainer.compute_loss(one.trainer.model, batch).backward()
        found.update({n: p.grad.clone() for n, p in parameters.items()})
        raise SeenError

    with pytest.raises(SeenError):
        run(workspace, *ALL, *overrides, watch=look)
    return found, tuple(shape)


@TASKS
def test_a_packed_batch_has_the_gradient_of_its_rows(workspace: Path, task: str) -> None:
    import torch

    prepare(workspace, task, ROWS[task])
    alone, (rows, longest) = gradients(workspace, "training.packing=false")
    together, (sequences, tokens) = gradients(workspace, "training.packing=true")
    assert (rows, sequences) == (12, 1)
    assert tokens < rows * longest
    for name, gradient in alone.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(together[name], gradient, rtol=0, atol=2e-5 * scale)


@pytest.fixture
def recurrent(workspace: Path, base_folder: Path) -> Path:
    """The workspace with a base that carries a state from token to token."""
    from transformers import MambaConfig, MambaForCausalLM

    (workspace / "base").unlink()
    shutil.copytree(base_folder, workspace / "base")
    shape = MambaConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=3
    )
    MambaForCausalLM(shape).save_pretrained(workspace / "base")
    return workspace


@TASKS
def test_a_base_that_mixes_packed_rows_is_refused(recurrent: Path, task: str) -> None:
    prepare(recurrent, task, ROWS[task])
    with pytest.raises(FatalError, match=r"training\.packing: base lets packed rows see") as caught:
        run(recurrent, SOME, "training.packing=true")
    assert "training.packing: false" in caught.value.hint
    assert not (recurrent / "output").exists()
    report = run(recurrent, SOME, "training.packing=false", "training.max_steps=1")
    assert report.steps == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_looking_for_leaks_moves_no_byte(
    workspace: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workspace, "sft", ROWS["sft"])
    options = (
        *("training.packing=true", "training.max_steps=2", "training.lora.dropout=0.3"),
        *(f"training.precision={precision}", "training.gradient_checkpointing=true"),
    )
    looked = run(workspace, *options)
    monkeypatch.setattr(packed, "refuse_leaks", lambda *_: None)
    assert run(workspace, *options).weights_sha256 == looked.weights_sha256


@pytest.mark.parametrize(
    ("training", "why"),
    [
        (
            "{packing: true, trl: {packing_strategy: wrapped}}",
            "training.trl.packing_strategy: is not taken: wrapped cuts rows anywhere",
        ),
        (
            "{trl: {eval_packing: true}}",
            "training.trl.eval_packing: is not taken without training.packing",
        ),
        (
            "{packing: true, packing_cross_doc_attn_mask: true}",
            "unknown key; leave it out: packed rows never see each other",
        ),
    ],
)
def test_what_would_mix_rows_is_refused_at_load(training: str, why: str) -> None:
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\ndata: {{train: x}}\ntraining: {training}\n")
    assert why in str(caught.value)
