"""eval, gate, compare and merge --eval, typed in a real repository with a real model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from soup_git.commands import compare as comparing
from soup_git.commands import eval as evaluating
from soup_git.commands import gate as gating
from soup_git.commands.merge import MergeRequest, merge, rebuild
from soup_git.commands.pr import PrRequest, pull_request
from soup_git.core.baseload import BaseLoad
from soup_git.core.manifest import base_load_fact, parse_manifest
from soup_git.core.notes import latest
from soup_git.errors import FatalError
from soup_git.render.html import as_html
from soup_git.render.report import FORMATS
from soup_git.storage.notes import read_notes
from soup_git.storage.workspace import Workspace
from tests.conftest import Run, write_adapter
from tests.training import tiny_model as tiny

pytestmark = [
    # Found, not imported: the hub client reads the tests' environment when it is.
    pytest.mark.skipif(find_spec("peft") is None, reason="the train extra is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]

SUITE = """\
decoding: {max_new_tokens: 6}
tasks:
  - {name: fit, prompts: prompts.jsonl, scoring: loss}
  - {name: words, prompts: prompts.jsonl, scoring: overlap}
"""
ROWS = [
    {"prompt": f"{n}: {text}", "expected": tiny.SENTENCES[(n + 1) % 5], "category": f"c{n % 2}"}
    for n, text in enumerate(tiny.SENTENCES)
]


@pytest.fixture(scope="module")
def template(
    repo_template: Path, tmp_path_factory: pytest.TempPathFactory, git_soup_script: Path
) -> Path:
    root = tmp_path_factory.mktemp("judged") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    tiny.make_base(root / "base")
    ignored = (root / ".gitignore").read_text() + "/base/\n"
    (root / ".gitignore").write_text(ignored)
    tiny.write_rows(root / "eval" / "prompts.jsonl", ROWS)
    (root / "eval" / "suite.yaml").write_text(SUITE)
    from tests.conftest import runner

    git, soup = runner("git", cwd=root), runner("git", "soup", cwd=root)
    for seed, message in ((1, "first"), (2, "second")):
        write_adapter(root / "adapters" / "chat", seed=seed, rank=4, base="base", scale=0.2)
        soup("add", "adapters/chat")
        git("add", ".")
        git("commit", "-qm", message)
    return root


@pytest.fixture
def judged(template: Path, in_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits, each with another adapter of the tiny base; a suite; the test runs in it."""
    root = in_tmp_path / "repo"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


def request(*specs: str, **how: object) -> evaluating.EvalRequest:
    return evaluating.EvalRequest(specs, Path("eval/suite.yaml"), **how)  # type: ignore[arg-type]


