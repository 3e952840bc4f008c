"""`git soup merge --strategy cmaes` with a real model: found, written, verified, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from soup_git.commands import evolve
from soup_git.commands.add import add
from soup_git.commands.evolve import SearchRequest
from soup_git.commands.merge import MergeRequest, merge, rebuild
from soup_git.core.groups import grouping
from soup_git.core.manifest import parse_manifest
from soup_git.errors import ExitCode, FatalError
from soup_git.evaluation import fitness
from soup_git.evaluation.blending import Blend, weighed
from soup_git.render.html import as_html
from soup_git.storage import mergeinputs, merging
from soup_git.storage.updates import open_adapter
from soup_git.storage.workspace import Workspace
from tests.conftest import Run, runner, write_adapter
from tests.training import tiny_model as tiny

pytestmark = [
    pytest.mark.skipif(find_spec("peft") is None, reason="the train extra is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]

SUITE = "tasks:\n  - {name: fit, prompts: rows.jsonl, scoring: loss}\n"
ROWS = [
    {"prompt": f"{n}: {text}", "expected": tiny.SENTENCES[(n + 1) % 5]}
    for n, text in enumerate(tiny.SENTENCES)
]


@pytest.fixture(scope="module")
def template(
    repo_template: Path, tmp_path_factory: pytest.TempPathFactory, git_soup_script: Path
) -> Path:
    root = tmp_path_factory.mktemp("evolved") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    tiny.make_base(root / "base")
    (root / ".gitignore").open("a").write("/base/\n")
    tiny.write_rows(root / "suites" / "rows.jsonl", ROWS)
    (root / "suites" / "fit.yaml").write_text(SUITE)
    git = runner("git", cwd=root)
    for seed, name, rank in ((1, "a", 4), (2, "b", 2)):
        write_adapter(root / name, seed=seed, rank=rank, base="base", scale=0.15)
        add(Workspace.open(root), [root / name])
    git("add", ".")
    git("commit", "-qm", "Two adapters")
    return root


@pytest.fixture
def two(template: Path, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with adapters `a` and `b` of a tiny base, and a suite; the test runs in it."""
    root = in_tmp_path / "repo"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def search(output="out", suite="suites/fit.yaml", seed=None, rank=None, **how):
    how = {"population": 4, "max_generations": 3} | how
    request = MergeRequest(
        ["./a", "./b"], Path(output), strategy="cmaes", suite=Path(suite), seed=seed, rank=rank,
        search=SearchRequest(**how),
    )  # fmt: skip
    return merge(Workspace.open(), request)


def opened(*names):
    workspace = Workspace.open()
    return [mergeinputs.Input(open_adapter(workspace.adapter(f"./{name}")), 1.0) for name in names]


def recipe(rank=None):
    from soup_git.arithmetic.elementwise import Settings
    from soup_git.arithmetic.strategies import STRATEGIES

    return mergeinputs.Recipe("cmaes", STRATEGIES["cmaes"], Settings(1.0, 0), "exact", rank)


def updates(config, tensors):
    """Module -> s·B·A, by PEFT's rule."""
    found = {}
    for name, a in tensors.items():
        if name.endswith("lora_A.weight"):
            b = np.asarray(tensors[name.replace("lora_A", "lora_B")], np.float64)
            found[name] = config["lora_alpha"] / config["r"] * b @ np.asarray(a, np.float64)
    return found


@pytest.mark.parametrize("rank", [None, 3])
def test_a_candidate_in_memory_is_the_merge_that_would_be_written(two, rank):
    from safetensors.numpy import load_file

    inputs = opened("a", "b")
    modules = list(inputs[0].opened.modules)
    groups = grouping("blocks", modules)
    names = groups.present(modules)
    blend = Blend(inputs, recipe(rank), None, groups, names)
    for number, weights in enumerate([((0.7, 0.3), (0.2, 0.8)), ((1.0, 0.0), (0.5, 0.5))]):
        candidate = blend.candidate("x", weights)
        folder = two / f"out{number}"
        folder.mkdir()
        merging.write_merged(folder, weighed(inputs, weights, groups, names), recipe(rank), None)
        wanted = updates(
            json.loads((folder / "adapter_config.json").read_text()),
            load_file(folder / "adapter_model.safetensors"),
        )
        found = updates(candidate.config, candidate.load())
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert np.linalg.norm(found[name] - value) < 1e-5 * np.linalg.norm(value)


def test_a_search_writes_a_merge_that_its_recipe_makes_again(two, git: Run, soup: Run):
    words = ["merge", "./a", "./b", "-o", "out", "--strategy", "cmaes", "--eval"]
    words += ["suites/fit.yaml", "--budget", "5m", "--population", "4", "--max-generations", "3"]
    done = soup(*words, "--per-group", "blocks", "--json")
    report = json.loads(done.stdout)
    found = report["search"]
    assert done.stderr == "", "no line that only a terminal should get"
    assert found["metric"] == "fit.loss"
    assert not found["higher_is_better"]
    assert found["value"] <= min(s["value"] for s in found["starts"])
    assert [s["name"] for s in found["starts"]][2] == "the uniform blend"
    assert len(found["history"][0]["scores"]) == 4
    assert set(found["weights"]) == {"attention", "mlp"}
    assert report["verdict"]["verdict"] in {"OK", "MINOR", "MAJOR", "UNKNOWN"}
    lines = parse_manifest(Path("out/adapter.manifest").read_bytes(), "out").recipe
    kept = json.loads(next(x for x in lines if x.startswith("search ")).removeprefix("search "))
    assert kept["generations"] == len(kept["best"]) == len(found["history"])
    assert "seconds" not in kept, "what a clock says differs each time"
    soup("add", "out")
    git("commit", "-qm", "Merge")
    verified = json.loads(soup("verify", "HEAD", "--adapter", "out", "--json").stdout)
    assert verified["verdict"] == "identical"
    assert not list((two / ".git" / "soup" / "searches").glob("*"))


