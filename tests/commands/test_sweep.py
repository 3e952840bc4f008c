"""Sweeps through real DVC: its queue, its workers, its experiments; the training is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from soup_git.storage.insideexperiment import home_of
from soup_git.storage.workspace import Workspace
from tests.conftest import Run, runner
from tests.pinned import Refused, refused

__all__ = ["refused"]

CONFIG = """\
base: org/base
data:
  train: data/train.jsonl
training:
  lr: 1e-4  # peak
  lora:
    r: 8
output: ./output
"""
# What PEFT would write, its size and its numbers from the config; rank 32 is too much for it.
LEARN = """\
import json
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import save_file

training = yaml.safe_load(Path("soup.yaml").read_text())["training"]
rank, lr = training["lora"]["r"], float(training["lr"])
assert Path("data/train.jsonl").is_file()
if rank == 32:
    raise SystemExit("out of memory")
random = np.random.default_rng(7)
output = Path("output")
output.mkdir(exist_ok=True)
module = "base_model.model.model.layers.0.self_attn.q_proj"
save_file(
    {
        f"{module}.lora_A.weight": random.standard_normal((rank, 16), np.float32),
        f"{module}.lora_B.weight": np.float32(lr) * random.standard_normal((16, rank), np.float32),
    },
    output / "adapter_model.safetensors",
)
config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
config["base_model_name_or_path"] = "org/base"
(output / "adapter_config.json").write_text(json.dumps(config))
Path("metrics.json").write_text(json.dumps({"loss": 1 / rank, "rows": 1}))
"""
PIPELINE = """\
stages:
  train:
    cmd: python learn.py
    deps: [soup.yaml, learn.py, data/train.jsonl]
    outs:
      - output/adapter_model.safetensors
      - output/adapter_config.json: {cache: false}
    metrics:
      - metrics.json: {cache: false}
  lock:
    cmd: python -m soup_git.stages.lock
    deps: [soup.yaml, output/adapter_model.safetensors]
"""


@pytest.fixture(scope="module")
def unswept(repo_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a pipeline, its data in DVC's cache."""
    root = tmp_path_factory.mktemp("unswept") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git = runner("git", cwd=root)
    for name, text in {"soup.yaml": CONFIG, "learn.py": LEARN, "dvc.yaml": PIPELINE}.items():
        (root / name).write_text(text)
    (root / "data").mkdir()
    rows = root / "data" / "train.jsonl"
    rows.write_text('{"text": "hello"}\n')
    workspace = Workspace.open(root)
    md5, _ = workspace.dvc.store_file(rows)
    pointer = f"outs:\n- md5: {md5}\n  size: 18\n  hash: md5\n  path: train.jsonl\n"
    (root / "data" / "train.jsonl.dvc").write_text(pointer)
    (root / "data" / ".gitignore").write_text("/train.jsonl\n")
    # As in every clone: with one key twice in its config, DVC's own queue cannot run here.
    git("remote", "add", "origin", str(root))
    git("config", "--add", "remote.origin.fetch", "+refs/x/*:refs/y/*")
    git("add", "--all")
    git("commit", "-qm", "A pipeline")
    return root