def test_eval_as_it_is_typed(judged: Path, soup: Run, git: Run) -> None:
    done = soup(
        "eval", "HEAD~1", "HEAD", "--suite", "eval/suite.yaml", "--baseline", "base", cwd=judged
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "suite suite   base base   rows 5"
    assert lines[1].split() == ["score", "base", "HEAD~1", "Δ", "95%", "HEAD", "Δ", "95%"]
    assert [line.split()[0] for line in lines[2:5]] == [
        "fit.loss",
        "fit.perplexity",
        "words.overlap",
    ]
    assert "noted on" in done.stderr
    note = json.loads(git("notes", "--ref=soup", "show", "HEAD", cwd=judged).stdout)
    assert note["suite"] == "eval/suite.yaml"
    assert note["baseline"]["weights"] is None
    assert set(note["baseline"]["differences"]) == set(note["metrics"])
    assert set(note["baseline"]["differences"]["fit.loss"]) == {"value", "stderr", "low", "high"}
    again = soup(
        "eval", "HEAD~1", "HEAD", "--suite", "eval/suite.yaml", "--baseline", "base", cwd=judged
    )
    assert again.stdout == done.stdout
    assert again.stderr == ""  # nothing new to note


def test_a_pull_request_shows_what_was_answered_when_it_was_scored(judged: Path) -> None:
    workspace = Workspace.open()
    evaluating.evaluate(workspace, request("HEAD", baseline="HEAD~1"))
    (change,) = pull_request(workspace, PrRequest(base="HEAD~1")).adapters
    assert [sample.prompt for sample in change.samples] == [row["prompt"] for row in ROWS]
    assert any(not sample.same for sample in change.samples)
    (scores,) = change.scores
    assert scores.baseline == "HEAD~1"
    assert {metric.name: metric.higher_is_better for metric in scores.metrics} == {
        "fit.loss": False, "fit.perplexity": False, "words.overlap": True,
    }  # fmt: skip


def test_metrics_hold_no_clock_and_categories_are_told(judged: Path) -> None:
    workspace = Workspace.open()
    here = str(judged / "adapters" / "chat")
    report = evaluating.evaluate(workspace, request(here, metrics=Path("eval/metrics.json")))
    body = json.loads(Path("eval/metrics.json").read_text())
    assert sorted(body) == ["fit", "words"]
    assert sorted(body["words"]) == ["overlap", "overlap_n", "overlap_stderr"]
    assert set(report.adapters[0].scores[0].categories or {}) == {"c0", "c1"}
    head = workspace.git.commit("HEAD")
    (record,) = read_notes(workspace.git, [head])[head]  # its files are HEAD's
    assert record.adapter == "adapters/chat"
    for form in FORMATS.values():
        assert form(report) == form(report)


def test_a_changed_file_and_another_base_are_refused_before_anything_loads(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from soup_git.training import model

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(model, "load_weights", never)
    workspace = Workspace.open()
    other = write_adapter(judged / "other", seed=3, base="org/else")
    with pytest.raises(FatalError, match="is an adapter for org/else, not for base"):
        evaluating.evaluate(workspace, request("HEAD", str(other)))
    bigger = {"self_attn.q_proj": (96, 64)}
    misfit = write_adapter(judged / "misfit", seed=3, base="base", modules=bigger)
    with pytest.raises(FatalError, match=r"q_proj is 64x64 there, and its factor 8x96"):
        evaluating.evaluate(workspace, request(str(misfit)))
    with pytest.raises(FatalError, match="does not exist"):
        evaluating.evaluate(workspace, evaluating.EvalRequest(["HEAD"], Path("none.yaml")))
    gone = write_adapter(judged / "gone", seed=3, base="missing/base/here")
    with pytest.raises(FatalError, match="is not a folder"):
        evaluating.evaluate(workspace, request(str(gone)))


def test_an_adapter_with_another_head_is_refused_before_its_baseline_is_scored(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = judged / "adapters" / "chat" / "adapter_config.json"
    path.write_text(path.read_text().replace("CAUSAL_LM", "FEATURE_EXTRACTION"))
    (judged / "base").rename(judged / "away")  # whoever loads it fails otherwise
    here = str(judged / "adapters" / "chat")
    with pytest.raises(FatalError, match="adapter for FEATURE_EXTRACTION; suites ask causal"):
        evaluating.evaluate(Workspace.open(), request(here, baseline="base"))


def test_every_evaluation_failing_writes_nothing(judged: Path, git: Run) -> None:
    Path("eval/suite.yaml").write_text(
        "decoding: {max_new_tokens: 2}\n"
        "tasks:\n  - name: graded\n    prompts: prompts.jsonl\n    scoring: judge\n"
        "    judge: {url: 'http://127.0.0.1:9/v1', model: m, retries: 0}\n"
    )
    notes = git("for-each-ref", "refs/notes", cwd=judged).stdout
    why = "every evaluation failed: the judge was not reached"
    with pytest.raises(FatalError, match=why) as found:
        evaluating.evaluate(Workspace.open(), request("HEAD", metrics=Path("m.json")))
    assert found.value.code == 128
    with pytest.raises(FatalError, match=why):
        gating.gate(Workspace.open(), request("HEAD", baseline="base"))
    assert not Path("m.json").exists()
    assert not list(Path(".git/soup/scores").rglob("*.json"))
    assert git("for-each-ref", "refs/notes", cwd=judged).stdout == notes


def test_gates_pass_warn_and_fail(judged: Path, soup: Run) -> None:
    workspace = Workspace.open()
    against = request("HEAD", baseline="HEAD")
    report, code = gating.gate(workspace, against)
    assert (report.verdict, code) == ("passed", 0)
    with pytest.raises(FatalError, match="nothing can fail"):
        gating.gate(workspace, request("HEAD"))
    gated = "scoring: overlap, gate: {overlap: {min: 0.99}}}"
    Path("eval/suite.yaml").write_text(SUITE.replace("scoring: overlap}", gated))
    done = soup("gate", "--suite", "eval/suite.yaml", check=False, cwd=judged)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("gate failed: adapters/chat, suite suite\n")
    assert "words.overlap" in done.stdout and "at least 0.99" in done.stdout


def test_compare_shows_both_and_nothing_active(judged: Path) -> None:
    lines = ["1: <script>alert(1)</script> | [x](y) ```", "2: \x1b[31mred\x1b[0m \u202eabc"]
    Path("p.txt").write_text("\n".join(lines) + "\n")
    report = comparing.compare(
        Workspace.open(), comparing.CompareRequest("HEAD", "base", Path("p.txt"), max_new_tokens=4)
    )
    assert [s.prompt for s in report.samples] == lines
    assert all(s.baseline_output != s.candidate_output or s.same for s in report.samples)
    page = as_html(report)
    assert "<script" not in page and "&lt;script&gt;" in page
    for form in ("table", "markdown", "html"):
        assert "\x1b" not in FORMATS[form](report) and "\u202e" not in FORMATS[form](report)
    markdown = FORMATS["markdown"](report)
    assert "&#124;" in markdown and "<script" not in markdown
    with pytest.raises(FatalError, match="is no file of prompts"):
        comparing.read_prompts(Path("none.jsonl"))


def test_a_merge_gets_a_verdict_that_does_not_move_its_weights(judged: Path) -> None:
    workspace = Workspace.open()
    plain = merge(workspace, MergeRequest(["HEAD~1", "HEAD"], Path("plain")))
    told = merge(
        workspace, MergeRequest(["HEAD~1", "HEAD"], Path("told"), suite=Path("eval/suite.yaml"))
    )
    assert plain.verdict is None
    assert told.verdict is not None
    assert told.verdict.verdict in {"OK", "MINOR", "MAJOR", "UNKNOWN"}
    assert [score.name for score in told.verdict.scores] == ["fit.loss", "words.overlap"]
    assert told.weights_md5 == plain.weights_md5
    manifest = Path("told/adapter.manifest").read_text()
    assert f"recipe verdict {told.verdict.verdict} " in manifest
    assert f"verdict {told.verdict.verdict} on suite suite" in FORMATS["table"](told)
    again = Path("again")
    rebuild(workspace, workspace.at("HEAD"), parse_manifest(manifest.encode(), "told"), again)
    told_bytes = Path("told/adapter_model.safetensors").read_bytes()
    assert (again / "adapter_model.safetensors").read_bytes() == told_bytes
    Path("base/config.json").unlink()
    blind = merge(
        workspace, MergeRequest(["HEAD~1", "HEAD"], Path("blind"), suite=Path("eval/suite.yaml"))
    )
    assert blind.verdict is not None
    assert blind.verdict.verdict == "UNKNOWN" and "base" in blind.verdict.why
    with pytest.raises(FatalError, match="does not exist"):
        merge(workspace, MergeRequest(["HEAD"], Path("x"), suite=Path("nope.yaml")))
    assert not Path("x").exists()


def trained_on(root: Path, load: BaseLoad) -> None:
    """Write into the manifest of the work tree's adapter how its base was loaded."""
    file = root / "adapters" / "chat" / "adapter.manifest"
    before = parse_manifest(file.read_bytes(), "adapter.manifest")
    at = [key for key, _ in before.header].index("module")
    header = (*before.header[:at], *base_load_fact(load), *before.header[at:])
    file.write_text(replace(before, header=header).text())


@pytest.fixture
def few_bits(judged: Path, soup: Run, git: Run) -> Path:
    """HEAD's adapter was trained on a base in 4 bits, HEAD~1's on the base as it is."""
    pytest.importorskip("bitsandbytes")
    trained_on(judged, BaseLoad(quantization="4bit"))
    soup("add", "adapters/chat", cwd=judged)
    git("commit", "-qam", "third", cwd=judged)
    assert '\nbase_load {"quantization":"4bit"}\n' in (
        git("show", "HEAD:adapters/chat/adapter.manifest", cwd=judged).stdout
    )
    soup("fsck", cwd=judged)
    return judged


def test_adapters_are_scored_on_their_own_bases_and_it_is_said(
    few_bits: Path, soup: Run, git: Run
) -> None:
    ask = ("eval", "HEAD", "--suite", "eval/suite.yaml", "--baseline")
    done = soup(*ask, "HEAD~1", cwd=few_bits)
    assert done.stdout.startswith("suite suite   base base   rows 5\n")
    assert "HEAD: on the base (as trained: 4bit)\n" in done.stdout
    assert "HEAD~1: on the base as it is\n" in done.stdout
    own = json.loads(git("notes", "--ref=soup", "show", "HEAD", cwd=few_bits).stdout)
    assert own["base_as"] == "trained"
    bare = soup(*ask, "base", cwd=few_bits)
    assert bare.stdout.startswith("suite suite   base base (as trained: 4bit)   rows 5\n")
    full = soup(*ask, "HEAD~1", "--base-as", "full", cwd=few_bits)
    assert full.stdout.startswith("suite suite   base base (full)   rows 5\n")
    # The weights are those of HEAD~1: on one base they are equal, on two they are not.
    gaps = [json.loads(soup(*ask, "HEAD~1", "--json", "--base-as", how, cwd=few_bits).stdout)
            ["adapters"][0]["scores"][0]["difference"] for how in ("trained", "full", "4bit")]  # fmt: skip
    assert gaps[0] != 0.0 and gaps[1:] == [0.0, 0.0]
    records = read_notes(Workspace.open().git, [Workspace.open().git.commit("HEAD")])
    newest = latest(record for each in records.values() for record in each)
    assert newest is not None and newest.base_as == "trained"
    gate = soup("gate", "HEAD", "--suite", "eval/suite.yaml", "--baseline", "HEAD", cwd=few_bits)
    assert gate.stdout.splitlines()[0].endswith("base base (as trained: 4bit)")
    said = soup("compare", "HEAD~1", "HEAD", "--prompts", "eval/prompts.jsonl", cwd=few_bits).stdout
    assert "(HEAD~1: as it is, HEAD: (as trained: 4bit))" in said.splitlines()[0]


def test_what_shares_a_base_is_refused_by_name_or_chosen(few_bits: Path, soup: Run) -> None:
    for words in (
        ("merge", "HEAD~2", "HEAD", "-o", "both", "--eval", "eval/suite.yaml"),
        ("merge", "HEAD~2", "HEAD", "-o", "both", "--strategy", "cmaes", "--eval", "eval/suite.yaml"),
        ("blame", "HEAD", "--dataset", "eval/prompts.jsonl", "--against", "HEAD~2", "--budget", "2m"),
    ):  # fmt: skip
        refused = soup(*words, cwd=few_bits, check=False)
        said = refused.stderr
        assert refused.returncode == 128, said
        assert "4bit" in said and "HEAD~2 on the base as it is" in said
        assert "hint: --base-as full, 4bit or 8bit" in said
    assert not (few_bits / "both").exists()
    words = ("merge", "HEAD~2", "HEAD", "-o", "both", "--eval", "eval/suite.yaml")
    done = soup(*words, "--base-as", "4bit", cwd=few_bits)
    assert "verdict" in done.stdout
    assert "loaded in several ways (HEAD: 4bit; HEAD~2: the base as it is)" in (
        done.stdout + done.stderr
    )
    assert "base_load" not in (few_bits / "both" / "adapter.manifest").read_text()
    soup("merge", "HEAD", "-o", "one", cwd=few_bits)
    assert (
        '\nbase_load {"quantization":"4bit"}\n'
        in (few_bits / "one" / "adapter.manifest").read_text()
    )


def test_weights_that_were_replaced_are_of_no_known_base(few_bits: Path, soup: Run) -> None:
    write_adapter(few_bits / "adapters" / "chat", seed=9, rank=4, base="base", scale=0.2)
    soup("add", "adapters/chat", cwd=few_bits)
    assert "base_load" not in (few_bits / "adapters" / "chat" / "adapter.manifest").read_text()
