"""Two people, a bare remote and a DVC remote: `git soup push` and `pull`, and the pre-push hook."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from soup_git.core.notes import EvalRecord, Metric
from soup_git.storage.notes import append_notes, read_notes
from soup_git.storage.runs import RunRecorder
from soup_git.storage.workspace import Workspace

WEIGHTS = "adapters/support/adapter_model.safetensors"
ZERO = "0" * 40


@pytest.fixture(scope="module")
def _shared_template(_pinned_template, tmp_path_factory) -> Path:
    """A folder with `repo` (ours), `origin.git` and `store`, nothing pushed yet."""
    place = tmp_path_factory.mktemp("shared")
    shutil.copytree(_pinned_template, place / "repo", symlinks=True)
    config = "[core]\n    remote = store\n['remote \"store\"']\n    url = ../../store\n"
    (place / "repo" / ".dvc" / "config").write_text(config)
    (place / "store").mkdir()

    def run(*words: str) -> None:
        subprocess.run(words, cwd=place / "repo", check=True, capture_output=True)

    run("git", "commit", "-qam", "Keep weights in ../store")
    run("git", "init", "-q", "--bare", str(place / "origin.git"))
    run("git", "remote", "add", "origin", "../origin.git")
    return place


@pytest.fixture
def ours(_shared_template, in_tmp_path, git, monkeypatch) -> Path:
    """Our clone, on `main`; the test runs in it."""
    place = in_tmp_path / "shared"
    shutil.copytree(_shared_template, place, symlinks=True)
    monkeypatch.chdir(place / "repo")
    git("update-index", "-q", "--refresh")
    return place / "repo"


@pytest.fixture
def theirs(ours, git, soup) -> Callable[[], Path]:
    """`theirs()`: another person's clone beside ours, after `git soup init`."""

    def clone() -> Path:
        root = ours.parent / "theirs"
        git("clone", "-q", "origin.git", "theirs", cwd=ours.parent)
        soup("init", cwd=root)
        return root

    return clone


def store(ours: Path) -> set[str]:
    return {p.parent.name + p.name for p in (ours.parent / "store").rglob("*") if p.is_file()}


def record(value: float, at: str = "2026-05-14T10:00:00+00:00") -> EvalRecord:
    metrics = {"judge.score": Metric(value, 0.2, 50)}
    return EvalRecord("adapters/support", "a" * 32, "evals/gate.yaml", "b" * 64, metrics, at)


def train(root: Path, make_adapter, seed: int, steps: int = 1) -> str:
    """Record checkpoints as a training does; the run's id."""
    workspace = Workspace.open(root)
    folder = make_adapter(root.parent / f"checkpoint{seed}", seed=seed)
    recorder = RunRecorder(workspace, "adapters/support", root.parent / f"state{seed}", {})
    (root.parent / f"state{seed}").mkdir()
    for step in range(1, steps + 1):
        recorder.record(step, folder, 1.0 / step, 1e-4)
    workspace.git.close()
    return str(recorder.run)


# -- push ---------------------------------------------------------------------------------------


def test_everything_travels(ours, theirs, git, soup, make_adapter):
    run = train(ours, make_adapter, 50, steps=2)
    here = Workspace.open(ours)
    append_notes(here.git, {here.git.commit("HEAD"): [record(7.4).line()]})
    report = json.loads(soup("push", "--all", "--json").stdout)
    assert report["schema"] == "soup.push/1"
    states = {ref["ref"]: ref["state"] for ref in report["refs"]}
    assert states == dict.fromkeys(
        ["refs/heads/main", "refs/heads/politer", f"refs/soup/runs/{run}", "refs/notes/soup"], "new"
    )
    assert report["objects_sent"] == 5, "two datasets, two adapters, one checkpoint"
    assert len(store(ours)) == 5
    there = theirs()
    assert not (there / WEIGHTS).exists()
    pulled = json.loads(soup("pull", "--json", cwd=there).stdout)
    assert pulled["refs"] == [{"ref": f"refs/soup/runs/{run}", "state": "new", "why": ""}]
    assert (there / WEIGHTS).read_bytes() == (ours / WEIGHTS).read_bytes()
    assert "judge.score 7.4" in soup("branches", cwd=there).stdout
    assert git("status", "--porcelain", cwd=there).stdout == ""
    soup("checkout", "politer", cwd=there)
    soup("checkout", "main", cwd=there)
    assert soup("fsck", cwd=there).returncode == 0
    again = json.loads(soup("push", "--all", "--json").stdout)
    assert {ref["state"] for ref in again["refs"]} == {"up to date"}
    assert again["objects_sent"] == 0