@pytest.fixture(scope="module")
def swept(unswept: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """After a sweep that was queued, typed again with one more value, and run: what it said."""
    root = tmp_path_factory.mktemp("swept") / "repo"
    shutil.copytree(unswept, root, symlinks=True)
    soup = runner("git", "soup", cwd=root)
    runner("git", cwd=root)("update-index", "-q", "--refresh")
    one = soup("sweep", "--param", "training.lora.r=16,32", "--queue-only")
    assert [line.split()[1] for line in one.stdout.splitlines()[1:]] == ["queued", "queued"]
    done = soup("sweep", "run", "-j", "2", "--param", "training.lora.r=4,16,32", check=False)
    assert done.returncode == 1, done.stderr
    return root, [one.stderr, done.stderr, done.stdout]


@pytest.fixture
def sweep(
    swept: tuple[Path, list[str]], in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where the sweep ran; to be read only, a worker of DVC's may still live there."""
    monkeypatch.chdir(swept[0])
    return swept[0]


@pytest.fixture
def results(sweep: Path, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Run) -> Path:
    """A copy with the results, as refs, and without the queue."""
    root = in_tmp_path / "repo"
    ignored = shutil.ignore_patterns("sweep", "worktrees")
    shutil.copytree(sweep, root, symlinks=True, ignore=ignored)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root


@pytest.fixture
def fresh(unswept: Path, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: Run) -> Path:
    root = in_tmp_path / "repo"
    shutil.copytree(unswept, root, symlinks=True)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root


def test_what_waits_is_not_queued_again_and_a_failure_is_told(
    swept: tuple[Path, list[str]],
) -> None:
    _, (first, then, table) = swept
    assert "queued 2/2" in first
    assert "2 experiments of 3 known already: 2 queued" in then
    assert "queued 1/1" in then
    assert "training.lora.r=4" in then
    assert then.count("\ndone ") == 2
    assert "out of memory" in then  # the failed stage's own words
    rows = {line.split()[2]: line.split()[1:] for line in table.splitlines()[1:]}
    assert rows == {
        "4": ["done", "4", "0.25"],
        "16": ["done", "16", "0.0625"],
        "32": ["failed", "32", "–"],
    }


def test_the_users_own_files_are_never_touched(swept: tuple[Path, list[str]]) -> None:
    git = runner("git", cwd=swept[0])
    assert git("status", "--porcelain").stdout == ""
    assert git("stash", "list").stdout == ""
    assert (swept[0] / "soup.yaml").read_text() == CONFIG
    assert not (swept[0] / "output").exists()


def test_show_gives_params_and_metrics(sweep: Path, soup: Run) -> None:
    report = json.loads(soup("sweep", "show", "--json", "--sort", "loss").stdout)
    assert report["schema"] == "soup.sweep/1"
    assert (report["params"], report["metrics"]) == (["training.lora.r"], ["loss"])
    found = [(row["state"], row["params"], row["metrics"]) for row in report["experiments"]]
    assert found == [
        ("done", {"training.lora.r": 16}, {"loss": 0.0625, "rows": 1}),
        ("done", {"training.lora.r": 4}, {"loss": 0.25, "rows": 1}),
        ("failed", {"training.lora.r": 32}, {}),
    ]
    table = soup("sweep", "show", "--sort", "r", "--metric", "rows", "--descending").stdout
    assert [line.split()[2:] for line in table.splitlines()] == [
        ["training.lora.r", "rows"], ["32", "–"], ["16", "1"], ["4", "1"],
    ]  # fmt: skip
    page = soup("sweep", "show", "--format", "html").stdout
    assert page.count("<polyline") == 2
    assert "<script" not in page
    assert soup("sweep", "show", "--format", "markdown").stdout.count("\n|") >= 4


def test_an_unknown_metric_names_the_nearest(sweep: Path, soup: Run, refused: Refused) -> None:
    refused(soup("sweep", "show", "--sort", "los", check=False), 128, "nearest is loss")


def test_a_promoted_experiment_is_a_branch_that_holds(
    results: Path, soup: Run, git: Run, refused: Refused
) -> None:
    rows = json.loads(soup("sweep", "show", "--json").stdout)["experiments"]
    best = next(row for row in rows if row["metrics"].get("loss") == 0.0625)
    assert best["commit"] in git("for-each-ref", "refs/exps").stdout
    tree = git("ls-tree", "-r", "--name-only", best["commit"]).stdout.split()
    assert "soup.lock" in tree  # the stage inside the experiment had it committed

    promote = ("soup", "sweep", "promote", best["name"], "--branch", "best")
    signing = ("-c", "commit.gpgSign=true", "-c", "gpg.program=false")
    refused(git(*signing, *promote, check=False), 128, "failed to sign")
    git(*promote)
    branch = json.loads(soup("branches", "--json").stdout)["branches"][0]
    assert (branch["name"], branch["state"], branch["adapters"]) == ("best", "clean", 1)
    trailers = git("log", "-1", "--format=%(trailers)", "best").stdout
    assert "Soup-Config: soup.yaml sha256:" in trailers
    assert f"Soup-Experiment: {best['name']} {best['commit']}" in trailers
    assert git("rev-parse", "best~").stdout == git("rev-parse", "main").stdout
    assert git("diff", "--unified=0", "main", "best", "--", "soup.yaml").stdout.endswith(
        "-    r: 8\n+    r: 16\n"
    )

    soup("checkout", "best")
    assert "clean" in soup("status").stdout
    assert "rank 16" in Path("output/adapter.manifest").read_text()
    assert Path("output/adapter_model.safetensors").stat().st_size > 2048
    assert "clean" in soup("fsck").stdout
    soup("lock", "check")
    again = soup("sweep", "promote", best["name"], "--branch", "best", check=False)
    refused(again, 128, "already exists")


def test_only_a_result_can_be_promoted(sweep: Path, soup: Run, refused: Refused) -> None:
    rows = json.loads(soup("sweep", "show", "--json").stdout)["experiments"]
    failed = next(row["name"] for row in rows if row["state"] == "failed")
    refused(soup("sweep", "promote", failed, "--branch", "x", check=False), 128, "failed")
    refused(soup("sweep", "promote", "sweep-", "--branch", "x", check=False), 128, "3 experiments")
    refused(soup("sweep", "promote", "zz", "--branch", "x", check=False), 128, "no experiment")


# -- refused before anything is queued ----------------------------------------------------------


def test_every_error_of_the_grid_at_once(fresh: Path, soup: Run, refused: Refused) -> None:
    done = soup(
        *("sweep", "--param", "training.lr=1e-5,x", "--param", "training.lora.rr=8"), check=False
    )
    refused(done, 128, "2 errors, and nothing was queued", "training.lr", "did you mean r?")
    assert not (fresh / ".git" / "soup" / "sweep").exists()


def test_a_grid_too_large_is_refused(fresh: Path, soup: Run, refused: Refused) -> None:
    seeds = ",".join(map(str, range(300)))
    done = soup("sweep", "--param", f"training.seed={seeds}", check=False)
    refused(done, 128, "300 experiments", "at most 256")


def test_what_is_not_committed_is_refused(fresh: Path, soup: Run, refused: Refused) -> None:
    (fresh / "learn.py").write_text("pass\n")
    done = soup("sweep", "--param", "training.lr=1e-5", check=False)
    refused(done, 128, "experiments start from HEAD", "learn.py")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"base": "../elsewhere"}, "leaves the repository"),
        ({"data/train.jsonl": "loose.jsonl"}, "neither git nor DVC tracks"),
    ],
)
def test_inputs_that_an_experiment_would_not_have(
    fresh: Path, soup: Run, git: Run, refused: Refused, change: dict[str, str], word: str
) -> None:
    (fresh.parent / "elsewhere").mkdir()
    (fresh / "loose.jsonl").write_text('{"text": "x"}\n')
    text = CONFIG.replace("org/base", change.get("base", "org/base"))
    text = text.replace("data/train.jsonl", change.get("data/train.jsonl", "data/train.jsonl"))
    (fresh / "soup.yaml").write_text(text)
    git("commit", "-qnam", "other inputs")
    refused(soup("sweep", "--param", "training.lr=1e-5", check=False), 128, word)


