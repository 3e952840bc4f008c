"""`git diff` on an adapter, in real repositories: the drift table, or the manifest's lines."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import runner

FOLDER = "adapters/support"
MANIFEST = f"{FOLDER}/adapter.manifest"


@pytest.fixture(scope="module")
def template(repo_template, tmp_path_factory, make_adapter):
    root = tmp_path_factory.mktemp("versions") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git = runner("git", cwd=root)
    for seed in (1, 2):
        make_adapter(root / FOLDER, seed=seed)
        git("soup", "add", FOLDER)
        git("commit", "-qm", f"Train {seed}")
    return root


@pytest.fixture
def versions(template, in_tmp_path, git, monkeypatch):
    """A repository whose last two commits train and retrain one adapter; the test runs in it."""
    root = in_tmp_path / "repo"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    git("update-index", "-q", "--refresh")
    return root


def lose_weights(root):
    shutil.rmtree(root / ".dvc" / "cache")
    for file in root.rglob("*.safetensors"):
        file.unlink()


def total_of(text):
    """The drift in the table's last row."""
    found = re.search(r"^  total +(\S+ %)", text, re.MULTILINE)
    return found and found[1]


@pytest.mark.parametrize(
    "words",
    [
        ["diff", "HEAD~1", "HEAD", "--", MANIFEST],
        ["diff", "HEAD~1", "--", FOLDER],
        ["diff", "HEAD~1..HEAD", "--", MANIFEST],
        ["show", "--ext-diff", "--format=", "HEAD", "--", MANIFEST],
        ["log", "-1", "-p", "--ext-diff", "--format=", "--", MANIFEST],
    ],
)
def test_the_table_wherever_git_calls_a_driver(versions, git, soup, words):
    said = git(*words).stdout
    table = said[said.index("adapter ") :]
    assert table.splitlines()[0] == f"adapter {FOLDER}   base tiny/base   rank 8   4 modules, 4 changed"  # fmt: skip
    summary = json.loads(soup("diff", "HEAD~1", "HEAD", "--json").stdout)["summary"]
    assert total_of(table) == f"{100 * summary['relative_drift']:.1f} %"
    rows = [line for line in table.splitlines() if "layers." in line]
    assert len(rows) == 4
    assert all(len(line) <= 80 for line in table.splitlines()[:7])


def test_what_is_staged_and_what_is_not(versions, git, soup, make_adapter):
    make_adapter(FOLDER, seed=3)
    soup("add", FOLDER)
    assert total_of(git("diff", "--cached").stdout)
    assert git("diff", "--", MANIFEST).stdout == ""
    git("reset", "-q")
    assert total_of(git("diff", "--", MANIFEST).stdout) == total_of(git("diff", "HEAD").stdout)


def test_the_weights_may_be_only_in_the_work_tree(versions, git, soup, make_adapter):
    make_adapter(FOLDER, seed=3)
    soup("add", FOLDER)
    md5 = re.search(r"weights md5:(\w+)", Path(MANIFEST).read_text())[1]
    Path(".dvc/cache/files/md5", md5[:2], md5[2:]).unlink()
    assert total_of(git("diff", "HEAD", "--", MANIFEST).stdout)


def test_show_and_log_print_the_lines_without_being_asked(versions, git):
    for words in (["show", "HEAD"], ["log", "-p", "-1"]):
        said = git(*words).stdout
        assert "\n-weights md5:" in said
        assert "Binary files" not in said
        assert total_of(said) is None


def test_a_stash_shows_its_lines(versions, git, soup, make_adapter):
    make_adapter(FOLDER, seed=3)
    soup("add", FOLDER)
    git("stash", "-q")
    assert "\n+weights md5:" in git("stash", "show", "-p").stdout


def test_stat_and_patches_see_the_manifest(versions, git):
    assert re.search(r"adapter.manifest +\| +\d+ ", git("diff", "--stat", "HEAD~1", "HEAD").stdout)
    assert "\n-weights md5:" in git("format-patch", "-1", "--stdout").stdout


def test_without_weights_the_lines_are_gits_own_and_a_note_says_why(versions, git):
    own = git("diff", "--no-ext-diff", "HEAD~1", "HEAD", "--", MANIFEST).stdout
    lose_weights(versions)
    said = git("diff", "HEAD~1", "HEAD", "--", MANIFEST).stdout
    lines, _, note = said.rpartition("note: ")
    assert "dvc fetch" in note
    drop = re.compile(r"^index .*$", re.MULTILINE)  # git chooses its own length of hashes
    assert drop.sub("", lines) == drop.sub("", own)


def test_a_table_once_computed_needs_no_weights(versions, git):
    first = git("diff", "HEAD~1", "HEAD", "--", MANIFEST).stdout
    lose_weights(versions)
    assert git("diff", "HEAD~1", "HEAD", "--", MANIFEST).stdout == first
    assert total_of(git("diff", "HEAD", "HEAD~1", "--", MANIFEST).stdout) is None


def test_an_adapter_that_comes_or_goes(versions, git):
    said = git("diff", "HEAD~2", "HEAD~1", "--", MANIFEST).stdout
    assert said.startswith(
        f"new adapter {FOLDER}   base tiny/base   rank 8   4 modules, 8 tensors,"
    )
    assert re.search(r"^  weights md5:[0-9a-f]{32}$", said, re.MULTILINE)
    gone = git("diff", "HEAD~1", "HEAD~2", "--", MANIFEST).stdout
    assert gone.startswith(f"deleted adapter {FOLDER}   ")