def test_a_checkpoint_of_somebody_else_can_be_used(ours, theirs, soup, make_adapter):
    run = train(ours, make_adapter, 51)
    soup("push")
    there = theirs()
    done = soup("pull", "--all", "--json", cwd=there)
    assert json.loads(done.stdout)["objects_fetched"] == 3
    soup("show", f"run/{run}@1", cwd=there)
    soup("diff", f"run/{run}", "main", cwd=there)


def test_no_dvc_remote_is_an_error_with_the_command(ours, soup, git, photo, refused):
    Path(".dvc/config").write_text("")
    git("commit", "-qam", "Forget the store")
    before = photo()
    refused(soup("push", check=False), 128, "no DVC remote", "dvc remote add -d")
    assert photo() == before
    assert git("ls-remote", "origin").stdout == ""


def test_no_remote_two_remotes_an_unknown_one(ours, soup, git, refused):
    refused(soup("push", "nobody", check=False), 128, "nobody", "git remote add")
    git("remote", "remove", "origin")
    refused(soup("push", check=False), 128, "no remote", "git remote add origin")
    git("remote", "add", "a", "../origin.git")
    git("remote", "add", "b", "../origin.git")
    refused(soup("push", check=False), 128, "2 remotes", "git soup push a")
    git("config", "remote.pushDefault", "b")
    assert "pushed to b" in soup("push").stdout


def test_an_object_that_is_gone_stops_the_push(ours, soup, git, photo, refused, object_at):
    object_at(ours, WEIGHTS).unlink()
    before = photo()
    refused(soup("push", check=False), 128, "neither here nor in the DVC remote", "adapter")
    assert photo() == before
    assert git("ls-remote", "origin").stdout == ""


def test_a_damaged_object_is_not_published(ours, soup, git, refused, object_at):
    from tests.two_branches import flip

    flip(object_at(ours, WEIGHTS))
    refused(soup("push", check=False), 128, "other bytes", "git soup fsck")
    assert git("ls-remote", "origin").stdout == ""
    assert store(ours) == set()


@pytest.fixture
def object_at() -> Callable[[Path, str], Path]:
    def find(root: Path, path: str) -> Path:
        md5 = hashlib.md5((root / path).read_bytes()).hexdigest()
        return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    return find


def test_recheck_finds_what_the_dvc_remote_lost(ours, soup):
    soup("push")
    for path in (ours.parent / "store").rglob("*"):
        if path.is_file():
            path.unlink()
    assert json.loads(soup("push", "--json").stdout)["objects_sent"] == 0
    assert json.loads(soup("push", "--recheck", "--json").stdout)["objects_sent"] == 2
    assert len(store(ours)) == 2


def test_what_dvc_would_not_push_stays(ours, soup, git):
    pointer = Path("data/train.jsonl.dvc")
    pointer.write_text(pointer.read_text() + "  push: false\n")
    git("commit", "-qam", "Keep the data to ourselves", "--no-verify")
    git("checkout", "-q", "--orphan", "fresh")
    git("commit", "-qm", "A history without the pointer as it was", "--no-verify")
    assert json.loads(soup("push", "--json").stdout)["objects_sent"] == 1
    assert len(store(ours)) == 1


def test_real_dvc_agrees(ours, theirs, soup, git, dvc):
    soup("push")
    assert dvc("push").stdout.strip().endswith("Everything is up to date.")
    git("clone", "-q", "origin.git", "plain", cwd=ours.parent)
    plain = ours.parent / "plain"
    assert (plain / "adapters/support/adapter.manifest").read_text().startswith("soup-manifest 1\n")
    dvc("pull", cwd=plain)
    assert (plain / WEIGHTS).read_bytes() == (ours / WEIGHTS).read_bytes()
    assert json.loads(dvc("status", "--json", cwd=plain).stdout) == {}


# -- two people ---------------------------------------------------------------------------------


