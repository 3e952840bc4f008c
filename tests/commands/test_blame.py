"""`git soup blame`: which commit last changed each module, held against git's own blame."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import runner

FOLDER = "adapters/support"
MANIFEST = f"{FOLDER}/adapter.manifest"
MODULES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1)
    for part in ("mlp.down_proj", "self_attn.q_proj")
]


def scale(folder, factor, *parts):
    """Multiply lora_B of the modules that hold one of `parts`: their update grows by `factor`."""
    path = Path(folder) / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__")
    for name, claim in header.items():
        if name.endswith("lora_B.weight") and any(part in name for part in parts):
            start, end = (8 + length + o for o in claim["data_offsets"])
            values = np.frombuffer(bytes(data[start:end]), "<f4") * np.float32(factor)
            data[start:end] = values.astype("<f4").tobytes()
    path.unlink()
    path.write_bytes(bytes(data))


class Story:
    """Commits with an author and a day of their own."""

    def __init__(self, git, soup):
        self.git, self.soup, self.day = git, soup, 0

    def commit(self, message, author="Ada", *words):
        self.day += 1
        when = f"2026-03-{self.day:02}T12:00:00+02:00"
        env = {"GIT_AUTHOR_NAME": author, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        self.git("commit", "-qm", message, *words, env=env)
        return self.git("rev-parse", "HEAD").stdout.strip()

    def train(self, factor, *parts, author="Ada", folder=FOLDER):
        scale(folder, factor, *parts)
        self.soup("add", folder)
        return self.commit(f"Train {parts}", author)


@pytest.fixture(scope="module")
def template(repo_template, tmp_path_factory, make_adapter):
    """An adapter with four modules, and a commit by Bob that changed one of them."""
    root = tmp_path_factory.mktemp("story") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    make_adapter(root / FOLDER, seed=1)
    told = Story(runner("git", cwd=root), runner("git", "soup", cwd=root))
    told.soup("add", FOLDER)
    first = told.commit("Add")
    scale(root / FOLDER, 1.5, "layers.1.mlp")
    told.soup("add", FOLDER)
    return root, first, told.commit("Train", "Bob")


@pytest.fixture
def story(template, git, soup, in_tmp_path, monkeypatch):
    shutil.copytree(template[0], in_tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(in_tmp_path / "repo")
    git("update-index", "-q", "--refresh")
    told = Story(git, soup)
    told.day, told.first, told.second = 2, *template[1:]
    return told


def blamed(soup, *words):
    report = json.loads(soup("blame", *words, "--json").stdout)
    assert report["schema"] == "soup.blame/1"
    assert report["kind"] == "provenance"
    return {row["module"]: row for row in report["modules"]}


def by_git(git, revision, path=MANIFEST):
    """The oracle: module -> the commits that plain `git blame` gives its lines."""
    said = git("blame", "-l", "--root", "-s", revision, "--", path).stdout
    found = {}
    for line in said.splitlines():
        commit, text = line.split()[0], line.partition(") ")[2]
        tensor = re.match(r"base_model\.model\.(\S+)\.lora_\w+\.weight ", text)
        header = re.match(r"module (\S+)", text)
        if tensor or header:
            found.setdefault((tensor or header)[1], set()).add(commit)
    return found


def agrees(git, soup, revision="HEAD", path=FOLDER):
    ours = blamed(soup, f"{revision}:{path}")
    theirs = by_git(git, revision, f"{path}/adapter.manifest")
    assert set(ours) == set(theirs)
    for module, row in ours.items():
        assert row["commit"] in theirs[module]
        for commit in theirs[module]:
            git("merge-base", "--is-ancestor", commit, row["commit"])
    return ours


def test_each_module_has_the_commit_that_changed_it_last(story, git, soup):
    third = story.train(3.0, "q_proj", author="Cleo")
    found = agrees(git, soup)
    assert [found[m]["commit"] for m in MODULES] == [story.first, third, story.second, third]
    assert [found[m]["status"] for m in MODULES] == ["new", "changed", "changed", "changed"]
    assert found[MODULES[0]]["change"] is None
    assert found[MODULES[1]]["change"] == pytest.approx(2.0, rel=1e-6)
    assert found[MODULES[2]]["change"] == pytest.approx(0.5, rel=1e-6)
    assert found[MODULES[2]]["author"] == "Bob"
    assert found[MODULES[2]]["date"] == "2026-03-02T12:00:00+02:00"


def test_the_table_says_it_in_few_words(story, soup):
    third = story.train(3.0, "q_proj", author="Cleo")
    assert soup("blame", FOLDER).stdout.splitlines() == [
        "commit   author  date         change  modules",
        f"{third[:7]}  Cleo    2026-03-03  200.0 %  layers.*.self_attn.q_proj  (2)",
        f"{story.second[:7]}  Bob     2026-03-02   50.0 %  layers.1.mlp.down_proj     (1)",
        f"{story.first[:7]}  Ada     2026-03-01      new  layers.0.mlp.down_proj     (1)",
    ]


def test_one_module_or_a_pattern_of_them(story, git, soup):
    assert list(blamed(soup, FOLDER, "--module", "layers.1.*")) == MODULES[2:]
    assert list(blamed(soup, FOLDER, "--module", MODULES[0])) == MODULES[:1]
    done = soup("blame", FOLDER, "--module", "layers.9.*", check=False)
    assert done.returncode == 128
    assert "no module matches" in done.stderr


def test_a_merge_hands_the_blame_on_and_keeps_what_it_combined(story, git, soup):
    git("checkout", "-q", "-b", "side")
    side = story.train(1.5, "layers.1.mlp", "layers.0.mlp", author="Bob")
    git("checkout", "-q", "main")
    git("soup", "checkout")
    main = story.train(3.0, "q_proj", "layers.0.mlp", author="Cleo")
    git("merge", "-q", "--no-commit", "side", check=False)
    scale(FOLDER, 1.5, "layers.1.mlp")
    scale(FOLDER, 0.8, "layers.0.mlp")
    git("checkout", "-q", "HEAD", "--", FOLDER)
    soup("add", FOLDER)
    merge = story.commit("Merge side", "Ada", "--no-verify")
    assert len(git("rev-list", "--parents", "-1", "HEAD").stdout.split()) == 3
    found = agrees(git, soup)
    assert [found[m]["commit"] for m in MODULES] == [merge, main, side, main]
    assert found[MODULES[0]]["change"] == pytest.approx(0.2, rel=1e-6)


def test_a_rename_is_followed(story, git, soup):
    git("mv", FOLDER, "adapters/helper")
    soup("add", "adapters/helper")
    git("add", "-A")
    story.commit("Rename")
    third = story.train(2.0, "layers.0.q_proj", "layers.0.self_attn", folder="adapters/helper")
    found = agrees(git, soup, path="adapters/helper")
    assert [found[m]["commit"] for m in MODULES] == [story.first, third, story.second, story.first]
    assert found[MODULES[1]]["change"] == pytest.approx(1.0, rel=1e-6)
    assert found[MODULES[2]]["change"] == pytest.approx(0.5, rel=1e-6)


def test_new_modules_and_alpha_are_changes(story, git, soup, make_adapter):
    make_adapter(FOLDER, seed=1, layers=3, alpha=16)
    soup("add", FOLDER)
    third = story.commit("Add a layer")
    found = agrees(git, soup)
    assert {row["status"] for name, row in found.items() if "layers.2" in name} == {"new"}
    make_adapter(FOLDER, seed=1, layers=3, alpha=24)
    soup("add", FOLDER)
    fourth = story.commit("Turn it up")
    found = agrees(git, soup)
    assert third != fourth
    assert {row["commit"] for row in found.values()} == {fourth}
    assert all(row["change"] == pytest.approx(0.5) for row in found.values())


def test_what_is_not_committed_yet_and_revisions_before(story, git, soup):
    scale(FOLDER, 2.0, "layers.0.mlp")
    soup("add", FOLDER)
    found = blamed(soup, FOLDER)
    assert found[MODULES[0]]["commit"] is None
    assert found[MODULES[0]]["change"] == pytest.approx(1.0)
    assert "not committed yet" in soup("blame", FOLDER).stdout
    assert blamed(soup, "HEAD")[MODULES[2]]["commit"] == story.second
    assert {row["commit"] for row in blamed(soup, "HEAD~1").values()} == {story.first}


def test_without_the_weights_it_says_so(story, soup):
    shutil.rmtree(".dvc/cache")
    found = blamed(soup, FOLDER)
    assert (found[MODULES[2]]["commit"], found[MODULES[2]]["status"]) == (story.second, "changed")
    assert found[MODULES[2]]["change"] is None
    said = soup("blame", FOLDER).stdout
    assert re.search(r"changed +layers\.1\.mlp\.down_proj", said)
    assert "note: by how much 1 of them changed is not known" in said


def test_a_shallow_clone_says_where_it_ends(story, git, soup, in_tmp_path):
    git("clone", "-q", "--depth", "1", Path.cwd().as_uri(), "../shallow")
    shallow = in_tmp_path / "shallow"
    runner("git", "soup", cwd=shallow)("init")
    said = runner("git", "soup", cwd=shallow)("blame", "HEAD").stdout
    assert "this clone is shallow" in said
    assert " new " not in said


def test_hostile_authors_and_folders(story, git, soup):
    story.train(1.5, "layers.1.mlp", author="Eve\x1b[31m \u202e| x")
    said = soup("blame", FOLDER).stdout
    assert "\\x1b[31m \\u202e| x" in said
    assert not set(said) & set("\x1b\u202e")
    page = soup("blame", FOLDER, "--format", "markdown").stdout
    assert "&#124; x" in page
    evil = 'adapters/q"uo\\te\tä'
    git("mv", FOLDER, evil)
    story.commit("Rename", "Ada", "--no-verify")
    found = blamed(soup, "HEAD")
    assert found[MODULES[2]]["author"].startswith("Eve")
    assert found[MODULES[2]]["change"] == pytest.approx(0.5, rel=1e-6)


def test_commits_to_ignore_are_a_readers_wish(story, git, soup):
    Path(".git-blame-ignore-revs").write_text(story.second + "\n")
    git("config", "blame.ignoreRevsFile", ".git-blame-ignore-revs")
    assert blamed(soup, "HEAD")[MODULES[2]]["commit"] == story.second


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["nothing"], "names no adapter"),
        (["HEAD:nothing"], "there is no adapter at nothing"),
        (["adapters/new"], "no commit holds"),
        (["./README.md"], "names no adapter"),
    ],
)
def test_what_cannot_be_blamed(story, soup, make_adapter, words, why):
    make_adapter("adapters/new", seed=5)
    done = soup("blame", *words, check=False)
    assert done.returncode == 128
    assert why in done.stderr
    assert "hint: " in done.stderr


def test_a_manifest_with_markers_is_refused(story, soup):
    path = Path(MANIFEST)
    path.write_text("<<<<<<< ours\n" + path.read_text())
    done = soup("blame", FOLDER, check=False)
    assert done.returncode == 128
    assert "conflict markers" in done.stderr