def test_what_waits_can_be_forgotten(fresh: Path, soup: Run, git: Run) -> None:
    soup("sweep", "--param", "training.lr=1e-5", "--queue-only")
    assert "queued" in soup("sweep", "show").stdout
    assert "forgotten: 1 queued, 0 failed" in soup("sweep", "clear").stderr
    assert "no experiments" in soup("sweep", "show").stdout
    assert git("for-each-ref", "refs/exps").stdout == ""


def test_nothing_to_show_stop_or_clear(fresh: Path, soup: Run) -> None:
    assert "no experiments" in soup("sweep", "show").stdout
    assert "no experiment runs here" in soup("sweep", "stop").stderr
    assert "forgotten: 0 queued" in soup("sweep", "clear").stderr


def test_a_stage_in_an_experiment_keeps_its_run_at_home(
    fresh: Path, in_tmp_path: Path, git: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    git("worktree", "add", "-q", "--detach", "../inside", "HEAD")
    inside = Workspace.open(in_tmp_path / "inside")
    assert home_of(inside).workspace is inside
    monkeypatch.setenv("DVC_EXP_NAME", "sweep-a")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "c" * 40)
    monkeypatch.setenv("DVC_ROOT", str(inside.root))
    assert home_of(inside).workspace is inside  # `dvc exp run` in the work tree itself
    monkeypatch.setenv("DVC_ROOT", str(fresh))
    home = home_of(inside)
    assert (home.workspace.root, home.baseline) == (fresh, "c" * 40)
    monkeypatch.setenv("DVC_EXP_NAME", "sweep-b")
    states = {h.training_state("output") for h in (home, home_of(inside))}
    assert len(states) == 2
    assert all(os.path.commonpath([fresh, state]) == str(fresh) for state in states)