def test_two_people_note_at_the_same_time(ours, theirs, soup, git):
    soup("push")
    there = theirs()
    for root, value in ((ours, 1.0), (there, 2.0)):
        repo = Workspace.open(root).git
        append_notes(repo, {repo.commit("HEAD"): [record(value).line()]})
        repo.close()
    soup("push")
    git("push", "-q", "origin", "refs/notes/soup", cwd=there, check=False)
    soup("push", cwd=there)
    soup("pull")
    for root in (ours, there):
        repo = Workspace.open(root).git
        head = repo.commit("HEAD")
        assert read_notes(repo, [head])[head] == [record(1.0), record(2.0)]
        repo.close()


def test_a_branch_that_moved_on_is_said(ours, theirs, soup, git, refused, photo):
    soup("push")
    there = theirs()
    git("commit", "-q", "--allow-empty", "-m", "Theirs", cwd=there)
    soup("push", cwd=there)
    git("commit", "-q", "--allow-empty", "-m", "Ours")
    refused(soup("push", check=False), 128, "main has commits there", "git soup pull origin")
    refused(soup("pull", check=False), 128, "both moved on", "git merge origin/main")
    git("config", "pull.rebase", "false")
    assert json.loads(soup("pull", "--json").stdout)["how"] == "merged"
    soup("push")
    git("commit", "-q", "--allow-empty", "-m", "More", cwd=there)
    git("config", "pull.rebase", "true", cwd=there)
    assert json.loads(soup("pull", "--json", cwd=there).stdout)["how"] == "rebased"


def test_a_pull_brings_new_weights(ours, theirs, soup, git, make_adapter):
    soup("push")
    there = theirs()
    soup("pull", cwd=there)
    make_adapter("adapters/support", seed=60)
    make_adapter("adapters/legal", seed=61)
    soup("add", "adapters/support", "adapters/legal")
    soup("lock", "write")
    git("commit", "-qam", "Retrain")
    soup("push")
    done = soup("pull", cwd=there)
    assert "fast-forwarded" in done.stdout
    for name in ("support", "legal"):
        file = f"adapters/{name}/adapter_model.safetensors"
        assert (there / file).read_bytes() == (ours / file).read_bytes()
    assert "up to date" in soup("pull", cwd=there).stdout


def test_a_pull_keeps_local_changes(ours, theirs, soup, make_adapter):
    soup("push")
    there = theirs()
    soup("pull", cwd=there)
    make_adapter(there / "adapters/support", seed=62)
    mine = (there / WEIGHTS).read_bytes()
    done = soup("pull", cwd=there)
    assert "changes of yours" in done.stderr
    assert (there / WEIGHTS).read_bytes() == mine


def test_head_does_not_move_to_what_nobody_has(ours, theirs, soup, git, make_adapter, photo, refused):  # fmt: skip
    soup("push")
    there = theirs()
    soup("pull", cwd=there)
    make_adapter("adapters/support", seed=63)
    soup("add", "adapters/support")
    soup("lock", "write")
    git("commit", "-qam", "Retrain")
    git("push", "-q", "--no-verify", "origin", "main")
    head = git("rev-parse", "HEAD", cwd=there).stdout
    refused(soup("pull", check=False, cwd=there), 128, "HEAD was not moved", "git soup push")
    assert git("rev-parse", "HEAD", cwd=there).stdout == head


def test_runs_of_the_same_name_are_both_kept(ours, theirs, soup, git, make_adapter):
    soup("push")
    there = theirs()
    run = train(ours, make_adapter, 70)
    assert train(there, make_adapter, 71) == run
    soup("push")
    done = soup("push", cwd=there, check=False)
    assert done.returncode == 1
    assert f"refs/soup/runs/{run} is another one" in done.stderr
    before = git("rev-parse", f"refs/soup/runs/{run}", cwd=there).stdout
    assert soup("pull", cwd=there, check=False).returncode == 1
    assert git("rev-parse", f"refs/soup/runs/{run}", cwd=there).stdout == before
    hint = done.stderr.partition("hint: ")[2].split(", then")[0]
    subprocess.run(hint, shell=True, cwd=there, check=True)
    soup("pull", cwd=there)
    soup("push", cwd=there)
    soup("pull")
    names = git("for-each-ref", "--format=%(refname)", "refs/soup/runs").stdout.split()
    assert names == [f"refs/soup/runs/{run}", f"refs/soup/runs/{run}-mine"]


