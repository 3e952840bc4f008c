"""`git soup gc` never deletes what anything names, and says how much before it deletes."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import runner

FOLDER = "adapters/support"
MANIFEST = Path(FOLDER, "adapter.manifest")


def object_at(md5):
    return Path(".dvc/cache/files/md5", md5[:2], md5[2:])


def report(soup, *words):
    found = json.loads(soup("gc", *words, "--json").stdout)
    assert found["schema"] == "soup.gc/1"
    return found


@pytest.fixture(scope="module")
def template(repo_template, tmp_path_factory, make_adapter):
    root = tmp_path_factory.mktemp("gc") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git = runner("git", cwd=root)
    make_adapter(root / FOLDER, seed=1)
    git("soup", "add", FOLDER)
    git("commit", "-qm", "Add")
    return root


@pytest.fixture
def start(template, git, in_tmp_path, monkeypatch):
    shutil.copytree(template, in_tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(in_tmp_path / "repo")
    git("update-index", "-q", "--refresh")
    return in_tmp_path / "repo"


@pytest.fixture
def named(git):
    """`named(seed, folder)`: stage an adapter whose object is in the cache; returns its md5."""

    def make(seed, top="."):
        md5 = f"{seed:032x}"
        path = Path(top) / MANIFEST
        text = path.read_text()
        path.write_text(re.sub(r"md5:[0-9a-f]{32}", f"md5:{md5}", text))
        object_at(md5).parent.mkdir(parents=True, exist_ok=True)
        object_at(md5).write_bytes(bytes(1000))
        git("add", MANIFEST, cwd=Path(top))
        return md5

    return make


def commit(git, message="x", *words, cwd=None):
    git("commit", "-qm", message, "--no-verify", *words, cwd=cwd)


def test_whatever_names_an_object_keeps_it(start, git, soup, named, in_tmp_path):
    kept = {}
    kept["branch"] = named(0xB1)
    commit(git)
    kept["reflog"] = named(0xB2)
    commit(git)
    git("reset", "-q", "--hard", "HEAD~1")
    kept["stash"] = named(0xB8)
    git("stash", "-q")
    kept["an older stash"] = named(0xB9)
    git("stash", "-q")
    git("worktree", "add", "-q", "--detach", "../linked")
    kept["HEAD of a work tree"] = named(0xBA, "../linked")
    commit(git, cwd=Path("../linked"))
    kept["index of a work tree"] = named(0xBB, "../linked")
    git("worktree", "add", "-q", "--detach", "../gone")
    kept["index of a work tree that is gone"] = named(0xBC, "../gone")
    shutil.rmtree("../gone")
    Path("notes.dvc").write_text(f"outs:\n- md5: '{0xBD:032x}'\n  path: notes\n")
    object_at(f"{0xBD:032x}").write_bytes(b"x")
    kept["an untracked pointer"] = f"{0xBD:032x}"
    Path("deep/er").mkdir(parents=True)
    Path("deep/er/dvc.lock").write_text(f"stages:\n  a:\n    outs:\n    - md5: {0xBE:032x}\n")
    object_at(f"{0xBE:032x}").write_bytes(b"x")
    kept["a lock below"] = f"{0xBE:032x}"
    kept["index in conflict"] = named(0xBF)
    blob = git("rev-parse", f":{MANIFEST}").stdout.strip()
    none = f"0 {'0' * 40}\t{MANIFEST}\n"
    git("update-index", "--index-info", stdin=f"{none}100644 {blob} 2\t{MANIFEST}\n")
    MANIFEST.unlink()
    found = report(soup, "--prune", "--older-than", "now")
    lost = [why for why, md5 in kept.items() if not object_at(md5).exists()]
    assert lost == []
    assert found["unused"] == []


def test_every_ref_and_every_parent_counts_without_any_reflog(start, git, soup, named):
    kept = {}
    git("checkout", "-q", "-b", "ours")
    kept["a side that a merge threw away"] = named(0xB3)
    commit(git)
    git("checkout", "-q", "main")
    kept["ours"] = named(0xB4)
    commit(git)
    git("merge", "-q", "-s", "ours", "-m", "m", "ours")
    git("checkout", "-q", "--detach", "main~1")
    aside = git("commit-tree", "-p", "HEAD", "-m", "aside", "HEAD^{tree}").stdout.strip()
    git("merge", "-q", "--no-ff", "--no-commit", aside)
    kept["only a merge itself"] = named(0xB5)
    commit(git)
    git("update-ref", "refs/merged", "HEAD")
    git("checkout", "-q", "main")
    git("branch", "-qD", "ours")
    git("checkout", "-q", "--detach")
    for number, ref in enumerate(("tags/a", "soup/runs/x", "soup-remotes/origin/runs/x", "y")):
        git("reset", "-q", "--hard", "main")
        kept[ref] = named(0xC0 + number)
        commit(git)
        git("update-ref", f"refs/{ref}", "HEAD")
    states = {}
    for number, file in enumerate(("MERGE_HEAD", "ORIG_HEAD", "rebase-merge/orig-head")):
        git("reset", "-q", "--hard", "main")
        kept[file] = named(0xD0 + number)
        commit(git)
        states[Path(".git", file)] = git("rev-parse", "HEAD").stdout
    git("checkout", "-q", "main")
    git("reflog", "expire", "--expire=now", "--all")
    for path, text in states.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = report(soup, "--prune", "--older-than", "now")
    assert [why for why, md5 in kept.items() if not object_at(md5).exists()] == []
    assert found["unused"] == []


def test_what_nothing_names_goes_when_it_is_old_and_asked_for(start, git, soup, named):
    orphan, young = named(0xA1), named(0xA2)
    git("reset", "-q", "--hard")
    first = report(soup)
    assert (first["pruned"], first["unused"], first["young"]) == (False, [], 2)
    old = time.time() - 15 * 86400
    os.utime(object_at(orphan), (old, old))
    found = report(soup, "--dry-run")
    assert [(o["md5"], o["bytes"]) for o in found["unused"]] == [(orphan, 1000)]
    assert found["bytes"] == 1000
    said = soup("gc").stdout
    assert "git soup gc --prune deletes 1 object, 1.0 kB" in said
    assert "1 unused and younger than 2 weeks: kept" in said
    assert object_at(orphan).exists()
    assert "deleted 1 object, 1.0 kB" in soup("gc", "--prune").stdout
    assert not object_at(orphan).exists()
    assert object_at(young).exists()
    assert soup("fsck").returncode == 0
    soup("gc", "--prune", "--older-than", "now")
    assert not object_at(young).exists()
    assert soup("status").returncode == 0


def test_a_deleted_run_gives_its_checkpoints_back(start, git, soup, named):
    kept = Path(".git/soup/objects/files/md5/cc", f"{0xC1:030x}")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"checkpoint")
    path = MANIFEST.read_text()
    MANIFEST.write_text(re.sub(r"md5:[0-9a-f]{32}", f"md5:cc{0xC1:030x}", path))
    git("checkout", "-q", "--detach")
    commit(git, "step 1", "-a")
    git("update-ref", "refs/soup/runs/x", "HEAD")
    git("checkout", "-q", "main")
    git("reflog", "expire", "--expire=now", "--all")
    assert report(soup, "--prune", "--older-than", "now")["unused"] == []
    git("update-ref", "-d", "refs/soup/runs/x")
    git("reflog", "expire", "--expire=now", "--all")
    assert len(report(soup, "--prune", "--older-than", "now")["unused"]) == 1
    assert not kept.exists()


def test_a_datasets_files_live_as_long_as_the_dataset(start, git, soup, dvc):
    Path("data").mkdir()
    for name in "ab":
        Path("data", name).write_text(name)
    dvc("add", "-q", "data")
    git("add", "data.dvc")
    commit(git)
    assert report(soup, "--older-than", "now")["unused"] == []
    git("reset", "-q", "--hard", "HEAD~1")
    git("reflog", "expire", "--expire=now", "--all")
    Path(".git/ORIG_HEAD").unlink()
    assert len(report(soup, "--older-than", "now")["unused"]) == 3
    shutil.rmtree("data")


def test_a_folder_whose_list_is_damaged_stops_it(start, git, soup, named, dvc):
    Path("data").mkdir()
    Path("data", "a").write_text("a")
    dvc("add", "-q", "data")
    listing = next(Path(".dvc/cache/files/md5").glob("*/*.dir"))
    listing.chmod(0o644)
    listing.write_text("no list")
    orphan = named(0xA1)
    git("reset", "-q", "--hard")
    done = soup("gc", "--prune", "--older-than", "now", check=False)
    assert done.returncode == 128
    assert "is no list of files" in done.stderr
    assert object_at(orphan).exists()


def test_a_cache_outside_may_serve_others(start, git, soup, named, in_tmp_path):
    orphan = named(0xA1)
    git("reset", "-q", "--hard")
    shutil.move(".dvc/cache", in_tmp_path / "shared")
    Path(".dvc/config.local").write_text(f"[cache]\n    dir = {in_tmp_path / 'shared'}\n")
    there = in_tmp_path / "shared/files/md5" / orphan[:2] / orphan[2:]
    assert "may serve others" in soup("gc", "--prune", "--older-than", "now").stdout
    assert there.exists()
    soup("gc", "--prune", "--older-than", "now", "--shared-cache")
    assert not there.exists()


def test_adding_again_makes_an_object_young(start, git, soup, make_adapter):
    make_adapter(FOLDER, seed=7)
    soup("add", FOLDER)
    md5 = re.search(r"weights md5:(\w+)", MANIFEST.read_text())[1]
    git("reset", "-q", "--hard")
    old = time.time() - 15 * 86400
    os.utime(object_at(md5), (old, old))
    make_adapter("adapters/again", seed=7)
    soup("add", "adapters/again")
    assert time.time() - object_at(md5).stat().st_mtime < 60


@pytest.mark.parametrize("words", [["--older-than", "soon"], ["--older-than", "-1d"]])
def test_a_time_that_is_none(start, soup, words):
    done = soup("gc", *words, check=False)
    assert done.returncode in {128, 129}
    assert done.stdout == ""


def test_asking_and_deleting_exclude_each_other(start, soup):
    assert soup("gc", "--prune", "--dry-run", check=False).returncode == 129


def test_a_history_that_cannot_be_read_stops_it(start, git, soup, named):
    blob = git("rev-parse", f"HEAD:{MANIFEST}").stdout.strip()
    orphan = named(0xA1)
    git("reset", "-q", "--hard")
    Path(".git/objects", blob[:2], blob[2:]).unlink()
    done = soup("gc", "--prune", "--older-than", "now", check=False)
    assert done.returncode == 128
    assert object_at(orphan).exists()