def test_the_same_seed_finds_the_same_bytes_whatever_the_jobs(two):
    one, again = search("one", seed=3), search("two", seed=3)
    side_by_side = search("three", seed=3, jobs=2)
    assert one.weights_md5 == again.weights_md5 == side_by_side.weights_md5
    assert one.search.history == again.search.history == side_by_side.search.history
    assert search("four", seed=4).search.history != one.search.history
    assert 0 < one.search.model_share < 1


def test_a_killed_search_goes_on(two, monkeypatch, capsys):
    whole = search("whole")
    asked = []
    score = fitness.score

    def killed(question, weights):
        asked.append(weights)
        if len(asked) == 8:
            raise KeyboardInterrupt
        return score(question, weights)

    monkeypatch.setattr(fitness, "score", killed)
    with pytest.raises(KeyboardInterrupt):
        search("rest")
    assert not Path("rest").exists()
    rest = search("rest")
    assert "goes on with 7 evaluations" in capsys.readouterr().err
    assert rest.search.history == whole.search.history
    assert rest.weights_md5 == whole.weights_md5
    assert len(asked) - 1 == rest.search.evaluations


def test_every_evaluation_failing_is_fatal_and_writes_nothing(two):
    judge = "judge: {url: 'http://127.0.0.1:9/v1', model: m, retries: 0, timeout: 1}"
    Path("suites/judged.yaml").write_text(
        "decoding: {max_new_tokens: 2}\n"
        f"tasks:\n  - {{name: fit, prompts: rows.jsonl, scoring: judge, {judge}}}\n"
    )
    before = set(two.iterdir())
    with pytest.raises(FatalError, match=r"every evaluation failed: fit\.judge has no") as caught:
        search(suite="suites/judged.yaml")
    assert caught.value.code == ExitCode.FATAL
    assert set(two.iterdir()) == before


def test_a_merge_that_a_dtype_made_worse_gives_way_to_the_best_start(two, monkeypatch):
    check = fitness.check

    def worse(question, weights, baseline):
        found = check(question, weights, baseline)
        return fitness.Checked(
            found.md5, found.baseline - (weights != baseline), None, found.baseline, None
        )

    monkeypatch.setattr(fitness, "check", worse)
    report = search(population=8, max_generations=6)
    assert report.search.origin == report.search.baseline
    is_start = report.search.weights["all"] in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])
    assert is_start
    if report.search.history[-1].best < report.search.baseline_value:
        assert "which is worse than" in report.notes[0]


def test_the_page_plots_the_history_and_keeps_names_harmless(two):
    report = search()
    page = as_html(report)
    assert page.count("<circle") == sum(len(g.scores) for g in report.search.history)
    assert "<polyline" in page
    assert "<script" not in page


def test_a_rebuild_without_groups_is_the_same_bytes(two):
    report = search("out", rank="3")
    manifest = parse_manifest(Path("out/adapter.manifest").read_bytes(), "out")
    workspace = Workspace.open()
    rebuild(workspace, workspace.at("HEAD"), manifest, two / "again")
    made = parse_manifest(Path("again/adapter.manifest").read_bytes(), "again")
    assert made.weights_md5 == report.weights_md5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--strategy", "cmaes"], "needs a suite"),
        (["--strategy", "cmaes", "--eval", "suites/fit.yaml", "--weights", "1,1"], "finds the weights"),
        (["--population", "8"], "--population is for --strategy cmaes"),
        (["--strategy", "cmaes", "--eval", "suites/fit.yaml", "--param", "cubic"], "--param is 'cubic'"),
        (["--strategy", "cmaes", "--eval", "suites/fit.yaml", "--per-group", "heads"], "--per-group is"),
        (["--strategy", "cmaes", "--eval", "suites/fit.yaml", "--population", "1"], "--population"),
    ],
)  # fmt: skip
def test_usage_errors_are_129(two, soup: Run, arguments, said):
    done = soup("merge", "./a", "./b", "-o", "out", *arguments, check=False)
    assert done.returncode == ExitCode.USAGE
    assert said in done.stderr
    assert not Path("out").exists()


def test_what_cannot_be_searched_is_refused(two):
    with pytest.raises(FatalError, match="out of bounds: 60s to 24h"):
        search(budget="5s")
    with pytest.raises(FatalError, match=r"no score fit\.los"):
        search(metric="fit.los")
    shutil.copytree("a", "same")
    request = MergeRequest(
        ["./a", "./same"], Path("out"), strategy="cmaes", suite=Path("suites/fit.yaml")
    )
    with pytest.raises(FatalError, match="nothing to search for"):
        merge(Workspace.open(), request)
    Path("suites/mixed.yaml").write_text(
        SUITE + "  - {name: words, prompts: rows.jsonl, scoring: exact}\n"
    )
    with pytest.raises(FatalError, match=r"several kinds.*fit\.loss, words\.exact"):
        search(suite="suites/mixed.yaml")


def test_the_state_of_another_question_is_not_taken(two):
    Path(".git/soup/searches").mkdir(parents=True)
    seen: list[Callable[..., None]] = []
    read = evolve._Kept.read

    def damaged(self):
        self._path.write_text('{"key": 1}')
        seen.append(self._path)
        return read(self)

    evolve._Kept.read = damaged
    try:
        report = search()
    finally:
        evolve._Kept.read = read
    assert seen
    assert report.search.evaluations > 3
