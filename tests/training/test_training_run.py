"""One process: what training writes, refuses and reports. Digests: test_determinism.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training import loop
from soup_git.training.config import load_config
from soup_git.training.train import TrainReport, train
from tests.training import tiny_model as tiny


def run(workspace: Path, *overrides: str, **options: Any) -> TrainReport:
    config = load_config(workspace / "soup.yaml", overrides)
    return train(
        config,
        workspace_root=workspace,
        output=workspace / "output",
        state_dir=workspace.parent / "state",
        **options,
    )


def refusal(workspace: Path, *overrides: str) -> str:
    with pytest.raises(FatalError) as caught:
        run(workspace, *overrides)
    assert caught.value.hint
    return str(caught.value)


def own_base(workspace: Path, base_folder: Path) -> Path:
    """A copy of the base that a test may damage."""
    (workspace / "base").unlink()
    shutil.copytree(base_folder, workspace / "base")
    return workspace / "base"


def test_a_run_writes_adapter_metrics_and_curve(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[int, str, float, float]] = []
    report = run(
        workspace,
        on_checkpoint=lambda step, folder, loss, rate: told.append((step, folder.name, loss, rate)),
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "sft · base · lora r4 on 14 modules (8,192 of 0.125 M parameters) · 21 rows (3 held out) · 2 epochs · effective batch 4",
        "rows: messages (detected), chat template: the tokenizer's",
    ]
    assert sorted(f.name for f in (workspace / "output").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    settings = json.loads((workspace / "output" / "adapter_config.json").read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert settings["base_model_name_or_path"] == "base"
    assert str(workspace) not in (workspace / "output" / "adapter_config.json").read_text()

    metrics = json.loads((workspace / "metrics.json").read_text())
    assert metrics == report.metrics
    assert (metrics["rows"], metrics["validation_rows"], metrics["steps"]) == (21, 3, 12)
    assert (workspace / "plots" / "loss.csv").read_text().count("\n") == 7
    evals = (workspace / "plots" / "eval_loss.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in evals] == ["step", "6", "12"]

    assert [(step, name) for step, name, _, _ in told] == [
        (n, f"checkpoint-{n}") for n in (3, 6, 9, 12)
    ]
    assert all(loss > 0 and rate > 0 for _, _, loss, rate in told)
    kept = workspace.parent / "state"
    assert sorted(f.name for f in kept.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-9"]
    last = kept / "checkpoint-12" / "adapter_model.safetensors"
    assert last.read_bytes() == (workspace / "output" / last.name).read_bytes()
    assert report.run["threads"] == 1
    assert report.run["dtype"] == "float32"


def test_learning_reaches_the_loss(workspace: Path) -> None:
    report = run(workspace, "training.epochs=10", "training.lr=0.02", "data.val_split=0.0")
    first = float((workspace / "plots" / "loss.csv").read_text().splitlines()[1].split(",")[1])
    assert report.final_loss < 0.95 * first


@pytest.mark.parametrize(
    ("row", "overrides"),
    [
        ({"instruction": "Say it", "output": "It"}, []),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b c"}]}, []),
        ({"prompt": "The quick", "completion": " brown fox"}, []),
        ({"text": "The quick brown fox jumps"}, ["training.packing=true"]),
    ],
)
def test_every_format_trains(workspace: Path, row: dict[str, Any], overrides: list[str]) -> None:
    path = workspace / "data" / "train.jsonl"
    tiny.write_rows(
        path,
        [{k: v if isinstance(v, list) else f"{v} {n}" for k, v in row.items()} for n in range(8)],
    )
    report = run(workspace, "training.max_steps=2", "data.val_split=0.0", *overrides)
    assert report.steps == 2
    assert report.loss_tokens


def test_packed_rows_do_not_see_each_other(workspace: Path) -> None:
    """The loss of packed rows is that of the rows one by one."""
    options = (
        "training.max_steps=2",
        "training.batch_size=24",
        "training.lora.dropout=0.0",
        "data.max_length=200",
    )
    alone = run(workspace, *options)
    shutil.rmtree(workspace.parent / "state")
    packed = run(workspace, *options, "training.packing=true")
    assert packed.train_loss == pytest.approx(alone.train_loss, rel=2e-6)


def test_a_validation_file_is_measured_and_not_trained(workspace: Path) -> None:
    other = [tiny.conversation(n) for n in range(100, 105)]
    tiny.write_rows(workspace / "data" / "held.jsonl", other)
    text = (workspace / "soup.yaml").read_text()
    (workspace / "soup.yaml").write_text(
        text.replace("val_split: 0.2", "validation: data/held.jsonl")
    )
    report = run(workspace, "training.max_steps=2")
    assert (report.rows, report.validation_rows) == (24, 5)
    assert report.eval_loss is not None
    (workspace / "data" / "held.jsonl").unlink()
    assert "data/held.jsonl does not exist" in refusal(workspace)


def test_accumulated_steps_are_those_of_one_large_batch(workspace: Path) -> None:
    options = ("training.max_steps=3", "training.lora.dropout=0.0", "training.logging_steps=1")
    whole = run(workspace, *options, "training.batch_size=8")
    curve = (workspace / "plots" / "loss.csv").read_text()
    shutil.rmtree(workspace.parent / "state")
    parts = run(
        workspace, *options, "training.batch_size=2", "training.gradient_accumulation_steps=4"
    )
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-4)
    assert (workspace / "plots" / "loss.csv").read_text().count("\n") == curve.count("\n")


def test_cut_and_dropped_rows_are_reported(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long_answer = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b c " * 60},
        ]
    }
    long_prompt = {
        "messages": [
            {"role": "user", "content": "b c " * 60},
            {"role": "assistant", "content": "a"},
        ]
    }
    rows = [tiny.conversation(n) for n in range(6)] + [long_answer, long_prompt]
    tiny.write_rows(workspace / "data" / "train.jsonl", rows)
    report = run(workspace, "training.max_steps=2", "data.val_split=0.0")
    assert (report.rows, report.truncated_rows, report.dropped_rows) == (7, 2, 1)
    said = capsys.readouterr().err
    assert "2 rows cut at 96 tokens (data.max_length)" in said
    assert "1 rows dropped" in said


def test_nothing_left_to_learn_is_refused_before_the_model_loads(workspace: Path) -> None:
    said = refusal(workspace, "data.max_length=8")
    assert "-S: data.max_length: nothing to learn is left of any row after 8 tokens" in said


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("base=missing/model/folder", "base: missing/model/folder is not a folder"),
        ("base=data", "base: data has no config.json"),
        ("data.train=data/none.jsonl", "data/none.jsonl does not exist"),
        ("training.lora.target_modules=[qq_proj]", "qq_proj matches no module of base"),
        ("training.lora.rank_pattern={qq: 2}", "rank_pattern.qq: matches no module of base"),
        ("training.lora.modules_to_save=[score]", "score matches no module of base"),
        ("training.lora.target_modules=[lm_head]", "lm_head"),
        ("training.lora.bias=all", "base has no such biases to train"),
        ("training.scheduler=warmup_stable_decay", "training.scheduler: transformers refuses"),
        ("training.device=cuda", "torch sees no GPU here"),
        ("training.precision=fp16", "fp16 does not train on a CPU"),
        ("training.trl={activation_offloading: true}", "needs a GPU"),
        ("training.trl={model_init_kwargs: {nonsense: 1}}", "cannot be loaded"),
        ("training.lr=1e30", "the loss is"),
        ("training.max_steps=1", "training changed nothing in it"),
        ("training.reproducible=portable", "before torch is loaded"),
        ("training.trl={torch_empty_cache_steps: 0}", "TRL refuses this"),
    ],
)
def test_what_cannot_train_is_refused_with_its_key(
    workspace: Path, override: str, what: str
) -> None:
    said = refusal(workspace, override)
    assert what in said
    assert not (workspace / "output").exists()


def test_an_empty_dataset_is_refused(workspace: Path) -> None:
    (workspace / "data" / "train.jsonl").write_text("\n\n")
    assert "data/train.jsonl has no rows" in refusal(workspace)


def test_plain_text_has_no_assistant(workspace: Path) -> None:
    tiny.write_rows(workspace / "data" / "train.jsonl", [{"text": "a b"}])
    assert "plain text has no assistant" in refusal(workspace, "training.assistant_only_loss=true")


def test_bases_that_are_pickled_incomplete_or_want_to_run_code(
    workspace: Path, base_folder: Path
) -> None:
    base = own_base(workspace, base_folder)
    weights = base / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    assert "base/model.safetensors is cut off: its header tells of" in refusal(workspace)
    weights.rename(base / "pytorch_model.bin")
    assert "pickled weights (pytorch_model.bin)" in refusal(workspace)
    (base / "pytorch_model.bin").unlink()
    assert "the weights are missing" in refusal(workspace)
    weights.write_bytes(data)
    index = base / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    assert "incomplete: model-2.safetensors is missing" in refusal(workspace)
    index.unlink()
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    assert "wants to run Python code of its own (auto_map in config.json)" in refusal(workspace)
    (base / "config.json").write_text("{")
    assert "base/config.json is not JSON" in refusal(workspace)
    (base / "config.json").rename(base / "adapter_config.json")
    assert "is an adapter, not a base model" in refusal(workspace)


def test_a_base_without_a_tokenizer(workspace: Path, base_folder: Path) -> None:
    base = own_base(workspace, base_folder)
    (base / "tokenizer.json").unlink()
    (base / "tokenizer_config.json").unlink()
    assert "the tokenizer of base base cannot be loaded" in refusal(workspace)


def test_a_resume_with_other_values_is_refused_and_says_which(workspace: Path) -> None:
    run(workspace, "training.max_steps=4")
    said = refusal(workspace, "training.max_steps=4", "training.lr=2e-3", "training.lora.r=8")
    assert "training.lora.r: 4 -> 8" in said
    assert "training.lr: 0.001 -> 0.002" in said
    again = run(workspace, "training.max_steps=4", "training.save_steps=2")
    assert again.resumed_from == 4
    anew = run(workspace, "training.max_steps=4", "training.lr=2e-3", resume=False)
    assert anew.resumed_from is None
    tiny.write_rows(workspace / "data" / "train.jsonl", [tiny.conversation(n) for n in range(23)])
    assert "training rows" in refusal(workspace, "training.max_steps=4", "training.lr=2e-3")


def test_evaluating_leaves_the_generators_alone_and_without_that_it_would_not(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    def digest(steps: int) -> str:
        shutil.rmtree(workspace.parent / "state", ignore_errors=True)
        return run(workspace, f"training.eval_steps={steps}").weights_sha256

    assert digest(1) == digest(12)
    monkeypatch.setattr(loop, "untouched_generators", contextlib.nullcontext)
    assert digest(1) != digest(12)


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    original = Trainer._save_rng_state

    def full(self: Any, folder: str) -> None:
        if folder.endswith("-6"):
            raise OSError(28, "No space left on device")
        original(self, folder)

    monkeypatch.setattr(Trainer, "_save_rng_state", full)
    said = refusal(workspace)
    assert "the checkpoint of step 6 could not be written" in said
    assert "the one of step 3 is complete" in said
    state = workspace.parent / "state"
    assert [f.name for f in state.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (state / "saving").exists()
    monkeypatch.undo()
    assert run(workspace).resumed_from == 3


def test_an_error_of_the_checkpoint_hook_is_its_own(workspace: Path) -> None:
    def full(*_: object) -> None:
        raise FatalError("git said no", hint="git fsck")

    config = load_config(workspace / "soup.yaml")
    with pytest.raises(FatalError, match="git said no"):
        train(
            config,
            workspace_root=workspace,
            output=workspace / "output",
            state_dir=workspace.parent / "state",
            on_checkpoint=full,
        )
    assert [f.name for f in (workspace.parent / "state").glob("checkpoint-*")] == ["checkpoint-3"]