def test_a_renamed_adapter_is_compared_with_what_it_was(versions, git, soup, make_adapter):
    git("mv", FOLDER, "adapters/helper")
    make_adapter("adapters/helper", seed=3)
    soup("add", "adapters/helper")
    git("add", "-A")
    git("commit", "-qm", "Rename and retrain")
    said = git("diff", "-M", "HEAD~1", "HEAD").stdout
    assert f"adapter {FOLDER} -> adapters/helper   base" in said
    assert total_of(said)
    lose_weights(versions)
    lines = git("diff", "-M", "HEAD", "HEAD~1").stdout
    assert f"rename from adapters/helper/adapter.manifest\nrename to {MANIFEST}\n" in lines


def test_alpha_alone_is_a_drift(versions, git, soup, make_adapter):
    make_adapter(FOLDER, seed=2, alpha=32)
    soup("add", FOLDER)
    assert total_of(git("diff", "HEAD", "--", MANIFEST).stdout) == "100.0 %"


def test_another_mode_is_no_drift(versions, git):
    Path(MANIFEST).chmod(0o755)
    said = git("diff", "--", MANIFEST).stdout
    assert "old mode 100644\nnew mode 100755\n" in said
    assert total_of(said) is None


@pytest.mark.parametrize("damage", ["marker", "digit", "order", "binary", "empty"])
def test_a_manifest_that_was_damaged_shows_its_lines(versions, git, damage):
    path = Path(MANIFEST)
    text = path.read_text()
    damaged = {
        "marker": text.replace("weights md5:", "<<<<<<< ours\nweights md5:", 1),
        "digit": text.replace("norm=2", "norm=3"),
        "order": "\n".join(text.split("\n")[::-1]),
        "binary": "\x00\x1b[2J" + text,
        "empty": "",
    }[damage]
    path.write_text(damaged)
    done = git("diff", "--", MANIFEST)
    assert done.stdout.startswith(f"diff --git a/{MANIFEST} b/{MANIFEST}\n")
    assert "\n@@ " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("note: ")
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout


def test_a_conflict_is_shown_as_git_shows_it(versions, git, soup, make_adapter):
    git("checkout", "-q", "-b", "other", "HEAD~1")
    make_adapter(FOLDER, seed=4)
    soup("add", FOLDER)
    git("commit", "-qm", "Train 4")
    git("-c", "merge.soup.driver=false", "merge", "-q", "main", check=False)
    assert git("ls-files", "-u", "--", MANIFEST).stdout
    done = git("diff", "--", MANIFEST)
    assert done.stdout.startswith(f"diff --cc {MANIFEST}\n")
    assert git("diff", "--ours", "--", MANIFEST).returncode == 0
    assert git("diff", "HEAD", "--", MANIFEST).returncode == 0


def test_several_adapters_stand_apart(versions, git, soup, make_adapter):
    for name, seed in (("a", 7), ("b", 8)):
        make_adapter(f"adapters/{name}", seed=seed)
    soup("add", "adapters/a", "adapters/b")
    said = git("diff", "--cached", "--", "*.manifest").stdout
    assert "\n\nnew adapter adapters/b" in said
    assert not said.endswith("\n\n")


def test_hostile_names_and_bases_stay_text(repo, git, soup, make_adapter):
    for seed in (1, 2):
        make_adapter(FOLDER, seed=seed, base="evil\x1b]0;title\x07/base")
        soup("add", FOLDER)
        git("commit", "-qm", f"Train {seed}")
    evil = Path("adapters/red\x1b[31m\u202e")
    git("mv", FOLDER, str(evil))
    git("commit", "-qm", "Rename", "--no-verify")
    (evil / "adapter.manifest").write_text(git("show", f"HEAD~2:{MANIFEST}").stdout)
    for words in (["diff"], ["diff", "HEAD~1", "HEAD"], ["diff", "-M", "HEAD~1"], ["diff", "HEAD"]):
        said = git(*words, "--", "*.manifest").stdout
        assert "adapters/red\\x1b[31m\\u202e" in said
        assert not set(said) & set("\x1b\x07\u202e")
    assert total_of(git("diff", "--", "*.manifest").stdout)
    lose_weights(repo)
    said = git("diff", "-R", "HEAD", "--", "*.manifest").stdout
    assert not set(said) & set("\x1b\x07\u202e")


def test_another_method_says_how_to_compare_it(repo, git, soup, make_adapter):
    for seed in (1, 2):
        make_adapter(FOLDER, seed=seed, peft_type="ADALORA")
        soup("add", FOLDER)
        git("commit", "-qm", f"Train {seed}")
    said = git("diff", "HEAD~1", "HEAD", "--", MANIFEST).stdout
    assert "\n+weights md5:" in said
    assert said.splitlines()[-1].startswith("note: ")


def test_a_python_that_is_gone_leaves_gits_own_diff(versions, git):
    command = git("config", "diff.soup.command").stdout.strip()
    git("config", "--file", ".git/soup/gitconfig", "--unset-all", "diff.soup.command")
    git("config", "diff.soup.command", re.sub(r"/\S+/python[\d.]*", "/gone/python", command))
    assert "\n+weights md5:" in git("diff", "HEAD~1", "HEAD", "--", MANIFEST).stdout


def test_a_pager_that_leaves_early_is_no_error(versions, git):
    done = git(
        "-c", "core.pager=head -1", "--paginate", "diff", "HEAD~1", "HEAD",
        env={"GIT_PAGER": "head -1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_in_a_linked_work_tree_and_from_a_folder_below(versions, git):
    git("worktree", "add", "-q", "../linked", "-b", "linked")
    for place in (Path("../linked"), Path("../linked/adapters")):
        assert total_of(git("diff", "HEAD~1", "HEAD", cwd=place).stdout)
