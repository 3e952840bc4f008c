"""`git soup blame --dataset` and `git soup bisect --metric`, on a real model that has learnt its rows."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from soup_git.commands import ablation, bisect, bisectblame
from soup_git.commands.bisectmetric import forget
from soup_git.evaluation import ablationshards
from soup_git.evaluation.ablationplan import Plan
from soup_git.evaluation.ablationrows import RowGroup
from soup_git.evaluation.executors import Flag
from soup_git.render.report import as_table
from soup_git.storage.workspace import Workspace
from tests.conftest import Run, write_adapter
from tests.evaluation import planted
from tests.evaluation.planted import Planted, assert_same_effects

# PEFT asks transformers by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repo_template: Path) -> tuple[Path, Planted]:
    """A workspace with a base that knows its rows, and a sequence of checkpoints with one break."""
    root = tmp_path_factory.mktemp("planted") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    planted.make_workspace(root)
    return root, planted.plant(root, 0)


@pytest.fixture
def workspace(trained: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(trained[0])
    return Workspace.open()


def request_for(case: Planted) -> bisect.Request:
    specs = [f"./{c.parent.name}/{c.name}" for c in case.checkpoints]
    return bisect.Request(specs, metric="support.loss", drop="0.02", suite=Path("suite.yaml"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_planted_regression_is_found_and_its_module_blamed(
    workspace: Workspace, seed: int
) -> None:
    case = planted.plant(workspace.root, seed)
    request = request_for(case)
    report = bisect.bisect(workspace, request)
    assert report.verdict == "BROKEN_AT"
    assert str(report.first_broken).endswith(case.broken.name)
    assert str(report.last_good).endswith(case.last_good.name)
    assert report.probes <= 5
    found = bisectblame.then_blame(workspace, request, report, None).blame
    assert found is not None
    assert found.modules[0].name == case.module
    assert (found.modules[0].effect or 0.0) < -0.02, "putting it back lowers the loss"
    assert found.modules[0].place == found.modules[0].place_to == 1


def test_a_second_search_loads_no_model(
    workspace: Workspace, trained: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    from soup_git.evaluation.runner import Runner

    request = request_for(trained[1])
    first = bisect.bisect(workspace, request)
    forget()

    def refuse(_: Runner) -> object:
        raise AssertionError("the base is loaded, and every score is known")

    monkeypatch.setattr(Runner, "_load_base", refuse)
    again = bisect.bisect(workspace, request)
    assert [(s.checkpoint, s.ok) for s in again.steps] == [
        (s.checkpoint, s.ok) for s in first.steps
    ]
    offered = bisectblame.hints(workspace, again, None, request)[-1]
    assert offered.startswith("git soup blame ")
    assert "--dataset rows.jsonl" in offered


def test_bisect_hands_over_to_blame(trained: tuple[Path, Planted], soup: Run) -> None:
    root, case = trained
    specs = [f"./{c.parent.name}/{c.name}" for c in case.checkpoints]
    metric = ("--metric", "support.loss", "--drop", "0.02", "--suite", "suite.yaml")
    done = soup("bisect", *specs, *metric, "--then-blame", "--json", cwd=root, check=False)
    assert done.returncode == 3, done.stderr
    body = json.loads(done.stdout)
    assert body["schema"] == "soup.bisect/1"
    assert body["first_broken"].endswith(case.broken.name)
    assert all(step["exit_code"] is None for step in body["steps"])
    assert body["blame"]["kind"] == "ablation"
    assert body["blame"]["modules"][0]["name"] == case.module
    assert body["blame"]["against"].endswith(case.last_good.name)
    assert "git soup blame" not in done.stderr, "it was blamed already"
    log = soup("bisect", "log", cwd=root).stdout
    assert '"metric":"support.loss"' in log


def test_blame_as_json(trained: tuple[Path, Planted], soup: Run) -> None:
    root, case = trained
    spec = f"./{case.broken.relative_to(root)}"
    done = soup("blame", spec, "--dataset", "rows.jsonl", "--per", "layer", "--json", cwd=root)
    body = json.loads(done.stdout)
    assert (body["schema"], body["kind"], body["per"]) == ("soup.blame/1", "ablation", "layer")
    assert {part["status"] for part in body["modules"]} == {"exact"}
    assert body["rows"] == planted.ROWS


def test_blame_as_a_page_and_as_a_table(
    workspace: Workspace, trained: tuple[Path, Planted]
) -> None:
    from soup_git.render.html import as_html
    from soup_git.render.report import as_json

    spec = str(trained[1].broken)
    request = ablation.AblationRequest(spec, Path("rows.jsonl"), ["layers.1"])
    report = ablation.ablate(workspace, request)
    assert len(report.modules) == 7
    total = report.total
    assert total.effect == pytest.approx(total.loss_without - total.loss)
    page = as_html(report)
    assert "model.layers.1" in page
    assert "<script" not in page
    assert "does harm" in page
    table = as_table(ablation.short(report))
    assert "layers.1.mlp.down_proj" in table
    assert json.loads(as_json(report))["modules"][0]["low"] is not None


def test_the_plan_alone(workspace: Workspace, trained: tuple[Path, Planted]) -> None:
    case = trained[1]
    request = ablation.AblationRequest(str(case.broken), Path("rows.jsonl"), budget="2m")
    plan = ablation.plan(workspace, request)
    assert plan.fits
    assert plan.reuses_layers
    assert plan.seconds_per_shard == 30.0
    assert 0 < plan.seconds_per_part < plan.seconds_exact
    assert plan.parts == plan.affordable == 21


def test_two_jobs_measure_the_same_as_one(
    workspace: Workspace, trained: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = ablationshards.measure

    def as_elsewhere(question: ablationshards.Question, group: RowGroup, stop: Flag) -> object:
        sent = pickle.dumps((question, group))
        assert len(sent) < 30_000, "neither weights nor a dataset travel"
        found = measure(*pickle.loads(sent), stop)
        ended = threading.Event()
        ended.set()
        assert measure(question, group, ended) is None
        return found

    monkeypatch.setattr(ablationshards, "measure", as_elsewhere)
    case = trained[1]
    request = ablation.AblationRequest(
        str(case.broken), Path("rows.jsonl"), against=str(case.last_good), batch_size=2
    )
    alone = ablation.ablate(workspace, request)
    together = ablation.ablate(workspace, replace(request, jobs=2))
    assert_same_effects(alone, together)
    plan = ablation.plan(workspace, replace(request, jobs=2))
    assert plan.workers == 2
    assert "2 here, each with its own model" in as_table(plan)
    assert not ablationshards._IDLE, "what was loaded is let go"


def test_the_race_of_several_is_the_same_however_many(
    workspace: Workspace, trained: tuple[Path, Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A budget that never reaches: everything is ranked, raced and measured until the deadline.
    monkeypatch.setattr(Plan, "fits", property(lambda _: False))
    monkeypatch.setattr("soup_git.evaluation.ablationeffects._RACE_ROWS", 4)
    monkeypatch.setattr("soup_git.evaluation.ablationeffects.WANTED", 1)
    case = trained[1]
    request = ablation.AblationRequest(str(case.broken), Path("rows.jsonl"), batch_size=2)
    two, three = (ablation.ablate(workspace, replace(request, jobs=n)) for n in (2, 3))
    assert_same_effects(two, three)
    assert two.modules[0].name == case.module
    assert {part.status for part in two.modules} > {"exact"}


Refusal = tuple[list[str], str, str]
REFUSALS: dict[str, Refusal] = {
    "a layer that is not there": (
        ["blame", "start", "--dataset", "rows.jsonl", "--layer", "layers.7"],
        "no layer or module matches 'layers.7'", "--layer",
    ),
    "too little for its shards": (
        ["blame", "start", "--dataset", "rows.jsonl", "--budget", "60s"],
        "a shard needs 30 s", "--budget 2m",
    ),
    "a budget out of bounds": (
        ["blame", "start", "--dataset", "rows.jsonl", "--budget", "3s"],
        "out of bounds", "--budget 60s",
    ),
    "another base": (
        ["blame", "start", "--dataset", "rows.jsonl", "--against", "foreign"],
        "foreign is an adapter for elsewhere", "--base",
    ),
    "the same adapter twice": (
        ["blame", "start", "--dataset", "rows.jsonl", "--against", "./start"],
        "are the same adapter", "git soup diff",
    ),
    "rows that do not fit": (
        ["blame", "start", "--dataset", "bad.jsonl"], "bad.jsonl:2: not JSON", "correct or remove",
    ),
    "no rows": (
        ["blame", "start", "--dataset", "gone.jsonl"], "gone.jsonl does not exist", "checkout",
    ),
    "no such score": (
        ["bisect", "start", "./start", "--metric", "support.los", "--drop", "1", "--suite",
         "suite.yaml"],
        "has no score support.los; did you mean", "--metric",
    ),
    "a drop that is none": (
        ["bisect", "start", "./start", "--metric", "support.loss", "--drop", "-1", "--suite",
         "suite.yaml"],
        "is not a number from 0 up", "--drop 0.02",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_before_a_model_is_loaded(
    trained: tuple[Path, Planted], soup: Run, name: str
) -> None:
    root, _ = trained
    if not (root / "foreign").exists():
        write_adapter(root / "foreign", base="elsewhere")
        (root / "bad.jsonl").write_text('{"prompt": "x", "expected": "y"}\n{"prompt"\n')
    words, what, hint = REFUSALS[name]
    done = soup(*words, cwd=root, check=False)
    assert done.returncode == 128, done.stderr
    assert done.stdout == ""
    assert what in done.stderr
    assert done.stderr.startswith("fatal: ")
    assert hint in done.stderr.partition("hint: ")[2]


@pytest.mark.parametrize(
    "words",
    [
        ["blame", "start", "--against", "start"],
        ["blame", "start", "--plan-only"],
        ["blame", "start", "--jobs", "2"],
        ["blame", "start", "--dataset", "e", "--jobs", "2", "--scheduler", "tcp://h:1"],
        ["bisect", "start", "start", "--metric", "a.b"],
        ["bisect", "start", "start", "--eval-command", "x {ckpt}", "--metric", "a.b"],
        ["bisect", "start", "start", "--eval-command", "x {ckpt}", "--then-blame"],
        ["bisect", "start", "start", "--eval-command", "x {ckpt}", "--dataset", "rows.jsonl"],
    ],
)
def test_options_that_do_not_go_together(
    trained: tuple[Path, Planted], soup: Run, words: list[str]
) -> None:
    assert soup(*words, cwd=trained[0], check=False).returncode == 129
