"""Training through real DVC in a real repository: stages, runs as refs, plan, verify."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.training import tiny_model as tiny
from tests.warm import Warm, python_launcher

pytest.importorskip("trl", reason="the train extra is not installed")

STAGES = ("train", "lock", "evaluate", "fold", "probe", "batchsize", "rebuild")


@pytest.fixture(scope="module", autouse=True)
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`python` on PATH has torch and TRL imported: of thirty trainings, most need not start cold."""
    _, dvc, stages = WARM
    stages.start(wait=False)
    dvc.start()
    stages.start()
    homes = {"dvc": dvc, **{f"soup_git.stages.{name}": stages for name in STAGES}}
    PYTHON.append(python_launcher(tmp_path_factory.mktemp("python"), homes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{PYTHON[0].parent}{os.pathsep}{os.environ['PATH']}")
        yield
    for server in WARM:
        server.stop()


WARM = Warm("soup"), Warm("dvc"), Warm("stages")
PYTHON: list[Path] = []


@pytest.fixture(scope="module")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def trained_once(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A workspace after `dvc repro` and a commit; copied by the tests that change it."""
    root = tmp_path_factory.mktemp("trained") / "workspace"
    root.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=root)
    shutil.copytree(tiny_base, root / "base")
    tiny.write_rows(root / "data" / "train.jsonl", [tiny.conversation(n) for n in range(24)])
    (root / "soup.yaml").write_text(tiny.CONFIG)
    (root / ".gitignore").write_text("/base/\n")
    run("git-soup", "init", "--template", "chat", cwd=root)
    add_base_dependency(root)
    # The stage that evaluates has a test of its own: a model is loaded for it each time.
    (root / "dvc.yaml").write_text(without_evaluation((root / "dvc.yaml").read_text()))
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "-qm", "start", cwd=root)
    index = (root / ".git" / "index").read_bytes()
    head = run("git", "rev-parse", "HEAD", cwd=root)
    run("dvc", "repro", "-q", cwd=root)
    assert run("git", "rev-parse", "HEAD", cwd=root) == head
    assert run("git", "diff", "--cached", "--name-only", cwd=root) == ""
    assert len((root / ".git" / "index").read_bytes()) == len(index)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "-qm", "train", cwd=root)
    return root, md5_of(root)


def without_evaluation(pipeline: str) -> str:
    return pipeline.partition("\n  # What the adapter is worth")[0] + "\n"


def add_base_dependency(root: Path) -> None:
    text = (root / "dvc.yaml").read_text()
    if "${base}" not in text:
        text = text.replace(
            "      - ${data.train}\n", "      - ${data.train}\n      - ${base}\n", 1
        )
        (root / "dvc.yaml").write_text(text)


@pytest.fixture
def trained(trained_once: tuple[Path, str], tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    shutil.copytree(trained_once[0], root, symlinks=True)
    return root


def run(*command: str, cwd: Path, expect: int = 0, **env: str) -> str:
    environment = {**os.environ, **env}
    if command[0] == "git-soup" and command[1] != "init":
        done = WARM[0].run(command[1:], cwd, environment, "", str(PYTHON[0]))
    else:
        words = [str(PYTHON[0]), "-m", *command] if command[0] == "dvc" else command
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == expect, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if not expect else done.stdout + done.stderr


def md5_of(root: Path) -> str:
    lines = (root / "output" / "adapter.manifest").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("weights "))


def test_every_checkpoint_is_a_commit_that_reads_like_a_training_log(trained: Path) -> None:
    refs = run("git", "for-each-ref", "--format=%(refname)", "refs/soup/runs", cwd=trained).split()
    assert len(refs) == 1
    log = run("git", "log", "--first-parent", "--format=%s", refs[0], cwd=trained).splitlines()
    steps = [line.split(":")[0] for line in log if line.startswith("step ")]
    assert steps == ["step 12", "step 9", "step 6", "step 3"]
    assert log[4:] == ["start"]
    trailers = run("git", "log", "-1", "--format=%(trailers)", refs[0], cwd=trained)
    for key in ("Soup-Step: 12", "Soup-Loss: ", "Soup-Learning-Rate: ", "Soup-Adapter: output"):
        assert key in trailers


def test_a_checkpoint_is_an_adapter_spec(trained: Path) -> None:
    name = run("git", "for-each-ref", "--format=%(refname:lstrip=3)", "refs/soup/runs", cwd=trained)
    last = json.loads(run("git-soup", "show", f"run/{name.strip()}", "--json", cwd=trained))
    assert f"md5:{last['weights_md5']}" == md5_of(trained)
    third = json.loads(run("git-soup", "show", f"run/{name.strip()}@3", "--json", cwd=trained))
    assert third["available"] and third["weights_md5"] != last["weights_md5"]
    said = run("git-soup", "show", f"run/{name.strip()}@4", cwd=trained, expect=128)
    assert "it has 3, 6, 9, 12" in said


def test_checkpoints_survive_dvc_gc(trained: Path) -> None:
    run("dvc", "gc", "-q", "-f", "--workspace", cwd=trained)
    name = run("git", "for-each-ref", "--format=%(refname:lstrip=3)", "refs/soup/runs", cwd=trained)
    third = json.loads(run("git-soup", "show", f"run/{name.strip()}@3", "--json", cwd=trained))
    assert third["available"]
    assert "clean" in run("git-soup", "fsck", cwd=trained)


def test_the_lock_names_the_run_that_gave_the_adapter(trained: Path) -> None:
    lock = json.loads(run("git-soup", "lock", "show", "--json", cwd=trained))
    made = run("git", "rev-parse", f"refs/soup/locks/{lock['run']}", cwd=trained).strip()
    run_tip = run("git", "for-each-ref", "--format=%(objectname)", "refs/soup/runs", cwd=trained)
    assert made == run_tip.strip()
    assert lock["adapters"] == {"output": md5_of(trained).removeprefix("md5:")}
    assert "plots/loss.csv" in run("git", "ls-tree", "-r", "--name-only", made, cwd=trained)


def test_nothing_is_left_to_do_after_a_commit(trained: Path) -> None:
    assert "up to date" in run("dvc", "status", cwd=trained)
    assert json.loads(run("git-soup", "plan", "--json", cwd=trained))["stages"][0]["why"] == []
    run("git-soup", "lock", "check", cwd=trained)
    assert "clean" in run("git-soup", "status", cwd=trained)


def test_verify_rebuilds_the_same_adapter_and_leaves_nothing_behind(trained: Path) -> None:
    report = json.loads(run("git-soup", "verify", "--json", cwd=trained))
    assert report["verdict"] == "identical"
    assert f"md5:{report['rebuilt_md5']}" == md5_of(trained)
    assert len(run("git", "worktree", "list", cwd=trained).splitlines()) == 1
    assert run("git", "status", "--short", cwd=trained) == ""


def test_verify_in_a_fresh_clone_fetches_data_and_weights(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    run("git", "init", "-q", "--bare", "../origin.git", cwd=trained)
    run("git", "remote", "add", "origin", "../origin.git", cwd=trained)
    run("dvc", "remote", "add", "-q", "-d", "store", "../store", cwd=trained)
    run("git", "rm", "-q", "--cached", "data/train.jsonl", cwd=trained)
    run("dvc", "add", "-q", "data/train.jsonl", cwd=trained)
    run("git", "add", "--all", cwd=trained)
    run("git", "commit", "-qm", "The data to DVC", cwd=trained)
    run("git-soup", "push", cwd=trained)
    clone = tmp_path / "clone"
    run("git", "clone", "-q", "origin.git", "clone", cwd=tmp_path)
    shutil.copytree(trained / "base", clone / "base")
    run("git-soup", "init", cwd=clone)
    report = json.loads(run("git-soup", "verify", "--json", cwd=clone))
    assert report["verdict"] == "identical"


def test_verify_tells_an_adapter_that_was_not_made_from_its_lock(trained: Path) -> None:
    name = run("git", "for-each-ref", "--format=%(refname:lstrip=3)", "refs/soup/runs", cwd=trained)
    third = json.loads(run("git-soup", "show", f"run/{name.strip()}@3", "--json", cwd=trained))
    stored = trained / ".git" / "soup" / "objects" / "files" / "md5"
    weights = stored / third["weights_md5"][:2] / third["weights_md5"][2:]
    target = trained / "output" / "adapter_model.safetensors"
    target.unlink()
    shutil.copy(weights, target)
    manifest = run(
        "git", "show", f"soup/runs/{name.strip()}~3:output/adapter.manifest", cwd=trained
    )
    (trained / "output" / "adapter.manifest").write_text(manifest)
    run("dvc", "commit", "-q", "-f", cwd=trained)
    run("git", "commit", "-qam", "swap", cwd=trained)
    report = json.loads(
        run("git-soup", "verify", "--json", cwd=trained, expect=1).split("\n}")[0] + "\n}"
    )
    assert report["verdict"] == "different"
    assert report["largest_relative_difference"] > 1e-3


def test_the_plan_says_which_input_moved(trained: Path) -> None:
    with (trained / "data" / "train.jsonl").open("a") as file:
        file.write(json.dumps(tiny.conversation(99)) + "\n")
    said = run("git-soup", "plan", cwd=trained, expect=3)
    assert "data/train.jsonl modified" in said
    assert "dataset drifted" in said
    assert "as run/" in said


def test_a_template_that_the_pipeline_does_not_name_is_seen_all_the_same(trained: Path) -> None:
    template = trained / "t.jinja"
    turn = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    template.write_text(turn)
    config = (trained / "soup.yaml").read_text()
    (trained / "soup.yaml").write_text(
        config.replace("data:\n", "data:\n  chat_template: t.jinja\n")
    )
    run("git-soup", "train", cwd=trained)
    before = md5_of(trained)
    run("git", "add", "--all", cwd=trained)
    run("git", "commit", "-qm", "A template of our own", cwd=trained)
    run("git-soup", "plan", cwd=trained)

    template.write_text(turn.replace("<", "[").replace(">{{", "]{{"))
    assert "t.jinja changed" in run("git-soup", "plan", cwd=trained, expect=3)
    run("git-soup", "train", cwd=trained)
    assert md5_of(trained) != before
    lock = json.loads(run("git-soup", "lock", "show", "--json", cwd=trained))
    assert lock["adapters"] == {"output": md5_of(trained).removeprefix("md5:")}
    assert run("git", "rev-parse", f"refs/soup/locks/{lock['run']}", cwd=trained)
    run("git-soup", "plan", cwd=trained)
    run("git-soup", "lock", "check", cwd=trained)

    template.write_text(turn)
    report = json.loads(run("git-soup", "train", "--reuse", "--json", cwd=trained))
    assert (report["reused"], report["weights_md5"]) == (True, before.removeprefix("md5:"))


def test_a_profile_measures_real_steps_and_leaves_no_trace(trained: Path) -> None:
    def photo() -> dict[str, bytes]:
        files = [p for p in trained.rglob("*") if p.is_file() and not p.is_symlink()]
        kept = {p: p.read_bytes() for p in files if ".git/soup" not in str(p)}
        return {str(p.relative_to(trained)): data for p, data in kept.items()}

    config = (trained / "soup.yaml").read_text().replace("epochs: 2", "epochs: 40")
    (trained / "soup.yaml").write_text(config)
    before = photo()
    report = json.loads(run("git-soup", "profile", "--steps", "4", "--json", cwd=trained))
    assert photo() == before
    assert not list((trained / ".git" / "soup").glob("profile-*"))
    measured, whole = report["measured"], report["estimate"]
    assert report["fits"] and measured["longest_row_fits"]
    assert (measured["step"]["count"], measured["warm_up_steps"]) == (4, 2)
    assert 0 < measured["step"]["low"] <= measured["step"]["median"] <= measured["step"]["high"]
    assert 0 < measured["padding"] < 0.5 and measured["tokens_per_second"] > 0
    assert measured["adapter_bytes"] < measured["checkpoint_bytes"] < whole["disk_bytes"]
    # 21 rows in batches of 4, and 3 rows held out; a checkpoint every third step.
    assert (measured["steps_per_epoch"], measured["eval_batches"]) == (6, 1)
    assert (whole["steps"], whole["evaluations"], whole["checkpoints"]) == (240, 40, 80)
    assert whole["low"] <= whole["seconds"] <= whole["high"]
    assert whole["seconds"] > 240 * measured["step"]["median"]

    planned = json.loads(
        run("git-soup", "plan", "--json", cwd=trained, expect=3).partition("\n}")[0] + "}"
    )
    train = planned["stages"][0]
    assert train["estimate_from"] == "git soup profile"
    assert train["estimate_seconds"] == whole["seconds"]
    # Of other batches nothing is known.
    (trained / "soup.yaml").write_text(config.replace("batch_size: 4", "batch_size: 2"))
    assert "as run/" in run("git-soup", "plan", cwd=trained, expect=3)

    (trained / "soup.yaml").write_text(config.replace("base: base", "base: nowhere/at-all"))
    said = run("git-soup", "profile", cwd=trained, expect=128)
    assert said.count("fatal:") == 1 and "hint:" in said


def test_a_batch_size_is_found_once_and_becomes_part_of_the_config(trained: Path) -> None:
    path = trained / "soup.yaml"
    asking = path.read_text().replace("batch_size: 4", "batch_size: auto")
    path.write_text(asking)
    run("git-soup", "config", "check", cwd=trained)
    run("git-soup", "lock", "write", cwd=trained)
    run("git-soup", "branch", "asking", "-c", "soup.yaml", cwd=trained)
    run("git", "add", "--all", cwd=trained)
    run("git", "commit", "-qm", "ask", cwd=trained)
    assert "would run" in run("git-soup", "plan", cwd=trained, expect=3)
    run("dvc", "repro", "-q", cwd=trained)
    # 21 rows train, so one or two at once leave an epoch its steps.
    (line,) = [line for line in path.read_text().splitlines() if "batch_size" in line]
    found = re.fullmatch(r"  batch_size: ([12])  # auto: found on cpu", line)
    assert found
    assert path.read_text().replace(line, "  batch_size: auto") == asking
    assert run("dvc", "status", cwd=trained) == "Data and pipelines are up to date.\n"
    run("git-soup", "lock", "check", cwd=trained)
    lock = (trained / "dvc.lock").read_text()
    assert lock.count(hashlib.md5(path.read_bytes()).hexdigest()) == 2
    again = run("dvc", "repro", cwd=trained)
    assert again.count("didn't change, skipping") == 2
    runs = run("git", "for-each-ref", "--format=%(refname)", "refs/soup/runs", cwd=trained)
    run_ref = runs.split()[-1]
    assert run("git", "show", f"{run_ref}:soup.yaml", cwd=trained) == path.read_text()

    # What was found holds here: in a profile, which writes nothing, and in an experiment.
    run("git", "stash", "-q", cwd=trained)
    assert path.read_text() == asking
    profile = run("git-soup", "profile", "--steps", "2", "--json", cwd=trained)
    assert path.read_text() == asking
    # 21 rows in batches of what was found.
    assert json.loads(profile)["measured"]["steps_per_epoch"] == -(-21 // int(found[1]))
    assert "measured by git soup profile" in run("git-soup", "plan", cwd=trained, expect=3)
    run("dvc", "exp", "run", "-q", "-n", "one", "-S", "soup.yaml:training.epochs=1", cwd=trained)
    (experiment,) = run(
        "git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/one", cwd=trained
    ).split()
    held = run("git", "show", f"{experiment}:soup.yaml", cwd=trained)
    assert line in held and "epochs: 1" in held
    recorded = run("git", "show", f"{experiment}:dvc.lock", cwd=trained)
    assert hashlib.md5(held.encode()).hexdigest() in recorded


def test_why_reads_the_run_that_was_trained_here(trained: Path) -> None:
    found = json.loads(run("git-soup", "why", "--json", cwd=trained))
    assert (found["is_finished"], found["steps"], found["checkpoints"]) == (True, 12, [3, 6, 9, 12])
    assert {f["name"] for f in found["findings"]} <= {"few steps", "few rows", "never fell"}
    assert (
        json.loads(run("git-soup", "why", "output", "--json", cwd=trained))["run"] == found["run"]
    )


def test_a_known_result_is_offered_instead_of_training_again(trained: Path) -> None:
    shutil.rmtree(trained / "output")
    report = json.loads(run("git-soup", "train", "--reuse", "--json", cwd=trained))
    assert report["reused"]
    run("git", "diff", "--exit-code", cwd=trained)
    assert "up to date" in run("dvc", "status", cwd=trained)


def test_what_is_reused_is_judged_after_the_stages_before_it(trained: Path) -> None:
    first = md5_of(trained)
    rows = (trained / "data" / "train.jsonl").read_text()
    (trained / "raw.jsonl").write_text(rows)
    run("git", "rm", "-q", "--cached", "data/train.jsonl", cwd=trained)
    prepare = "  prepare:\n    cmd: cp raw.jsonl data/train.jsonl\n    deps: [raw.jsonl]\n"
    pipeline = (trained / "dvc.yaml").read_text()
    (trained / "dvc.yaml").write_text(
        pipeline.replace("stages:\n", f"stages:\n{prepare}    outs: [data/train.jsonl]\n\n")
    )
    same = json.loads(run("git-soup", "train", "--reuse", "--json", cwd=trained))
    assert (same["reused"], same["weights_md5"]) == (True, first.removeprefix("md5:"))

    (trained / "raw.jsonl").write_text(rows + json.dumps(tiny.conversation(99)) + "\n")
    report = json.loads(run("git-soup", "train", "--reuse", "--json", cwd=trained))
    assert not report["reused"]
    assert f"md5:{report['weights_md5']}" == md5_of(trained) != first
    weights = (trained / "output" / "adapter_model.safetensors").read_bytes()
    assert hashlib.md5(weights).hexdigest() == report["weights_md5"]


def test_a_training_that_fails_early_costs_nothing_that_was_there(trained: Path) -> None:
    config = (trained / "soup.yaml").read_text()
    pipeline = (trained / "dvc.yaml").read_text()
    # As templates were before: DVC removes outputs first, and the stage brings them back.
    plain = pipeline.replace(":\n          persist: true\n    metrics", "\n    metrics")
    plain = plain.replace("          persist: true\n", "")
    assert "persist: true" in pipeline and "persist: true" not in plain
    for stages, wrong, said in (
        (plain, config.replace("epochs: 2", "epoch: 2"), "did you mean epochs"),
        (pipeline, config.replace("epochs: 2", "epoch: 2"), "did you mean epochs"),
        # DVC misses the dependency before any stage of ours could say a word.
        (pipeline, config.replace("base: base", "base: nowhere"), "nowhere"),
    ):
        (trained / "dvc.yaml").write_text(stages)
        (trained / "soup.yaml").write_text(wrong)
        assert said in run("dvc", "repro", cwd=trained, expect=255)
        (trained / "soup.yaml").write_text(config)
        results = ("metrics.json", "plots", "output")
        assert run("git", "status", "--short", "--", *results, cwd=trained) == ""
        assert "up to date" in run("dvc", "status", cwd=trained)


def test_a_pipeline_that_trains_nothing_is_no_success(trained: Path) -> None:
    shutil.rmtree(trained / "output")
    (trained / "dvc.yaml").write_text("stages:\n  mine:\n    cmd: echo mine\n")
    said = run("git-soup", "train", cwd=trained, expect=128)
    assert "fatal: no stage of dvc.yaml trains what soup.yaml says" in said
    hint = re.search(r"hint: git (soup init --template chat --add-stages)", said)
    assert hint
    run("git-soup", *hint[1].split()[1:], cwd=trained)
    (trained / "dvc.yaml").write_text(without_evaluation((trained / "dvc.yaml").read_text()))
    report = json.loads(run("git-soup", "train", "--json", cwd=trained))
    weights = (trained / "output" / "adapter_model.safetensors").read_bytes()
    assert hashlib.md5(weights).hexdigest() == report["weights_md5"]


def test_a_killed_stage_goes_on_to_the_same_bytes_and_the_same_dvc_lock(trained: Path) -> None:
    before = md5_of(trained)
    refs = run("git", "for-each-ref", "refs/soup/runs", cwd=trained)
    process = subprocess.Popen(
        ["dvc", "repro", "-q", "-f"], cwd=trained, stderr=subprocess.DEVNULL, start_new_session=True
    )
    state = trained / ".git" / "soup" / "training"
    wait_for(lambda: list(state.glob("*/checkpoint-3/*.safetensors")) != [], process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert "clean" in run("git-soup", "fsck", cwd=trained)
    run("git", "fsck", "--strict", cwd=trained)
    run("dvc", "repro", "-q", "-f", cwd=trained, PYTHONHASHSEED="7")
    assert md5_of(trained) == before
    results = ("dvc.lock", "output", "metrics.json", "plots")
    run("git", "diff", "--exit-code", "--", *results, cwd=trained)
    assert run("git", "for-each-ref", "refs/soup/runs", cwd=trained).startswith(refs)
    new = run("git", "for-each-ref", "--format=%(refname)", "refs/soup/runs", cwd=trained).split()[
        1
    ]
    steps = run("git", "log", "--first-parent", "--format=%s", "main.." + new, cwd=trained)
    assert [line.split(":")[0] for line in steps.splitlines()] == [
        "step 12", "step 9", "step 6", "step 3"
    ]  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_interrupted_run_is_not_resumed_with_another_config(trained: Path) -> None:
    text = (trained / "soup.yaml").read_text()
    (trained / "soup.yaml").write_text(text.replace("lr: 1e-3", "lr: 2e-3"))
    process = subprocess.Popen(
        ["dvc", "repro", "-q"], cwd=trained, stderr=subprocess.DEVNULL, start_new_session=True
    )
    state = trained / ".git" / "soup" / "training"
    wait_for(lambda: list(state.glob("*/checkpoint-3/*.safetensors")) != [], process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (trained / "soup.yaml").write_text(text.replace("lr: 1e-3", "lr: 3e-3"))
    said = run("dvc", "repro", cwd=trained, expect=255)
    assert "training.lr: 0.002 -> 0.003" in said
    assert "git soup train --restart" in said
    run("git-soup", "train", "--restart", cwd=trained)


def test_a_second_training_waits_for_the_first(trained: Path) -> None:
    first = subprocess.Popen(
        ["git-soup", "train", "--again"],
        cwd=trained,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = trained / ".git" / "soup" / "training"
    wait_for(lambda: list(state.glob("*/run.json")) != [], first)
    second = subprocess.run(
        ["git-soup", "train"], cwd=trained, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert first.wait() == 0
    assert second.returncode == 0, second.stderr
    assert "waiting until it is done" in second.stderr
    assert "didn't change, skipping" in second.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(trained: Path) -> None:
    before = md5_of(trained)
    process = subprocess.Popen(
        ["git-soup", "train", "--again"],
        cwd=trained, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    state = trained / ".git" / "soup" / "training"
    wait_for(lambda: list(state.glob("*/checkpoint-3/*.safetensors")) != [], process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "interrupted at step" in said
    assert "the same command goes on from there" in said
    run("git-soup", "train", "--again", cwd=trained)
    assert md5_of(trained) == before


def test_the_branch_brings_its_own_adapter_back(trained: Path) -> None:
    first = md5_of(trained)
    text = (trained / "soup.yaml").read_text()
    (trained / "soup.yaml").write_text(text.replace("seed: 0", "seed: 1") + "\n")
    (trained / "soup.yaml").write_text(text.replace("lr: 1e-3", "lr: 5e-3"))
    run("git-soup", "branch", "faster", "--switch", cwd=trained)
    run("dvc", "repro", "-q", cwd=trained)
    run("git", "commit", "-qam", "faster", cwd=trained)
    second = md5_of(trained)
    assert first != second
    run("git-soup", "checkout", "main", cwd=trained)
    assert md5_of(trained) == first
    assert "up to date" in run("dvc", "status", cwd=trained)
    rows = json.loads(run("git-soup", "branches", "--json", cwd=trained))["branches"]
    assert {row["name"]: row["state"] for row in rows} == {"faster": "clean", "main": "clean"}


def test_a_row_shows_what_is_in_the_loss(trained: Path) -> None:
    report = json.loads(run("git-soup", "data", "show", "1", "--tokens", "--json", cwd=trained))
    text = "".join(t["token"] for t in report["tokens"] if t["in_loss"])
    assert "committee of otters" in text and "quick brown fox" not in text


def test_branches_that_were_really_retrained_merge(trained: Path) -> None:
    """Their dvc.lock, soup.lock, metrics and plots differ too; each file of the merge agrees."""
    text = (trained / "soup.yaml").read_text()
    run("git", "switch", "-qc", "faster", cwd=trained)
    (trained / "soup.yaml").write_text(text.replace("lr: 1e-3", "lr: 2e-3"))
    run("dvc", "repro", "-q", cwd=trained)
    run("git", "commit", "-qam", "faster", cwd=trained)
    run("git", "switch", "-q", "main", cwd=trained)
    tiny.write_rows(trained / "data" / "train.jsonl", [tiny.conversation(n) for n in range(27)])
    run("dvc", "repro", "-q", cwd=trained)
    run("git", "commit", "-qam", "more rows", cwd=trained)
    metrics = (trained / "metrics.json").read_bytes()

    run("git", "merge", "-q", "faster", cwd=trained)
    merged = md5_of(trained).removeprefix("md5:")
    tree = run("git", "show", "HEAD:dvc.lock", cwd=trained)
    assert tree.count(f"md5: {merged}") == 1
    lock = json.loads((trained / "soup.lock").read_text())
    assert lock["adapters"] == {"output": merged}
    assert (trained / "metrics.json").read_bytes() == metrics
    assert run("git", "status", "--porcelain", cwd=trained) == ""
    assert "clean" in run("git-soup", "fsck", cwd=trained)
    assert "identical" in run("git-soup", "verify", cwd=trained)
    run("git-soup", "lock", "check", cwd=trained)
    # No run gave these weights from this config, and DVC says so.
    status = json.loads(run("dvc", "status", "--json", cwd=trained))
    assert {"changed deps": {"soup.yaml": "modified"}} in status["train"]
    assert "changed outs" not in json.dumps(status)
    said = run("git-soup", "status", cwd=trained)
    assert "merged, not trained from this config" in said
    assert "stale: metrics.json, plots/eval_loss.csv, plots/loss.csv" in said

    run("git", "reset", "-q", "--hard", "HEAD~1", cwd=trained)
    run("git-soup", "checkout", cwd=trained)
    (trained / ".git" / "info" / "attributes").write_text("* !merge\ndvc.lock merge=soup\n")
    shutil.rmtree(trained / ".git" / "soup" / "facts", ignore_errors=True)
    (trained / ".git" / "soup" / "facts").unlink(missing_ok=True)
    alone = run("git", "merge-tree", "--write-tree", "main", "faster", cwd=trained, expect=1)
    assert merged in run("git", "show", f"{alone.split()[0]}:dvc.lock", cwd=trained)
    (trained / ".git" / "info" / "attributes").unlink()

    run("git-soup", "merge", "faster", "--freeze", cwd=trained)
    assert "frozen: true" in run("git", "show", "HEAD:dvc.yaml", cwd=trained)
    run("dvc", "repro", "-q", cwd=trained)
    assert md5_of(trained) == f"md5:{merged}"
    assert (
        hashlib.md5((trained / "output" / "adapter_model.safetensors").read_bytes()).hexdigest()
        == merged
    )


def test_the_stage_evaluate_scores_what_was_trained(trained: Path) -> None:
    template = resources.files("soup_git.workspace_template").joinpath("pipelines", "evaluate.yaml")
    pipeline = (trained / "dvc.yaml").read_text() + template.read_text()
    (trained / "dvc.yaml").write_text(pipeline)
    run("dvc", "repro", "-q", cwd=trained)
    scores = json.loads((trained / "eval" / "metrics.json").read_text())
    assert scores["fit"]["loss_n"] == 4
    assert sorted(scores["answers"])[:3] == ["answer", "answer_n", "answer_stderr"]
    shown = json.loads(run("dvc", "metrics", "show", "--json", cwd=trained))
    assert "eval/metrics.json" in json.dumps(shown)
    run("git", "add", "--all", cwd=trained)
    run("git", "commit", "-qm", "evaluate", cwd=trained)
    assert "up to date" in run("dvc", "status", cwd=trained)
    # The same scores, from the cache: nothing is loaded again.
    told = run("git-soup", "eval", "HEAD", "--suite", "eval/suite.yaml", "--json", cwd=trained)
    first = json.loads(told)["adapters"][0]["scores"]
    assert {s["name"]: s["n"] for s in first}["fit.loss"] == 4
    assert "fit.loss" in run("git", "notes", "--ref=soup", "show", "HEAD", cwd=trained)


def test_three_trainings_in_a_row(tiny_base: Path, tmp_path: Path) -> None:
    """Template rlhf: SFT, folded into the base; a reward model on that; RLOO with it."""
    root = tmp_path / "workspace"
    root.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=root)
    shutil.copytree(tiny_base, root / "base")
    asked = [f"{n}: {tiny.SENTENCES[n % 5]}" for n in range(12)]
    pairs = [{"prompt": p, "chosen": " yes.", "rejected": " no."} for p in asked]
    tiny.write_rows(root / "data" / "sft.jsonl", [tiny.conversation(n) for n in range(12)])
    tiny.write_rows(root / "data" / "preferences.jsonl", pairs)
    tiny.write_rows(root / "data" / "prompts.jsonl", [{"prompt": p} for p in asked])
    run("git-soup", "init", "--template", "rlhf", "--base", "base", cwd=root)
    for name in ("soup.yaml", "sft/soup.yaml", "reward/soup.yaml"):
        text = (root / name).read_text().replace("max_completion_length: 256", _SHORT)
        text = re.sub(r"epochs: \d+", "max_steps: 2\n  threads: 1", text)
        text = re.sub(r"val_split: [0-9.]+", "val_split: 0", text)
        (root / name).write_text(re.sub(r"batch_size: 8", "batch_size: 4", text))
    (root / "dvc.yaml").write_text(without_evaluation((root / "dvc.yaml").read_text()))
    run("dvc", "repro", "-q", cwd=root)
    run("git", "add", "--all", cwd=root)
    run("git", "commit", "-qm", "train", cwd=root)
    assert "up to date" in run("dvc", "status", cwd=root)

    folders = ("adapters/rlhf", "adapters/reward", "adapters/sft")
    bases = [json.loads((root / f / "adapter_config.json").read_text()) for f in folders]
    assert [b["base_model_name_or_path"] for b in bases] == ["models/sft", "models/sft", "base"]
    assert (root / "sft" / "metrics.json").is_file() and (root / "metrics.json").is_file()
    # A run is pinned to the config that it was trained from, the workspace to the last one.
    lock = json.loads((root / "soup.lock").read_text())
    assert lock["config_path"] == "soup.yaml" and lock["base_model"] == "models/sft"
    runs = run("git", "for-each-ref", "--format=%(refname)", "refs/soup/runs", cwd=root).split()
    locks = [json.loads(run("git", "show", f"{ref}:soup.lock", cwd=root)) for ref in runs]
    configs = {"reward/soup.yaml", "sft/soup.yaml", "soup.yaml"}
    assert {lock["config_path"] for lock in locks} == configs
    assert "holds" in run("git-soup", "lock", "check", cwd=root)
    assert json.loads(run("git-soup", "verify", "--json", cwd=root))["verdict"] == "identical"


_SHORT = "max_completion_length: 8"


# -- several processes ----------------------------------------------------------------------------

TWO = "  launcher: accelerate\n  num_processes: 2\n"
EVEN = ("val_split: 0.2", "val_split: 0.0"), ("dropout: 0.1", "dropout: 0.0")
# accelerate splits models among GPUs only. The rest of the way is the same on a CPU, where torch's
# FSDP2 and gloo do it: the workers are told that theirs are GPUs.
ANY_DEVICE = """\
import os
if "GIT_SOUP_WORKERS" in os.environ:
    from accelerate.state import DistributedType, PartialState
    begin = PartialState.__init__
    def __init__(self, *args, **kwargs):
        begin(self, *args, **kwargs)
        if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    PartialState.__init__ = __init__
    from soup_git.training import adapter
    factors = adapter.factors
    def counted(model):
        with open("split", "w") as file:
            file.write(str(all(hasattr(p, "full_tensor") for p in model.parameters())))
        return factors(model)
    adapter.factors = counted
"""
LAUNCH = """\
import sys
from pathlib import Path
from soup_git.training import launching, machine
from soup_git.training.config import load_config
config = load_config(Path("soup.yaml"))
machine.prepare_process(config)
words = [sys.executable, "-m", "soup_git.stages.train", "soup.yaml"]
sys.exit(launching.launch(config, words, Path.cwd(), 2))
"""


def configure(root: Path, *changes: tuple[str, str], more: str = "") -> None:
    text = (root / "soup.yaml").read_text().replace("training:\n", f"training:\n{more}")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (root / "soup.yaml").write_text(text)


def results(root: Path) -> list[bytes]:
    names = ("adapter_model.safetensors", "../metrics.json", "../plots/loss.csv")
    return [(root / "output" / name).read_bytes() for name in names]


def test_two_processes_give_the_bytes_of_one_that_accumulates(trained: Path) -> None:
    before = (trained / "soup.yaml").read_text()
    configure(trained, *EVEN, ("batch_size: 4", "batch_size: 2"), more=TWO)
    done = subprocess.run(
        [str(PYTHON[0]), "-m", "dvc", "repro"], cwd=trained, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "effective batch 4 of 2 processes" in done.stderr
    assert done.stderr.count("effective batch") == 1
    run_id = re.findall(r"run/(\S+):", done.stderr)[-1]
    log = run("git", "log", "--format=%s", f"soup/runs/{run_id}", "--not", "main", cwd=trained)
    assert [line.split(":")[0] for line in log.splitlines()] == ["step 12", "step 9", "step 6", "step 3"]  # fmt: skip
    together = results(trained)
    run("git-soup", "lock", "check", cwd=trained)
    assert "up to date" in run("dvc", "status", cwd=trained)
    run("git", "commit", "-qam", "two", cwd=trained)
    assert "identical" in run("git-soup", "verify", cwd=trained)

    (trained / "soup.yaml").write_text(before)
    accumulate = "  gradient_accumulation_steps: 2\n"
    configure(trained, *EVEN, ("batch_size: 4", "batch_size: 2"), more=accumulate)
    run("dvc", "repro", "-q", cwd=trained)
    assert results(trained) == together


def test_a_split_model_gives_the_bytes_of_a_whole_one(trained: Path, tmp_path: Path) -> None:
    accumulate = "  gradient_accumulation_steps: 2\n"
    configure(trained, *EVEN, ("batch_size: 4", "batch_size: 2"), more=accumulate)
    run("dvc", "repro", "-q", cwd=trained)
    whole = results(trained)
    configure(trained, (accumulate, TWO + "  fsdp: full_shard\n"))
    assert "GPUs, and there is none here" in run("dvc", "repro", cwd=trained, expect=255)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(ANY_DEVICE)
    done = subprocess.run(
        [str(PYTHON[0]), "-c", LAUNCH], cwd=trained, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hook")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (trained / "split").read_text() == "True"
    assert results(trained) == whole


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the deepspeed extra is not installed")
def test_deepspeed_gives_the_bytes_of_one_process_and_resumes_to_them(trained: Path) -> None:
    accumulate = "  gradient_accumulation_steps: 2\n"
    configure(trained, *EVEN, ("batch_size: 4", "batch_size: 2"), more=accumulate)
    run("dvc", "repro", "-q", cwd=trained)
    whole = results(trained)
    configure(trained, (accumulate, TWO + "  deepspeed: zero2\n"))
    run("dvc", "repro", "-q", cwd=trained, DS_ACCELERATOR="cpu")
    assert results(trained) == whole
    process = subprocess.Popen(
        ["dvc", "repro", "-q", "--force", "--single-item", "train"],
        cwd=trained, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    state = trained / ".git" / "soup" / "training"
    wait_for(lambda: list(state.glob("*/checkpoint-3/*.safetensors")) != [], process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    run(
        "dvc", "repro", "-q", "--force", "--single-item", "train", cwd=trained, DS_ACCELERATOR="cpu"
    )
    assert results(trained) == whole


def test_two_interrupted_processes_go_on_to_the_same_bytes(trained: Path) -> None:
    """With dropout, which each process draws from a seed of its own."""
    configure(trained, ("batch_size: 4", "batch_size: 2"), more=TWO)
    run("dvc", "repro", "-q", cwd=trained)
    before = results(trained)
    # Python itself, as whoever interrupts has it: the warm one signals whole groups.
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "soup_git.stages.train"],
        cwd=trained, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    state = trained / ".git" / "soup" / "training"
    wait_for(lambda: list(state.glob("*/checkpoint-3/*.safetensors")) != [], process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "interrupted at step" in said, said
    assert list(state.glob("*/checkpoint-*/rng_state_1.pth"))
    again = subprocess.run(
        [str(PYTHON[0]), "-m", "dvc", "repro", "--force", "--single-item", "train"],
        cwd=trained, capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "going on from step" in again.stderr
    assert results(trained) == before


def test_a_watchdog_ends_with_1(trained: Path) -> None:
    watch = "  loss_watchdog: true\n  loss_watchdog_threshold: 0.1\n"
    configure(trained, more=watch)
    for _ in range(2):
        said = run("git-soup", "train", cwd=trained, expect=1)
        assert "stopped by its watchdog" in said
    why = run("git-soup", "why", cwd=trained, expect=1)
    assert "not finished" in why and "training was stopped by its watchdog: the loss was" in why
    configure(trained, ("lr: 1e-3", "lr: -1"))
    assert "training.lr" in run("git-soup", "train", cwd=trained, expect=128)


def test_what_every_process_refuses_is_said_once(trained: Path) -> None:
    configure(trained, ("lr: 1e-3", "lr: 1e30"), more=TWO)
    assert "one process is measured" in run("git-soup", "profile", cwd=trained, expect=128)
    said = run("dvc", "repro", cwd=trained, expect=255)
    assert said.count("fatal: the loss is") == 1
    assert "Traceback" not in said


def test_how_the_base_was_loaded_is_in_every_manifest_of_a_training(trained: Path) -> None:
    pytest.importorskip("bitsandbytes")
    manifest = "output/adapter.manifest"
    assert "base_load" not in (trained / manifest).read_text()
    text = (trained / "soup.yaml").read_text().replace(
        "training:\n",
        "training:\n  quantization: 4bit\n  max_steps: 2\n"
        "  trl: {model_init_kwargs: {rope_parameters:"
        " {rope_type: linear, factor: 4.0, rope_theta: 10000.0}}}\n",
        1,
    )  # fmt: skip
    (trained / "soup.yaml").write_text(text)
    run("dvc", "repro", "-q", cwd=trained)
    lines = (trained / manifest).read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("base_load ")]
    said = json.loads(line.partition(" ")[2])
    assert said.keys() == {"config", "quantization"} and said["quantization"] == "4bit"
    positions = said["config"]["rope_parameters"]
    assert (positions["rope_type"], positions["factor"]) == ("linear", 4.0)
    (last,) = run(
        "git", "for-each-ref", "--sort=-refname", "--count=1", "--format=%(refname)",
        "refs/soup/runs", cwd=trained,
    ).split()  # fmt: skip
    for commit in run("git", "rev-list", last, "--not", "main", cwd=trained).split():
        assert line in run("git", "show", f"{commit}:{manifest}", cwd=trained).splitlines()
    run("git", "commit", "-qam", "few bits", cwd=trained)
    verified = json.loads(run("git-soup", "verify", "--json", cwd=trained))
    assert verified["verdict"] == "identical"
    assert line in run("git", "show", f"HEAD:{manifest}", cwd=trained)
