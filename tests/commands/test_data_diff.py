"""`git soup diff --data`: which datasets it finds, where their bytes come from, what it refuses."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from soup_git.commands.datadiff import data_diff
from soup_git.storage import datasets
from soup_git.storage.dvcfiles import pointer_text
from soup_git.storage.workspace import Workspace
from tests.two_branches import CONFIG, ROWS, flip

NEW_ROW = '{"prompt": "e", "completion": "f, please"}'
NUMBERS = ("unchanged", "rewritten", "moved", "added", "removed", "changed", "duplicated")


def numbers(soup, *words):
    """{role: {number: value that is not 0}} of the JSON report."""
    report = json.loads(soup("diff", "--data", *words, "--json").stdout)
    assert report["schema"] == "soup.data-diff/1"
    return {d["role"]: {n: d[n] for n in NUMBERS if d[n]} for d in report["datasets"]}


def test_revisions_files_and_the_work_tree_are_compared(pinned, soup, git):
    table = soup("diff", "--data", "main", "politer").stdout
    assert table == (
        "         dataset           in   rows  repeated  unreadable\n"
        "main     data/train.jsonl  dvc     2         0           0\n"
        "politer  data/train.jsonl  dvc     3         0           0\n"
        "train: 1 added, 0 removed, 0 changed, 2 unchanged\n"
        "\n"
        "added:\n"
        f"data/train.jsonl:3  {NEW_ROW}\n"
    )
    assert numbers(soup, "politer", "main") == {"train": {"removed": 1, "unchanged": 2}}
    assert numbers(soup, "main") == {"train": {"unchanged": 2}}
    Path("data/train.jsonl").write_text(ROWS.replace("d", "D") + NEW_ROW)
    work_tree = {"added": 1, "changed": 1, "unchanged": 1}
    assert numbers(soup, "main") == {"train": work_tree}
    assert numbers(soup, "main", "data/train.jsonl") == {"dataset": work_tree}
    Path("data/train.jsonl").unlink()  # the pointer still names the bytes
    assert numbers(soup, "politer") == {"train": {"removed": 1, "unchanged": 2}}
    Path("sub").mkdir()
    done = soup(
        "diff", "--data", "main", "politer", "--dataset", "../data/train.jsonl", cwd=pinned / "sub"
    )
    assert "dataset: 1 added" in done.stdout


def test_the_exit_code_and_the_pages(pinned, soup, git):
    assert soup("diff", "--data", "main", "main", "--exit-code").returncode == 0
    assert soup("diff", "--data", "main", "politer", "--exit-code", check=False).returncode == 1
    for form in ("markdown", "html"):
        soup("diff", "--data", "main", "politer", "--format", form, "-o", f"page.{form}")
    assert "train: 1 added, 0 removed" in Path("page.markdown").read_text()
    HTMLParser().feed(Path("page.html").read_text())
    none = soup("diff", "--data", "main", "politer", "--samples", "0").stdout
    assert NEW_ROW not in none


def test_git_folders_links_and_validation(repo, soup, git, refused):
    Path("soup.yaml").write_text(CONFIG)
    Path("rows").mkdir()
    Path("rows/b.jsonl").write_text(ROWS)
    Path("rows/notes.md").write_text("not rows\n")
    evil = {"prompt": "\x1b[31m\u202e|<script>`", "completion": "x" * 70_000}
    Path("rows/a.json").write_text(json.dumps([evil]))
    config = "base: x\ndata:\n  train: ./rows\n"
    Path("soup.yaml").write_text(config)
    git("add", ".")
    git("commit", "-qm", "One")
    Path("rows/a.json").unlink()
    Path("soup.yaml").write_text(config + "  validation: held-out.jsonl\n")
    Path("held-out.jsonl").write_text(NEW_ROW)
    git("add", ".")
    git("commit", "-qm", "Two")
    assert numbers(soup, "HEAD~1", "HEAD") == {
        "train": {"removed": 1, "unchanged": 2},
        "validation": {"added": 1},
    }
    for form in ("table", "json", "markdown", "html"):
        said = soup("diff", "--data", "HEAD~1", "HEAD", "--format", form).stdout
        assert not any(c in said for c in "\x1b\u202e")
        assert "<script>" not in said or form in {"table", "json"}
        assert len(said) < 8000
    assert numbers(soup, "HEAD:rows/b.jsonl", "held-out.jsonl") == {
        "dataset": {"removed": 2, "added": 1}
    }
    assert numbers(soup, "HEAD~1", "--dataset", "rows/a.json") == {"dataset": {"removed": 1}}
    Path("rows/b.jsonl").unlink()
    Path("rows/b.jsonl").symlink_to("/etc/passwd")
    git("commit", "-qam", "Four")
    done = soup("diff", "--data", "HEAD~1", "HEAD", "--dataset", "rows/b.jsonl", check=False)
    refused(done, 128, "symbolic link")
    assert "root" not in done.stderr


def test_bytes_that_are_elsewhere_are_fetched_and_verified(
    pinned, soup, dvc, refused, object_of, tmp_path
):
    place = object_of("data/train.jsonl")
    shutil.rmtree("data")
    refused_words = (
        "data/train.jsonl in main is not here",
        "there is no DVC remote",
        "dvc remote add",
    )
    away = place.rename(tmp_path / "away")
    refused(soup("diff", "--data", "main", "politer", check=False), 128, *refused_words)
    remote = tmp_path / "remote"
    dvc("remote", "add", "-q", "-d", "store", remote)
    refused(soup("diff", "--data", "main", "politer", check=False), 128, "not in the remote store")
    there = remote / place.relative_to(pinned / ".dvc" / "cache")
    there.parent.mkdir(parents=True)
    shutil.copy(away, there)
    flip(there)
    refused(soup("diff", "--data", "main", "politer", check=False), 128, "other bytes")
    assert not place.exists()
    there.unlink()
    shutil.copy(away, there)
    assert numbers(soup, "main", "politer") == {"train": {"added": 1, "unchanged": 2}}
    flip(place)
    done = soup("diff", "--data", "main", "politer", check=False)
    refused(done, 128, "other bytes under md5:", f"rm '{place}'")


def test_a_file_of_a_folder_that_dvc_holds_is_found_in_it(repo, git):
    workspace = Workspace.open(repo)
    Path("soup.yaml").write_text("base: x\ndata:\n  train: data/train.jsonl\n")
    Path("data").mkdir()
    for rows, subject in ((ROWS, "One"), (ROWS + NEW_ROW, "Two")):
        Path("data/train.jsonl").write_text(rows)
        Path("data.dvc").write_text(
            pointer_text("data", *workspace.dvc.store_folder(repo / "data"))
        )
        git("add", "data.dvc", "soup.yaml")
        git("commit", "-qm", subject)
    shutil.rmtree("data")
    for spec in ("HEAD", None):
        found = data_diff(workspace, "HEAD~1", spec).datasets[0]
        assert (found.added, found.unchanged, found.b.source) == (1, 2, "dvc")


def test_a_large_blob_goes_through_a_file_that_is_gone_afterwards(repo, git, monkeypatch):
    Path("rows.jsonl").write_text(ROWS)
    git("add", ".")
    git("commit", "-qm", "One")
    Path("rows.jsonl").write_text(ROWS + NEW_ROW)
    git("commit", "-qam", "Two")
    before = set(Path(".git").iterdir())
    monkeypatch.setattr(datasets, "_HELD", 10)
    found = data_diff(Workspace.open(repo), "HEAD~1", "HEAD", dataset="rows.jsonl").datasets[0]
    assert (found.added, found.unchanged, len(found.added_rows)) == (1, 2, 1)
    assert set(Path(".git").iterdir()) == before


@pytest.mark.parametrize("named", ["../rows.jsonl", "/etc/passwd", ".git/config", "a/../../x"])
def test_a_dataset_outside_is_never_read(repo, soup, git, refused, named):
    Path("soup.yaml").write_text(f"base: x\ndata:\n  train: {named}\n")
    git("add", ".")
    git("commit", "-qm", "Name it")
    refused(soup("diff", "--data", "HEAD", "HEAD~1", check=False), 128, "not inside the repository")


def test_what_cannot_be_compared_says_what_to_type(pinned, soup, git, refused):
    def refuses(code, words, *arguments):
        refused(soup("diff", "--data", *arguments, check=False), code, *words)

    first = git("rev-list", "--max-parents=0", "HEAD").stdout.strip()
    refuses(128, ["no dataset is named", "--dataset PATH"], first, first)
    assert numbers(soup, first, "main") == {"train": {"added": 2}}
    refuses(128, ["nothing", "git branch -a"], "main", "nothing")
    refuses(128, ["neither in git nor in DVC"], "main", "politer", "--dataset", "nowhere.jsonl")
    refuses(128, [".jsonl, .json, .txt"], "main", "politer", "--dataset", "README.md")
    refuses(128, ["inside the repository"], "main", "--dataset", "../x.jsonl")
    refuses(128, ["inside the repository"], "main", "..")
    Path("politer").write_text("a file\n")
    refuses(128, ["ambiguous", "./politer"], "main", "politer")
    Path("soup.yaml").write_text("data:\n  train: lost.jsonl\n")
    refuses(128, ["lost.jsonl in the work tree", "neither in git nor in DVC"], "main")
    for words in (["--data", "a", "b", "--top-k", "3"], ["a"], ["a", "b", "--samples", "3"]):
        done = soup("diff", *words, check=False)
        assert done.returncode == 129
