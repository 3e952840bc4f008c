"""Digests across processes: hash seeds, kills, resumes. Real processes, real SIGKILL."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.training import tiny_model as tiny

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("training_driver.py")


def drive(workspace: Path, hash_seed: int, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(workspace)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def result(done: dict[str, Any]) -> tuple[Any, ...]:
    assert done["status"] == 0, done
    return done["digest"], done["metrics"], done["curve"]


def test_one_digest_whatever_kills_the_run_and_when(workspace: Path) -> None:
    chance = random.Random(1)
    interruptions: list[dict[str, Any]] = [
        {"kill_in_hook": 2},
        {"kill_while_saving": True},
        {"interrupt_in_hook": 1},
        *({"kill_after": chance.uniform(0.5, 1.9)} for _ in range(2)),
    ]
    jobs: list[dict[str, Any]] = [{"state": "whole"}]
    for n, interruption in enumerate(interruptions):
        state = str(n)
        jobs += [{"state": state, **interruption}, {"state": state}]
    jobs += [
        {"state": "whole"},
        {"state": "pissa", "overrides": ["training.lora.init_strategy=pissa"]},
        {
            "state": "killed pissa",
            "overrides": ["training.lora.init_strategy=pissa"],
            "kill_in_hook": 2,
        },
        {"state": "killed pissa", "overrides": ["training.lora.init_strategy=pissa"]},
    ]
    whole, *rest = drive(workspace, 1, *jobs)
    *pairs, finished, pissa, pissa_killed, pissa_resumed = rest
    killed, resumed = pairs[::2], pairs[1::2]

    assert {result(r) for r in map(_hashable, resumed)} == {result(_hashable(whole))}
    assert [k["status"] for k in killed[:3]] == [-9, -9, 130]
    assert killed[2]["error"].startswith("interrupted at step 4 of 12")
    assert [r["resumed"] for r in resumed[:3]] == [6, None, 4]
    # Killed between a checkpoint and its commit, the commit is made up for.
    assert resumed[0]["announced"] == [6, 9, 12]
    assert (finished["resumed"], result(finished)) == (12, result(whole))
    assert pissa_killed["status"] == -9
    assert pissa_resumed["resumed"] == 6
    assert result(pissa_resumed) == result(pissa)

    batch = "batch_size: 4"
    huge = (workspace / "soup.yaml").read_text().replace(batch, "batch_size: 21")
    (workspace / "huge.yaml").write_text(huge)
    many = (workspace / "soup.yaml").read_text().replace("train.jsonl", "many.jsonl")
    (workspace / "many.yaml").write_text(many.replace(batch, "batch_size: auto"))
    rows = [tiny.conversation(n) for n in range(640)]
    tiny.write_rows(workspace / "data" / "many.jsonl", rows)
    other, starved, ended = drive(
        workspace, 2, {"state": "another hash seed"},
        {"state": "starved", "config": "huge.yaml", "probe_within": 24 << 20},
        {"state": "ended", "config": "many.yaml", "search_within": 96 << 20},
    )  # fmt: skip
    assert result(other) == result(whole)
    # A probe that gets no more memory says so, and ends with 1.
    assert starved["status"] == 1
    assert "allocate memory" in starved["out_of_memory"]
    # A search keeps what went well before the memory ended.
    assert ended["status"] == 0
    assert "allocate memory" in ended["out_of_memory"]
    assert 0 < len(ended["trials"]) < len(ended["sizes"])


def _hashable(done: dict[str, Any]) -> dict[str, Any]:
    return {**done, "metrics": json.dumps(done.get("metrics"), sort_keys=True)}


def test_portable_is_one_thread_and_the_common_code_path(workspace: Path) -> None:
    """Set up before torch loads, so in a process of its own; on two simulated CPU kinds."""
    code = (
        "import sys, json; from pathlib import Path; root = Path(sys.argv[1]);"
        "from soup_git.training.config import load_config;"
        "from soup_git.training.train import train;"
        "c = load_config(root / 'soup.yaml', ['training.reproducible=portable',"
        " 'training.max_steps=3', 'data.val_split=0.0']);"
        "r = train(c, workspace_root=root, output=root / 'output', state_dir=root / sys.argv[2]);"
        "print(json.dumps([r.weights_sha256, r.run['threads'], r.run['capability']]))"
    )
    done = []
    for state, isa in (
        ("a", {}),
        ("b", {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ATEN_CPU_CAPABILITY": "avx2"}),
    ):
        process = subprocess.run(
            [sys.executable, "-c", code, str(workspace), state],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, **isa},
        )
        assert process.returncode == 0, process.stderr[-3000:]
        done.append(json.loads(process.stdout))
    assert done[0] == done[1]
    assert done[0][1:] == [1, "DEFAULT"]
