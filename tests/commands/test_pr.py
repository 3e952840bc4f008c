"""`git soup pr` in real repositories: what it finds, what it keeps, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from soup_git.commands.pr import PrRequest, pull_request
from soup_git.commands.prpage import show_in_browser, store
from soup_git.core.notes import Baseline, EvalRecord, Gap, Metric
from soup_git.core.pullrequest import PullRequest
from soup_git.core.verification import Verification
from soup_git.errors import FatalError
from soup_git.render.prmarkdown import as_markdown_page
from soup_git.storage.notes import note
from soup_git.storage.workspace import Workspace
from tests.conftest import MakeAdapter, Run

SUITE = """\
tasks:
  - {name: polite, prompts: rows.jsonl, scoring: exact, gate: {exact: {max_drop: 0.02}}}
  - {name: fit, prompts: rows.jsonl, scoring: loss}
"""
WHEN = "2026-05-14T10:00:00+00:00"


@pytest.fixture
def judged(pinned: Path, git: Run) -> Path:
    """On `politer`, which got a suite with a gate on top; nothing is scored yet."""
    git("switch", "-q", "politer")
    (pinned / "evals").mkdir()
    (pinned / "evals" / "gate.yaml").write_text(SUITE)
    (pinned / "evals" / "rows.jsonl").write_text('{"prompt": "a", "expected": "b"}\n')
    git("add", "evals")
    git("commit", "-qm", "Ask whether it is polite")
    return pinned


def asked(**how: object) -> PullRequest:
    """The page of `politer` into `main`."""
    return pull_request(Workspace.open(), replace(PrRequest(head="politer"), **how))


def weights(workspace: Workspace, revision: str) -> str:
    return workspace.at(revision).manifest("adapters/support").weights_md5


def score(exact: float, loss: float, gap: Gap | None = None, **how: object) -> EvalRecord:
    """Note what `politer` scored, against `main` where there is a gap."""
    from soup_git.evaluation.pinnedsuite import suite_at

    workspace = Workspace.open()
    suite = suite_at(workspace, workspace.at("politer"), "evals/gate.yaml")
    assert suite is not None
    metrics = {"polite.exact": Metric(exact, 0.02, 200), "fit.loss": Metric(loss, 0.05, 200)}
    before = {"polite.exact": Metric(0.9, 0.02, 200), "fit.loss": Metric(1.5, 0.05, 200)}
    own = {"polite.exact": gap} if gap else {}
    record = EvalRecord(
        "adapters/support", weights(workspace, "politer"), "evals/gate.yaml", suite.sha256, metrics, WHEN,
        Baseline(weights(workspace, "main"), before, own),
    )  # fmt: skip
    record = replace(record, **how)
    note(workspace, workspace.git.commit("politer"), [record])
    return record


def verified(verdict: str = "identical") -> None:
    workspace = Workspace.open()
    md5, lock = weights(workspace, "politer"), workspace.at("politer").lock
    assert lock is not None
    found = Verification("adapters/support", verdict, md5, md5, WHEN, lock.run)
    note(workspace, workspace.git.commit("politer"), [found])


def test_a_branch_that_nobody_scored_asks_for_a_closer_look(
    pinned: Path, soup: Run, git: Run
) -> None:
    done = soup("pr", "Politer answers", "--head", "politer")
    lines = done.stdout.splitlines()
    assert lines[0] == "## ⚠️ look closer: `adapters/support` was not evaluated"
    assert lines[2] == "`Politer answers` · `politer` into `main` · 2 commits"
    assert "- **lock** ✓ holds" in lines
    assert "<summary>Config: 1 change</summary>" in lines
    assert "| `training.epochs` | – | `2` |" in lines
    assert "<summary>Data: train, 2 → 3 rows: +1 added</summary>" in lines
    assert any(line.startswith('+ {"') and "f, please" in line for line in lines)
    assert "Soup-Config: soup.yaml" in done.stdout
    assert done.stderr.startswith("kept as refs/soup/prs/politer-answers (")
    body = json.loads(soup("pr", "Politer answers", "--head", "politer", "--json").stdout)
    assert body["schema"] == "soup.pr/1"
    assert body["slug"] == "politer-answers"
    assert body["verdict"]["word"] == "look closer"
    assert [a["path"] for a in body["adapters"]] == ["adapters/support"]
    assert body["adapters"][0]["drift"]["changed"] == 4
    assert body["merge_base"] == git("rev-parse", "main").stdout.strip()
    assert body["reproduce"][1] == "git soup checkout"


def test_the_page_is_kept_as_a_ref_with_its_history(pinned: Path, soup: Run, git: Run) -> None:
    ref = "refs/soup/prs/politer"
    first = soup("pr", "--head", "politer").stdout
    tip = git("rev-parse", ref).stdout.strip()
    head = git("rev-parse", "politer").stdout.strip()
    assert git("log", "-1", "--format=%P", ref).stdout.strip() == head
    files = git("ls-tree", "--name-only", ref).stdout.split()
    assert files == ["heatmap.svg", "pr.html", "pr.json", "pr.md"]
    kept = git("show", f"{ref}:pr.md").stdout
    assert "](<heatmap.svg>)" in kept
    assert kept.splitlines()[0] == first.splitlines()[0]
    assert soup("pr", "--head", "politer").stderr == ""
    assert git("rev-parse", ref).stdout.strip() == tip
    git("switch", "-q", "politer")
    git("commit", "-q", "--allow-empty", "-m", "Say it again")
    soup("pr")  # another subject, the same branch: the same page goes on
    parents = git("log", "-1", "--format=%P", ref).stdout.split()
    assert parents == [git("rev-parse", "HEAD").stdout.strip(), tip]
    assert soup("pr", "--no-ref", "--slug", "other").stderr == ""
    assert git("for-each-ref", "refs/soup/prs/other").stdout == ""
    assert "clean" in soup("fsck").stdout
    git("branch", "-q", "-D", "main")
    soup("gc", "--prune", "--older-than", "now")
    git("reflog", "expire", "--expire=now", "--all")
    git("gc", "-q", "--prune=now")
    assert git("show", f"{ref}:pr.md").stdout.startswith("## ")
    assert git("cat-file", "-t", tip).stdout == "commit\n"


def test_the_page_travels_and_goes_on_from_anothers(
    pinned: Path, soup: Run, git: Run, tmp_path: Path
) -> None:
    config = "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    (pinned / ".dvc" / "config").write_text(config)
    git("commit", "-qam", "Keep weights in ../store")
    git("init", "-q", "--bare", "../origin.git")
    git("remote", "add", "origin", "../origin.git")
    soup("pr", "--head", "politer", "--base", "main~1")
    soup("push", "--all")
    git("clone", "-q", "../origin.git", "../theirs")
    theirs = pinned.parent / "theirs"
    soup("init", cwd=theirs)
    git("fetch", "-q", cwd=theirs)
    there = git("rev-parse", "refs/soup-remotes/origin/prs/politer", cwd=theirs).stdout.strip()
    assert git("show", f"{there}:pr.md", cwd=theirs).stdout.startswith("## ")
    done = soup(
        "pr",
        "A title",
        "--slug",
        "politer",
        "--head",
        "origin/politer",
        "--base",
        "HEAD",
        cwd=theirs,
    )
    assert "into `HEAD`" in done.stdout
    parents = git("log", "-1", "--format=%P", "refs/soup/prs/politer", cwd=theirs).stdout.split()
    assert parents[1] == there
    assert "moved  refs/soup/prs/politer" in soup("push", cwd=theirs).stdout


def test_scores_decide(judged: Path) -> None:
    score(0.93, 1.4, Gap(0.03, 0.01, 0.01, 0.05))
    assert asked().verdict.line == "ready: gate passed, lock holds, not rebuilt yet"
    verified()
    page = asked()
    assert page.verdict.line == "ready: gate passed, lock holds, reproduced"
    (found,) = page.adapters[0].scores
    assert (found.baseline, found.gate, found.remarks) == ("main", "passed", [])
    loss, exact = found.metrics
    assert (exact.verdict, exact.delta_stderr, exact.allowed) == ("better", 0.01, "drop up to 0.02")
    # Not paired row by row: the noise of both values.
    assert (loss.verdict, round(loss.delta_stderr or 0, 4)) == ("within noise", 0.0707)
    later = "2026-05-15T10:00:00+00:00"
    score(0.82, 1.2, Gap(-0.08, 0.011, -0.1, -0.06), at=later)
    page = asked()
    assert page.verdict.line == "do not merge: polite.exact −8.0 ± 1.1 points"
    assert page.adapters[0].scores[0].metrics[0].verdict == "better"


def test_a_pull_request_does_not_judge_itself_unseen(judged: Path, git: Run) -> None:
    score(0.85, 1.4, Gap(-0.05, 0.03, -0.11, 0.01))
    assert asked().verdict.line == "ready: gate passed with 1 warning, lock holds, not rebuilt yet"
    git("checkout", "-q", "-b", "trunk", "main")
    git("checkout", "politer", "--", "evals")
    git("commit", "-qm", "Ask that of everybody")
    git("checkout", "-q", "-b", "lenient", "politer")
    git("merge", "-q", "--no-edit", "trunk")
    (judged / "evals" / "gate.yaml").write_text(SUITE.replace("0.02", "0.5"))
    git("commit", "-qam", "Be kind")
    page = asked(head="lenient", base="trunk")
    assert page.verdict.line == "look closer: evals/gate.yaml changed since it was scored"
    page = asked(head="lenient", base="politer")
    assert page.verdict.line == "nothing to judge: no adapter changed"


def test_notes_of_other_weights_or_lines_of_others_count_for_nothing(
    judged: Path, git: Run
) -> None:
    score(0.1, 9.0, weights="9" * 32)
    git("notes", "--ref=soup", "append", "-m", "Reviewed-by: me", "politer")
    assert asked().adapters[0].scores == []
    score(0.93, 1.4, baseline=None)
    page = asked()
    assert (
        page.verdict.line
        == "look closer: evals/gate.yaml allows a drop, and no baseline was scored"
    )
    assert [m.verdict for m in page.adapters[0].scores[0].metrics] == ["missing", "missing"]
    score(0.93, 1.4, baseline=Baseline(None, {"polite.exact": Metric(0.2, 0.02, 200)}))
    assert asked().adapters[0].scores[0].baseline == "the base model alone"


def test_files_take_the_place_of_notes(judged: Path, soup: Run) -> None:
    score(0.1, 9.0, Gap(-0.8, 0.01, -0.9, -0.7))
    deltas = [
        {"metric": "judge_score", "baseline": 7.4, "candidate": 8.2, "higher_is_better": True, "stderr": 0.1},
        {"metric": "retry_rate", "baseline": "12.1%", "candidate": "4.6%"},
        {"metric": "loss", "baseline": 1.0, "candidate": 1.0000001},
        {"metric": "new", "candidate": 3},
    ]  # fmt: skip
    Path("eval_delta.json").write_text(json.dumps(deltas))
    samples = [{"prompt": "p", "baseline_output": "old", "candidate_output": "new"}] * 4
    Path("sample_diffs.json").write_text(json.dumps(samples))
    done = soup(
        "pr", "--eval", "eval_delta.json", "--samples", "sample_diffs.json", "--base", "main"
    )
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "## ⚠️ look closer: `loss` +1e-07, noise unknown,"
        " `retry_rate` −7.5 points, better or worse is not said"
    )
    assert "| `judge_score` | 7.4 | 8.2 | +0.80 ± 0.10 | ✓ better |" in lines
    assert "| `retry_rate` | 12.1 % | 4.6 % | −7.5 points | △ changed |" in lines
    assert "| `loss` | 1 | 1 | +1e-07 | ? worse, noise unknown |" in lines
    assert "| `new` | – | 3 | – | – not compared |" in lines
    assert "4 samples, 0 answered the same" in done.stdout
    html = soup(
        "pr",
        "--samples",
        "sample_diffs.json",
        "--base",
        "main",
        "--format",
        "html",
        "-o",
        "pr.html",
    )
    assert html.stdout == ""
    assert Path("pr.html").read_text().startswith("<!doctype html>")


def test_an_adapter_that_the_base_changed_too_is_not_what_was_scored(
    judged: Path, git: Run, soup: Run, make_adapter: MakeAdapter
) -> None:
    score(0.93, 1.4, Gap(0.03, 0.01, 0.01, 0.05))
    git("branch", "-q", "landed", "politer")
    git("switch", "-q", "main")
    make_adapter("adapters/support", seed=9)
    soup("add", "adapters/support")
    git("commit", "-qm", "Merge another one first")
    line = (
        "look closer: adapters/support was changed in the base too, and nobody scored both together"
    )
    assert asked().verdict.line.startswith(line)
    git("switch", "-q", "-c", "squashed", "main~1")
    git("checkout", "landed", "--", ".")
    git("commit", "-qm", "The same, squashed")
    assert asked(base="squashed").verdict.line.startswith("ready:")


def test_a_name_that_two_pull_requests_share_is_said(pinned: Path, soup: Run, git: Run) -> None:
    said = "there was the page of politer, now in its history; --slug NAME keeps both"
    soup("pr", "Politer!", "--head", "politer")
    git("branch", "-q", "rival", "politer")
    # The same history under another name is the same pull request.
    assert "there was" not in soup("pr", "Politer?", "--head", "rival").stderr
    soup("pr", "Politer!", "--head", "politer")
    git("switch", "-q", "-c", "other", "politer~1")
    git("commit", "-q", "--allow-empty", "-m", "Something else")
    assert said in soup("pr", "Politer?").stderr
    again = soup("pr", "Politer?", "--base", "politer~2").stderr
    assert "there was" not in again


def test_what_is_not_there_is_refused_with_a_way_on(
    pinned: Path, soup: Run, refused, photo
) -> None:
    Path("bad.json").write_text('[{"metric": "m", "baseline": 1, "candidate": NaN}]')
    before = photo()
    refused(
        soup("pr", check=False), 128, "main has all of main already", "git soup pr --head BRANCH"
    )
    bad = soup("pr", "--head", "politer", "--eval", "bad.json", check=False)
    refused(bad, 128, "candidate is NaN")
    for how, why in (
        ({"head": "main~1", "base": "politer"}, "nothing to review"),
        ({"head": "nowhere"}, "'nowhere' names no commit"),
        ({"head": "-x"}, "'-x' names no commit"),
        ({"adapter": "adapters/x"}, "neither main nor politer has an adapter at adapters/x"),
        ({"slug": "../x"}, "valid page name"),
        ({"deltas": Path("no.json")}, "there is no file no.json"),
        ({"samples": Path()}, "there is no file"),
    ):
        with pytest.raises(FatalError, match=why) as caught:
            asked(**how)
        assert caught.value.hint
    assert photo() == before


def test_ends_without_a_common_commit_or_any_base(repo: Path, git: Run) -> None:
    git("checkout", "-q", "--orphan", "alone")
    git("commit", "-qm", "Another start")
    with pytest.raises(FatalError, match="alone and main have no commit in common"):
        pull_request(Workspace.open(), PrRequest())
    git("branch", "-q", "-D", "main")
    with pytest.raises(FatalError, match="no main and no master"):
        pull_request(Workspace.open(), PrRequest())
    git("commit", "-q", "--allow-empty", "-m", "Nothing of ours")
    page = pull_request(Workspace.open(), PrRequest(base="alone~1", title="丁寧"))
    assert page.verdict.line == "nothing to judge: no adapter changed"
    Path("d.json").write_text("[]")
    for name in ("deltas", "samples"):
        with pytest.raises(FatalError, match="alone has no adapter that these files"):
            pull_request(Workspace.open(), PrRequest(base="alone~1", **{name: Path("d.json")}))
    # A title of nothing is none: a script may hand on an empty one.
    empty = pull_request(Workspace.open(), PrRequest(base="alone~1", title=" "))
    assert (empty.title, empty.slug) == ("Nothing of ours", "alone")
    assert store(Workspace.open(), page)


def test_files_make_a_page_where_no_branch_changes_an_adapter(
    repo: Path, soup: Run, git: Run, make_adapter: MakeAdapter
) -> None:
    """The scores of another tool, for the adapter that main has, or for a folder nobody tracks."""
    Path("d.json").write_text('[{"metric": "accuracy", "baseline": "70%", "candidate": "80%"}]')
    files = {"deltas": Path("d.json"), "title": "From files"}
    for spelt in ("kept", "./kept", str(make_adapter("kept"))):
        page = pull_request(Workspace.open(), PrRequest(adapter=spelt, **files))
        assert [(a.path, a.status) for a in page.adapters] == [("kept", "added")]
    soup("add", "kept")
    git("commit", "-qm", "Track it")
    outside = make_adapter(repo.parent / "elsewhere", seed=1)
    for how, path, status in (
        ({}, "kept", "unchanged"),
        ({"adapter": "kept"}, "kept", "unchanged"),
        ({"adapter": str(outside)}, str(outside), "added"),
    ):
        page = pull_request(Workspace.open(), PrRequest(**how, **files))
        assert [(a.path, a.status) for a in page.adapters] == [(path, status)]
        assert page.adapters[0].scores[0].metrics[0].candidate == 80
        assert "`main` · 0 commits" in as_markdown_page(page).splitlines()[2]
        assert store(Workspace.open(), page)
    assert soup("fsck").returncode == 0


def test_adapters_come_go_move_and_change_their_base(
    pinned: Path, soup: Run, git: Run, make_adapter: MakeAdapter
) -> None:
    git("switch", "-q", "-c", "many")
    make_adapter("adapters/new", seed=5)
    make_adapter("adapters/old", seed=6, layers=3)
    soup("add", "adapters/new", "adapters/old")
    git("commit", "-qm", "Two more")
    page = asked(head="many", base="many~1")
    assert [(a.path, a.status, a.drift) for a in page.adapters] == [
        ("adapters/new", "added", None), ("adapters/old", "added", None),
    ]  # fmt: skip
    git("branch", "-q", "two")
    make_adapter("adapters/new", seed=5, base="other/base")
    make_adapter("adapters/support", seed=7, modules={"self_attn.q_proj": (32, 32)})
    soup("add", "adapters/new", "adapters/support")
    git("mv", "adapters/old", "adapters/older")
    soup("add", "adapters/older")
    git("commit", "-qam", "All at once")
    page = asked(head="many", base="two")
    found = {a.path: a for a in page.adapters}
    assert found["adapters/older"].renamed_from == "adapters/old"
    assert found["adapters/older"].status == "renamed"
    assert found["adapters/new"].base_differs
    assert "for models of different shapes" in found["adapters/support"].drift_unknown
    reasons = [reason.text() for reason in page.verdict.reasons]
    assert "adapters/new is for another base model now" in reasons
    done = soup("pr", "--head", "many", "--base", "two")
    assert "| `adapters/older` | renamed |" in done.stdout
    only = asked(head="many", base="two", adapter="adapters/new")
    assert [a.path for a in only.adapters] == ["adapters/new"]
    Path("s.json").write_text("[]")
    with pytest.raises(FatalError, match="which adapter are these files of"):
        asked(head="many", base="two", samples=Path("s.json"))
    git("rm", "-q", "-r", "adapters/support")
    git("commit", "-qm", "Gone")
    page = asked(head="many", base="many~1")
    assert page.verdict.line == "look closer: adapters/support is removed"


def test_a_lock_that_does_not_hold_and_one_that_cannot_be_read(
    pinned: Path, soup: Run, git: Run, make_adapter: MakeAdapter
) -> None:
    git("switch", "-q", "politer")
    with Path("soup.yaml").open("a") as file:
        file.write("# edited\n")
    git("commit", "-qam", "Edit without locking", "--no-verify")
    page = asked()
    assert page.lock.state == "drifted"
    assert "config drifted from soup.lock" in page.verdict.line
    assert "✗ drifted: config" in soup("pr", "--head", "politer", "--base", "main").stdout
    Path("soup.lock").write_text("{")
    git("commit", "-qam", "Break the lock", "--no-verify")
    page = asked()
    assert page.verdict.line.startswith("look closer: lock drifted from soup.lock")
    git("rm", "-q", "soup.lock")
    git("commit", "-qm", "No lock", "--no-verify")
    assert asked().lock.state == "missing"


def test_a_hostile_branch_is_only_a_name(pinned: Path, git: Run) -> None:
    for name in ("x@evil#12", "a`b`", "<img>", "ü|b", "x" * 200):
        git("branch", "-q", name, "politer")
        line = as_markdown_page(asked(head=name)).splitlines()[2]
        shown = f"`` {name} ``" if "`" in name else f"`{name}`" if len(name) < 100 else "xxx…`"
        assert shown in line


def test_open_shows_the_page_in_the_users_browser(
    pinned: Path, soup: Run, tmp_path: Path, monkeypatch, capsys
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{tmp_path}/url"\n')
    browser.chmod(0o755)
    soup("pr", "--head", "politer", "--open", "-o", "pr.md", env={"BROWSER": f"{browser} %s"})
    url = (tmp_path / "url").read_text()
    assert url.endswith(".git/soup/pages/politer.html")
    assert Path(url.removeprefix("file://")).read_text().startswith("<!doctype html>")
    # Where a browser fails, Python tries every other one of the machine.
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    show_in_browser(Workspace.open(), asked())
    assert "no browser could be started; the page is " in capsys.readouterr().err
