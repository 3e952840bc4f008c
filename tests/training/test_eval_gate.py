"""`training.eval_gate`: it judges while the adapter trains, and never moves a byte of it."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from soup_git.commands.traingate import gate_of
from soup_git.errors import FatalError
from soup_git.storage.workspace import Workspace
from soup_git.training.config import load_config
from tests.training import tiny_model as tiny

pytestmark = [
    # Found, not imported: the hub client reads the tests' environment when it is.
    pytest.mark.skipif(find_spec("trl") is None, reason="the train extra is not installed"),
    pytest.mark.filterwarnings(
        "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
    ),
]

SUITE = """\
decoding: {max_new_tokens: 4, temperature: 1.0}
tasks:
  - {name: fit, prompts: rows.jsonl, scoring: loss, gate: {loss: {max_drop: 0.0}}}
  - {name: words, prompts: rows.jsonl, scoring: overlap}
"""
GATE = "  eval_gate: {suite: suite.yaml, baseline: base, on_regression: warn}\n"


@pytest.fixture
def gated(repo: Path, base_folder: Path) -> Path:
    """A repository with the tiny base, rows to train on, and a suite on other rows."""
    (repo / "base").symlink_to(base_folder)
    tiny.write_rows(repo / "data" / "train.jsonl", [tiny.conversation(n) for n in range(24)])
    rows: list[dict[str, object]] = [
        {"prompt": f"{n}: {text}", "expected": tiny.SENTENCES[(n * 3 + 1) % 5]}
        for n, text in enumerate(tiny.SENTENCES)
    ]
    tiny.write_rows(repo / "rows.jsonl", rows)
    (repo / "suite.yaml").write_text(SUITE)
    return repo


def train(root: Path, gate: str, state: str = "state") -> str:
    """sha256 of the trained weights."""
    from soup_git.training.train import train as run

    text = tiny.CONFIG.replace("  lora:\n", gate + "  lora:\n")
    (root / "soup.yaml").write_text(text)
    config = load_config(root / "soup.yaml")
    run(
        config,
        workspace_root=root,
        output=root / "output",
        state_dir=root / state,
        gate=gate_of(Workspace.open(), config),
    )
    weights = root / "output" / "adapter_model.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def test_the_bytes_are_the_same_with_and_without(
    gated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(gated, "", "first")
    capsys.readouterr()
    assert train(gated, GATE, "second") == plain
    said = capsys.readouterr().err
    assert "gate after epoch 1: passed: fit.loss" in said
    assert "gate after epoch 2: passed: fit.loss" in said


def test_a_regression_stops_the_training_and_stays_in_its_way(gated: Path) -> None:
    (gated / "suite.yaml").write_text(SUITE.replace("max_drop: 0.0", "max: 0.1"))
    stop = GATE.replace("warn", "stop").replace("suite.yaml,", "suite.yaml, every_n_epochs: 1,")
    with pytest.raises(
        FatalError, match=r"stopped by its gate: after epoch 1, fit.loss: misses"
    ) as e:
        train(gated, stop)
    assert e.value.code == 1
    assert not (gated / "output").exists()
    assert list((gated / "state").glob("checkpoint-*"))
    with pytest.raises(FatalError, match="stopped by its gate: after epoch 1"):
        train(gated, stop)


@pytest.mark.parametrize(
    ("gate", "suite", "why"),
    [
        (GATE, None, "suite.yaml does not exist"),
        (GATE.replace("baseline: base, ", ""), SUITE, "allows a drop, but from what"),
        (
            GATE.replace("baseline: base, ", ""),
            SUITE.replace(", gate: {loss: {max_drop: 0.0}}", ""),
            "nothing can fail",
        ),
        (GATE, SUITE.replace("scoring: overlap", "scoring: 'python:a:b'"), "runs Python code"),
        (GATE.replace("baseline: base", "baseline: nowhere"), SUITE, "names no adapter"),
    ],
)
def test_a_gate_that_cannot_judge_is_refused_before_training(
    gated: Path, gate: str, suite: str | None, why: str
) -> None:
    if suite is None:
        (gated / "suite.yaml").unlink()
    else:
        (gated / "suite.yaml").write_text(suite)
    with pytest.raises(FatalError, match=why):
        train(gated, gate)
    assert not (gated / "state").exists() or not list((gated / "state").glob("checkpoint-*"))
