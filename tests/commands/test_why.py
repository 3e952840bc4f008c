"""`git soup why` on real run refs: finished, stopped, and without any run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from soup_git.storage.runs import RunRecorder
from soup_git.storage.workspace import Workspace
from tests.conftest import MakeAdapter, Run

CONFIG = b"""\
base: tiny/base
data:
  train: train.jsonl
training:
  lr: 0.001
  epochs: 4
output: ./out
"""
METRICS = {"steps": 80, "rows": 200, "validation_rows": 20, "truncated_rows": 0, "dropped_rows": 0}
Refused = Callable[..., None]


def told(soup: Run, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = soup("why", "--json", *arguments, check=False)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def csv(columns: str, rows: list[tuple[float, ...]]) -> bytes:
    return "\n".join([columns, *(",".join(map(str, row)) for row in rows), ""]).encode()


def losses(rising_from: float = 2.0) -> list[tuple[float, ...]]:
    rows = []
    for i in range(1, 41):
        done = i / 40
        loss = 0.8 + 2 * (1 + 20 * done) ** -0.6 + max(0.0, done - rising_from) * 9
        rows.append((2 * i, round(loss, 4), round(1e-3 * (1 - done) + 1e-6, 8), 0.7))
    return rows


@pytest.fixture
def recorded(repo: Path, make_adapter: MakeAdapter) -> RunRecorder:
    """A run with four checkpoints, as the stage records one; soup.yaml lies in the work tree."""
    (repo / "soup.yaml").write_bytes(CONFIG)
    state = Workspace.open(repo).training_state("out")
    state.mkdir(parents=True)
    recorder = RunRecorder(Workspace.open(repo), "out", state, {"soup.yaml": CONFIG})
    for step in (20, 40, 60, 80):
        row = losses()[step // 2 - 1]
        recorder.record(step, make_adapter(f"made/{step}", seed=step), row[1], row[2])
    return recorder


def finish(recorder: RunRecorder, points: list[tuple[float, ...]]) -> None:
    evals = [(20, 1.9), (40, 1.5), (60, 1.45), (80, 1.41)]
    recorder.finish(
        {
            "metrics.json": json.dumps(METRICS).encode(),
            "plots/loss.csv": csv("step,loss,learning_rate,grad_norm", points),
            "plots/eval_loss.csv": csv("step,eval_loss", evals),
        },
        None,
    )


def test_a_healthy_run_a_sick_checkpoint_and_an_unfinished_one(
    recorded: RunRecorder, soup: Run, make_adapter: MakeAdapter, refused: Refused
) -> None:
    # The state folder is there: it was interrupted, and only its commits tell.
    stopped = told(soup)
    assert (stopped["run"], stopped["is_finished"], stopped["points"]) == (recorded.run, False, 4)
    assert stopped["not_judged"][0]["question"] == "the loss curve"

    finish(recorded, losses())
    name = f"run/{recorded.run}"
    found = told(soup, name)
    assert found["schema"] == "soup.why/1"
    assert (found["source"], found["steps"], found["points"]) == (name, 80, 40)
    assert found["looks_healthy"] and found["findings"] == found["not_judged"] == []
    assert found["checkpoints"] == [20, 40, 60, 80]
    assert "looks healthy" in soup("why").stdout
    # The adapter that a run made leads to the run, wherever it lies.
    assert told(soup, f"soup/runs/{recorded.run}:out")["run"] == recorded.run
    assert told(soup, f"{name}@40")["checkpoints"] == [20, 40]

    refused(soup("why", "run/none", check=False), 128, "names no adapter")
    refused(soup("why", f"{name}@3", check=False), 128, "no checkpoint at or before step 3")


def test_a_run_that_diverged_exits_with_1(recorded: RunRecorder, soup: Run, repo: Path) -> None:
    points = losses(rising_from=0.5)
    rising = [*points[:-1], (80, losses()[-1][1], *points[-1][2:])]
    finish(recorded, rising)
    found = told(soup, code=1)
    assert found["findings"][0]["name"] == "diverged"
    assert {"key": "training.lr", "value": "0.0003"} in found["findings"][0]["change"]
    shown = soup("why", check=False)
    assert shown.returncode == 1
    assert "problem: diverged" in shown.stdout
    assert "training.lr: 0.0003" in shown.stdout


def test_a_loss_that_was_no_number(recorded: RunRecorder, soup: Run, repo: Path) -> None:
    state = Workspace.open(repo).training_state("out")
    curve = {
        "points": [{"step": 2, "loss": 3.0, "learning_rate": 1e-3, "grad_norm": math.inf}],
        "evals": [],
        "failed_at": 93,
    }
    (state / "failed.json").write_text(json.dumps(curve))
    found = told(soup, code=1)
    assert found["findings"][0]["evidence"].startswith("the loss is not a number at step 93")
    assert found["steps"] == 93


def test_without_a_run_the_files_of_the_work_tree_tell(
    repo: Path, soup: Run, git: Run, make_adapter: MakeAdapter, refused: Refused
) -> None:
    refused(soup("why", check=False), 128, "no record of a training")
    zero = {"base_model.model.model.layers.0.x.lora_B.weight": np.zeros((4, 2))}
    make_adapter("out", layers=0, extra_tensors=zero, rank=2)
    soup("add", "out")
    git("commit", "-qm", "An adapter from elsewhere")
    for spec in ([], ["out"], ["HEAD"]):
        found = told(soup, *spec, code=1)
        assert found["findings"][0]["name"] == "dead adapter"
    (repo / "plots").mkdir()
    (repo / "plots" / "loss.csv").write_text("step,loss\n1,nonsense\n2,\x1b[31m\n3,2.5\n")
    assert told(soup, code=1)["points"] == 1
