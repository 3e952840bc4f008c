"""Adapters that carry a head go through git as others do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from soup_git.training.adapter import WEIGHTS
from tests.conftest import Run
from tests.training import tiny_model as tiny
from tests.training.methods import prepare, run

SHORT = ("training.max_steps=4", "training.lora.dropout=0.0", "training.lora.r=2")
ROWS = {
    "classifier": [{"text": text, "label": n % 2} for n, text in enumerate(tiny.SENTENCES)],
    "prm": [
        {"prompt": "a", "completions": [text, "b"], "labels": [True, False]}
        for text in tiny.SENTENCES
    ],
}


@pytest.mark.parametrize(("task", "kind"), [("classifier", "SEQ_CLS"), ("prm", "TOKEN_CLS")])
def test_a_head_is_tracked_shown_compared_and_merged_as_a_mean(
    task: str, kind: str, workspace: Path, base_folder: Path, repo: Path, git: Run, soup: Run
) -> None:
    prepare(workspace, task, ROWS[task])
    labels = ["training.num_labels=2"] if task == "classifier" else []
    for seed, name in ((1, "one"), (2, "two")):
        run(workspace, *SHORT, *labels, f"training.seed={seed}")
        (workspace / "output").rename(repo / name)
    for name in ("one", "two"):
        soup("add", name)
    git("commit", "-qm", "two heads")
    assert "\nscore " in soup("show", "one").stdout
    diff = soup("diff", "one", "two").stdout
    assert "\nscore.weight " in diff
    assert "compared as numbers, not as an update of the base: score." in diff
    soup("merge", "one", "two", "-o", "both", "--weights", "0.25,0.75")
    one, two, both = (load_file(repo / name / WEIGHTS) for name in ("one", "two", "both"))
    heads = [name for name in one if "score" in name]
    assert heads
    for name in heads:
        np.testing.assert_allclose(both[name], 0.25 * one[name] + 0.75 * two[name], rtol=1e-6)
    saved = json.loads((repo / "both" / "adapter_config.json").read_text())
    assert (saved["task_type"], "score" in saved["modules_to_save"]) == (kind, True)
    # A head is new: the base has nothing that the sum of two could be measured from.
    added = ("merge", "one", "two", "-o", "sum", "--weights", "1,1")
    for more, why in (
        ([], "the weights do not add up to 1"),
        (["--base", base_folder], "has no tensor score."),
    ):
        refused = soup(*added, *more, check=False)
        assert (refused.returncode, why in refused.stderr) == (128, True)
        assert not (repo / "sum").exists()