def test_a_run_gets_a_name_that_no_remote_has(ours, theirs, soup, git, make_adapter):
    run = train(ours, make_adapter, 72)
    soup("push")
    there = theirs()
    git("fetch", "-q", cwd=there)
    assert train(there, make_adapter, 73) != run


def test_the_first_lock_wins(ours, theirs, soup, git):
    soup("push")
    there = theirs()
    lock = f"refs/soup/locks/{'a' * 64}"
    git("update-ref", lock, "main")
    git("update-ref", lock, "HEAD~1", cwd=there)
    soup("push")
    first = git("rev-parse", "main").stdout.strip()
    done = soup("push", cwd=there, check=False)
    assert done.returncode == 1
    assert first in git("ls-remote", "origin", lock).stdout
    soup("pull", cwd=there)
    assert git("rev-parse", lock, cwd=there).stdout.strip() == first
    git("update-ref", lock, "HEAD~1", cwd=ours.parent / "origin.git")
    done = soup("pull", cwd=there, check=False)
    assert done.returncode == 1
    assert git("rev-parse", lock, cwd=there).stdout.strip() == first, "one that was fetched stays"


def test_a_running_training_is_fast_forwarded(ours, theirs, soup, git, make_adapter):
    run = train(ours, make_adapter, 74)
    soup("push")
    there = theirs()
    soup("pull", cwd=there)
    ref = f"refs/soup/runs/{run}"
    tree = git("rev-parse", f"{ref}^{{tree}}").stdout.strip()
    git("update-ref", ref, git("commit-tree", tree, "-p", ref, "-m", "step 2: x\n\nSoup-Step: 2").stdout.strip())  # fmt: skip
    assert "moved" in soup("push").stdout
    done = soup("push", "--json", cwd=there)
    assert {r["ref"]: r["state"] for r in json.loads(done.stdout)["refs"]}[ref] == "behind"
    soup("pull", cwd=there)
    assert git("rev-parse", ref).stdout == git("rev-parse", ref, cwd=there).stdout


def test_a_remote_that_was_added_after_init(ours, soup, git):
    git("clone", "-q", "--bare", ".", "../second.git")
    git("remote", "add", "second", "../second.git")
    git("update-ref", "refs/soup/runs/x", "HEAD", cwd=ours.parent / "second.git")
    soup("pull", "second")
    assert git("rev-parse", "refs/soup/runs/x").stdout == git("rev-parse", "HEAD").stdout
    git("update-ref", "refs/soup/runs/y", "HEAD")
    soup("push", "second")
    assert "refs/soup/runs/y" in git("ls-remote", "second").stdout
    assert git("config", "remote.second.push", check=False).stdout == ""


def test_hostile_names_stay_where_they_are(ours, soup, git):
    soup("push")
    origin = ours.parent / "origin.git"
    bad = ["runs/-x", "runs/$(touch${IFS}x)", "runs/\u202eevil", "only", "runs/" + "a" * 200, "a/b/c/d/e"]  # fmt: skip
    for name in bad:
        git("update-ref", f"refs/soup/{name}", "main", cwd=origin)
    blob = git("hash-object", "-w", "--stdin", cwd=origin, stdin="x").stdout.strip()
    git("update-ref", "refs/soup/runs/blob", blob, cwd=origin)
    git("update-ref", "refs/soup/runs/fine", "main", cwd=origin)
    git("update-ref", "refs/soup/runs/mine/deep", "main", cwd=origin)
    git("update-ref", "refs/soup/runs/mine", "main")
    done = soup("pull")
    names = git("for-each-ref", "--format=%(refname)", "refs/soup").stdout.split()
    assert names == ["refs/soup/runs/fine", "refs/soup/runs/mine"]
    assert done.stderr.count("was left there") == len(bad) + 2
    assert "\u202e" not in done.stderr + done.stdout
    assert not Path("x").exists()
    soup("fsck")


# -- the hook -----------------------------------------------------------------------------------


