"""What ends a training early or saves it on demand, on a real training of a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import ExitCode, FatalError
from soup_git.training import endings
from soup_git.training.config import load_config
from soup_git.training.schema import TrainingBlock
from soup_git.training.train import TrainReport, train

EVERY_STEP = ("training.eval_steps=1", "training.save_steps=100")


def run(workspace: Path, *overrides: str, **options: Any) -> TrainReport:
    config = load_config(workspace / "soup.yaml", overrides)
    output, state = workspace / "output", workspace.parent / "state"
    return train(config, workspace_root=workspace, output=output, state_dir=state, **options)


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"step": n + 1, "eval_loss": loss} for n, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "patience", "threshold", "over"),
    [
        ((3.0, 2.0, 1.0), 1, 0.0, False),
        ((3.0, 2.0, 2.0), 1, 0.0, True),
        ((3.0, 2.0, 2.1, 1.9), 2, 0.0, False),
        ((3.0, 2.0, 2.1, 2.2), 2, 0.0, True),
        ((3.0, 2.95, 2.9), 2, 0.2, True),
        ((3.0, 2.9, 2.7), 2, 0.2, False),
        ((), 1, 0.0, False),
    ],
)
def test_it_is_over_when_nothing_fell_for_patience_measurements(
    losses: tuple[float, ...], patience: int, threshold: float, over: bool
) -> None:
    training = TrainingBlock(early_stop_patience=patience, early_stop_threshold=threshold)
    assert endings.is_over(curve(*losses), training) is over


def test_training_stops_when_the_validation_loss_rises_and_keeps_the_lowest(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[int] = []
    options = (*EVERY_STEP, "training.lr=0.2", "training.early_stop_patience=2")
    report = run(workspace, *options, on_checkpoint=lambda step, *_: saved.append(step))
    rows = (workspace / "plots" / "eval_loss.csv").read_text().splitlines()[1:]
    losses = {int(step): float(loss) for step, loss in (row.split(",") for row in rows)}
    lowest = min(losses, key=lambda step: losses[step])
    assert report.steps == lowest + 2 < 12
    assert report.lowest_eval_step == lowest
    assert json.loads((workspace / "metrics.json").read_text())["lowest_eval_step"] == lowest
    assert {lowest, report.steps} <= set(saved)
    said = capsys.readouterr().err
    assert f"stopped early, at step {report.steps} of 12" in said
    assert f"lowest at step {lowest}" in said
    again = run(workspace, *options)
    assert (again.steps, again.weights_sha256) == (report.steps, report.weights_sha256)


def test_the_lowest_is_told_whatever_counts_as_lower(workspace: Path) -> None:
    """A fall that is too small to go on for is still the lowest so far."""
    report = run(
        workspace, *EVERY_STEP, "training.early_stop_patience=3",
        "training.early_stop_threshold=100.0", "training.warmup_steps=0", "training.lr=1e-3",
    )  # fmt: skip
    assert (report.steps, report.lowest_eval_step) == (4, 4)


def test_a_healthy_training_ends_at_its_last_step(workspace: Path) -> None:
    report = run(
        workspace, *EVERY_STEP, "training.early_stop_patience=2", "training.loss_watchdog=true",
        "training.loss_watchdog_threshold=50.0",
    )  # fmt: skip
    assert report.steps == report.lowest_eval_step == 12


def test_early_stopping_needs_rows_to_measure_on(workspace: Path) -> None:
    with pytest.raises(FatalError, match=r"data\.val_split above 0"):
        run(workspace, "training.early_stop_patience=2", "data.val_split=0.0")
    with pytest.raises(FatalError, match="no row is held out"):
        run(workspace, "training.early_stop_patience=2", "data.val_split=0.001")


def test_the_watchdog_fails_a_training_and_does_not_let_it_go_on(workspace: Path) -> None:
    watched = ("training.loss_watchdog=true", "training.loss_watchdog_threshold=0.1")
    stopped = "stopped by its watchdog: the loss was above 0.1 for 5 steps in a row"
    with pytest.raises(FatalError, match=stopped) as caught:
        run(workspace, *watched)
    assert caught.value.code == ExitCode.CHECK_FAILED
    assert "at step 5" in str(caught.value)
    assert not (workspace / "output" / "adapter_model.safetensors").exists()
    kept = json.loads((workspace.parent / "state" / "failed.json").read_text())
    assert [point["step"] for point in kept["points"]] == [2, 4, 5]
    with pytest.raises(FatalError, match=stopped):
        run(workspace, *watched)
    report = run(workspace, "training.loss_watchdog=true", "training.loss_watchdog_threshold=50.0")
    assert (report.resumed_from, report.steps) == (3, 12)


def test_another_config_is_not_judged_by_what_ended_the_one_before(workspace: Path) -> None:
    """Also where the watchdog was faster than the first checkpoint."""
    watched = (*EVERY_STEP, "training.loss_watchdog=true", "training.loss_watchdog_threshold=5.9")
    with pytest.raises(FatalError, match="stopped by its watchdog"):
        run(workspace, *watched, "training.lr=0.9", "training.loss_watchdog_patience=2")
    assert not list((workspace.parent / "state").glob("checkpoint-*"))
    with pytest.raises(FatalError, match="stopped by its watchdog"):
        run(workspace, *watched, "training.lr=0.9", "training.loss_watchdog_patience=2")
    lower = ("training.lr=1e-9", "training.loss_watchdog_patience=2")
    with pytest.raises(FatalError, match=r"above 5.9 for 2 steps in a row, and 6\.0.* at step 2"):
        run(workspace, *watched, *lower)


def test_a_watched_training_has_the_bytes_of_an_unwatched_one(workspace: Path) -> None:
    assert (
        run(workspace, "training.loss_watchdog=true", "training.loss_watchdog_threshold=50.0")
        .weights_sha256
        == run(workspace, resume=False).weights_sha256
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("training.loss_watchdog_patience=3", "needs loss_watchdog: true"),
        ("training.early_stop_threshold=0.1", "needs early_stop_patience"),
        ("training.early_stop_patience=true", "should be"),
        ("training.loss_watchdog_threshold=0.0", "should be"),
    ],
)
def test_options_that_would_do_nothing_are_refused(workspace: Path, option: str, what: str) -> None:
    with pytest.raises(FatalError, match=what):
        load_config(workspace / "soup.yaml", [option])


def test_a_loss_that_need_not_fall_is_not_watched(workspace: Path) -> None:
    with pytest.raises(FatalError, match="the loss of grpo says nothing about its health"):
        load_config(
            workspace / "soup.yaml",
            ["task=grpo", "training.reward_fn=accuracy", "training.loss_watchdog=true"],
        )


def test_a_file_asks_for_a_checkpoint_and_goes(workspace: Path) -> None:
    from transformers import TrainerCallback

    trigger = workspace / "output" / ".checkpoint_now"
    saved: list[int] = []

    class Touch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == 4:
                trigger.parent.mkdir(exist_ok=True)
                trigger.touch()
            else:
                assert not trigger.exists()

    trigger.parent.mkdir()
    trigger.touch()  # left behind by a run before
    asked = run(
        workspace,
        on_checkpoint=lambda step, *_: saved.append(step),
        watch=lambda run: run.trainer.add_callback(Touch()),
    )
    assert saved == [3, 4, 6, 9, 12]
    assert not trigger.exists()
    assert asked.weights_sha256 == run(workspace, resume=False).weights_sha256