def test_plain_git_push_is_refused_until_the_weights_are_there(ours, soup, git, dvc):
    done = git("push", "origin", "main", check=False)
    assert done.returncode != 0
    assert "lacks 2 objects" in done.stderr
    assert "hint: git soup push" in done.stderr
    assert git("ls-remote", "origin").stdout == ""
    dvc("push")
    git("push", "-q", "origin", "main")
    done = git("push", "origin", "politer", check=False)
    assert "lacks 2 objects" in done.stderr
    git("push", "-q", "--no-verify", "origin", "politer")


def test_the_hook_says_nothing_of_commits_that_name_nothing_new(ours, soup, git):
    soup("push")
    Path("README.md").write_text("more\n")
    git("commit", "-qam", "Words alone")
    shutil.rmtree(ours.parent / "store")
    git("push", "-q", "origin", "main")


def test_without_a_dvc_remote_the_hook_tells_how_to_get_one(ours, git):
    Path(".dvc/config").write_text("")
    done = git("push", "origin", "main", check=False)
    assert done.returncode != 0
    assert "dvc remote add -d NAME URL" in done.stderr
    git("push", "-q", "--no-verify", "origin", "main")


def test_a_foreign_hook_is_told_the_same(ours, soup, git):
    hook = Path(".git/hooks/pre-push")
    hook.write_text('#!/bin/sh\necho "$1" > .git/heard; cat >> .git/heard\n')
    assert "pre-push chained before yours" in soup("init").stdout
    soup("push")
    assert Path(".git/heard").read_text().endswith(f" refs/heads/main {ZERO}\n")
    Path(".git/heard").unlink()
    git("branch", "other", "main")
    git("push", "-q", "origin", "other")
    head = git("rev-parse", "other").stdout.strip()
    assert Path(".git/heard").read_text() == f"origin\nrefs/heads/other {head} refs/heads/other {ZERO}\n"  # fmt: skip
    Path(".git/hooks/pre-push.before-soup").write_text("#!/bin/sh\nexit 9\n")
    assert git("push", "origin", "other:again", check=False).returncode != 0
    git("push", "-q", "origin", ":other", check=False)


def test_a_remote_that_needs_dvc_is_asked_once(ours, git, soup, dvc):
    """One with more settings than its folder is asked by DVC itself."""
    text = Path(".dvc/config").read_text()
    Path(".dvc/config").write_text(f"{text}    jobs = 2\n")
    assert "lacks 2 objects" in git("push", "origin", "main", check=False).stderr
    soup("push")
    git("commit", "-q", "--allow-empty", "-m", "x")
    shutil.rmtree(ours.parent / "store")
    git("push", "-q", "origin", "main")


# -- clones that have less ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["--depth=1", "--filter=blob:none"])
def test_a_clone_that_has_less(ours, soup, git, make_adapter, how):
    train(ours, make_adapter, 80)
    soup("push", "--all")
    git("config", "uploadpack.allowFilter", "true", cwd=ours.parent / "origin.git")
    git("clone", "-q", how, f"file://{ours.parent}/origin.git", "less", cwd=ours.parent)
    less = ours.parent / "less"
    soup("init", cwd=less)
    soup("pull", cwd=less)
    assert "main" in soup("branches", cwd=less).stdout
    assert soup("status", cwd=less).returncode == 0
    soup("fsck", cwd=less)
    if how != "--depth=1":
        soup("checkout", "politer", cwd=less)
        soup("checkout", "main", cwd=less)
    make_adapter(less / "adapters/support", seed=81)
    soup("add", "adapters/support", cwd=less)
    soup("lock", "write", cwd=less)
    git("commit", "-qam", "From the small clone", cwd=less)
    soup("push", cwd=less)


def test_a_partial_clone_whose_remote_is_gone_says_so(ours, soup, git, refused):
    soup("push", "--all")
    git("config", "uploadpack.allowFilter", "true", cwd=ours.parent / "origin.git")
    git("clone", "-q", "--filter=blob:none", f"file://{ours.parent}/origin.git", "less", cwd=ours.parent)  # fmt: skip
    less = ours.parent / "less"
    soup("init", cwd=less)
    (ours.parent / "origin.git").rename(ours.parent / "gone.git")
    refused(soup("checkout", "politer", cwd=less, check=False), 128, "partial clone", "git fetch")
    refused(soup("pull", cwd=less, check=False), 128, "git ls-remote origin")
