"""`git soup branch`: a commit that pins config, data, base and environment, beside index and work tree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.two_branches import CONFIG, POLITE_ROWS, ROWS

ROWS_FILE = "data/train.jsonl"
MANY = 50_000_001


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def lock_at(git, revision: str) -> dict:
    return json.loads(git("show", f"{revision}:soup.lock").stdout)


@pytest.fixture
def plain(repo: Path) -> Path:
    """A workspace with an untracked config and dataset, as on a first day."""
    (repo / "data").mkdir()
    (repo / "data" / "train.jsonl").write_text(ROWS)
    (repo / "soup.yaml").write_text(CONFIG)
    return repo


# -- what it makes -----------------------------------------------------------------------------


def test_index_and_work_tree_stay_as_they_are(pinned, soup, git):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    Path("README.md").write_text("staged\n")
    git("add", "README.md")
    Path("README.md").write_text("and edited again\n")
    status, index = git("status", "--porcelain").stdout, Path(".git/index").read_bytes()
    files = {
        p: p.read_bytes()
        for p in pinned.rglob("*")
        if p.is_file() and ".git" not in p.parts and "cache" not in p.parts
    }
    soup("branch", "more")
    assert Path(".git/index").read_bytes() == index
    assert git("status", "--porcelain").stdout == status
    assert {p: p.read_bytes() for p in files} == files
    assert git("branch", "--show-current").stdout == "main\n"
    changed = git("diff", "--name-only", "main", "more").stdout.split()
    assert changed == [f"{ROWS_FILE}.dvc", "soup.lock", "soup.yaml"]


def test_the_report_is_json_and_true(pinned, soup, git):
    done = soup("branch", "more", "--json")
    report = json.loads(done.stdout)
    assert done.stdout == json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert report["schema"] == "soup.branch/1"
    assert report["commit"] == git("rev-parse", "more").stdout.strip()
    assert report["config_sha"] == sha256("soup.yaml")
    assert report["dataset_sha"] == sha256(ROWS_FILE)
    assert report["closure_sha"] == lock_at(git, "more")["closure_sha"]


def test_trailers_repeat_the_pins(pinned, soup, git):
    soup("branch", "more")
    message = git("log", "-1", "--format=%B", "more").stdout
    parsed = git("interpret-trailers", "--parse", stdin=message).stdout.splitlines()
    assert parsed == [
        f"Soup-Config: soup.yaml sha256:{sha256('soup.yaml')}",
        f"Soup-Dataset: {ROWS_FILE} sha256:{sha256(ROWS_FILE)}",
        "Soup-Base-Model: models/tiny",
        parsed[-1],
    ]
    assert parsed[-1].startswith("Soup-Version: ")
    listed = git("for-each-ref", "--format=%(contents:trailers:key=Soup-Base-Model,valueonly)", "refs/heads/more").stdout  # fmt: skip
    assert listed.strip() == "models/tiny"


@pytest.mark.parametrize("base", ["a\nSoup-Config: soup.yaml sha256:0", "x\x1b[31m", "Soup-Version: 9"])  # fmt: skip
def test_a_hostile_base_forges_no_trailer(base, pinned, soup, git):
    done = soup("branch", "more", "--base", base)
    assert "\x1b" not in done.stdout + done.stderr
    message = git("log", "-1", "--format=%B", "more").stdout
    assert "\x1b" not in message
    keys = [line.partition(":")[0] for line in git("interpret-trailers", "--parse", stdin=message).stdout.splitlines()]  # fmt: skip
    assert keys == ["Soup-Config", "Soup-Dataset", "Soup-Base-Model", "Soup-Version"]


def test_the_branch_holds_what_its_lock_says(pinned, soup, git):
    soup("branch", "more")
    lock = lock_at(git, "more")
    assert (
        lock["config_sha"]
        == hashlib.sha256(git("show", "more:soup.yaml").stdout.encode()).hexdigest()
    )
    assert lock["dataset_md5"] in git("show", f"more:{ROWS_FILE}.dvc").stdout
    assert lock["adapters"] == {"adapters/support": lock["adapters"]["adapters/support"]}
    assert lock["seed"] == 7
    assert git("log", "-1", "--format=%P", "more").stdout == git("rev-parse", "main").stdout


def test_another_config_dataset_base_and_start(pinned, soup, git):
    Path("configs").mkdir()
    Path("configs/eu.yaml").write_text("base: org/other\ndata: {train: nowhere.jsonl}\n")
    Path("data/eu.jsonl").write_text(ROWS)
    soup("branch", "eu", "-c", "configs/eu.yaml", "--dataset", "data/eu.jsonl", "--base", "models/tiny", "--from", "politer")  # fmt: skip
    lock = lock_at(git, "eu")
    assert (lock["config_path"], lock["dataset_path"], lock["base_model"]) == ("configs/eu.yaml", "data/eu.jsonl", "models/tiny")  # fmt: skip
    assert git("rev-parse", "eu^").stdout == git("rev-parse", "politer").stdout
    assert git("show", "eu:data/eu.jsonl").stdout == ROWS
    soup("checkout", "eu")
    assert soup("lock", "check").returncode == 0


def test_from_a_subfolder_paths_are_read_there(pinned, soup, git):
    Path("data/eu.jsonl").write_text(ROWS)
    Path("data/eu.yaml").write_text(CONFIG)
    soup("branch", "eu", "-c", "eu.yaml", "--dataset", "eu.jsonl", cwd=pinned / "data")
    assert lock_at(git, "eu")["config_path"] == "data/eu.yaml"
    assert lock_at(git, "eu")["dataset_path"] == "data/eu.jsonl"


def test_switch_goes_there(pinned, soup, git):
    Path("soup.yaml").write_text(CONFIG + "# edited\n")
    soup("branch", "more", "--switch")
    assert git("branch", "--show-current").stdout == "more\n"
    assert git("status", "--porcelain").stdout == ""


def test_switch_with_untracked_inputs(plain, soup, git):
    soup("branch", "first", "--switch")
    assert git("branch", "--show-current").stdout == "first\n"
    assert git("status", "--porcelain").stdout == ""


def test_on_a_detached_head(pinned, soup, git):
    git("checkout", "-q", "--detach")
    soup("branch", "more")
    assert git("rev-parse", "more^").stdout == git("rev-parse", "main").stdout


def test_before_the_first_commit(tmp_path, soup, git, refused):
    git("init", "-q", "new")
    soup("init", cwd=tmp_path / "new")
    (tmp_path / "new" / "soup.yaml").write_text("base: x/y\n")
    refused(soup("branch", "more", cwd=tmp_path / "new", check=False), 128, "commit")


# -- datasets ----------------------------------------------------------------------------------


def test_data_that_git_tracks_is_committed_as_it_is(plain, soup, git):
    git("add", ROWS_FILE)
    Path(ROWS_FILE).write_bytes(b"crlf\r\n\xff\x00not text")
    soup("branch", "more")
    oid = git("rev-parse", f"more:{ROWS_FILE}").stdout.strip()
    assert oid == git("hash-object", "--no-filters", ROWS_FILE).stdout.strip()
    assert git("ls-tree", "-r", "--name-only", "more").stdout.count("train.jsonl") == 1


def test_small_untracked_data_goes_into_git(plain, soup, git):
    soup("branch", "more")
    assert git("show", f"more:{ROWS_FILE}").stdout == ROWS
    assert "?? data/" in git("status", "--porcelain").stdout


def test_large_untracked_data_goes_into_the_cache_with_its_ignore_line(plain, soup, git):
    with Path(ROWS_FILE).open("wb") as file:
        file.truncate(MANY)
    soup("branch", "more")
    listed = git("ls-tree", "-r", "--name-only", "more").stdout.split()
    assert ROWS_FILE not in listed
    assert f"{ROWS_FILE}.dvc" in listed
    assert git("show", "more:data/.gitignore").stdout == "/train.jsonl\n"
    lock = lock_at(git, "more")
    md5 = lock["dataset_md5"]
    assert Path(".dvc/cache/files/md5", md5[:2], md5[2:]).stat().st_size == MANY
    assert not Path("data/.gitignore").exists()
    Path(ROWS_FILE).unlink()
    soup("checkout", "more")
    assert Path(ROWS_FILE).stat().st_size == MANY
    assert git("status", "--porcelain").stdout == ""
    soup("fsck")


def test_large_data_that_git_tracks_stays_in_git(plain, soup, git):
    with Path(ROWS_FILE).open("wb") as file:
        file.truncate(MANY)
    git("add", ROWS_FILE)
    soup("branch", "more")
    listed = git("ls-tree", "-r", "--name-only", "more").stdout.split()
    assert ROWS_FILE in listed
    assert f"{ROWS_FILE}.dvc" not in listed


def test_data_with_a_pointer_gets_a_new_pointer(pinned, soup, git, dvc):
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    soup("branch", "more")
    md5 = hashlib.md5(POLITE_ROWS.encode()).hexdigest()
    assert md5 in git("show", f"more:{ROWS_FILE}.dvc").stdout
    assert md5 not in Path(f"{ROWS_FILE}.dvc").read_text()
    soup("checkout", "--force", "more")
    assert json.loads(dvc("status", "--json").stdout) == {}


def test_data_whose_pointer_is_not_staged_yet_gets_a_pointer(plain, soup, git, dvc):
    dvc("add", "--quiet", ROWS_FILE)
    soup("branch", "more")
    names = git("ls-tree", "-r", "--name-only", "more", "data").stdout.split()
    assert names == ["data/.gitignore", f"{ROWS_FILE}.dvc"]
    soup("checkout", "more")
    assert git("status", "--porcelain").stdout == ""


def test_data_whose_file_is_gone_is_pinned_by_its_pointer(pinned, soup, git):
    Path(ROWS_FILE).unlink()
    soup("branch", "more")
    assert lock_at(git, "more")["dataset_sha"] == hashlib.sha256(ROWS.encode()).hexdigest()


def test_a_folder_in_git_is_replaced_whole(plain, soup, git):
    for name in ("a", "b"):
        Path("rows").mkdir(exist_ok=True)
        Path("rows", name).write_text(name)
    git("add", "rows")
    git("commit", "-qm", "Add rows")
    Path("rows/a").unlink()
    Path("rows/c").write_text("c")
    soup("branch", "more", "--dataset", "rows")
    assert git("ls-tree", "-r", "--name-only", "more", "rows").stdout.split() == [
        "rows/b",
        "rows/c",
    ]
    digests = "".join(sorted(f"{sha256(f'rows/{n}')}  {n}\n" for n in ("b", "c")))
    assert lock_at(git, "more")["dataset_sha"] == hashlib.sha256(digests.encode()).hexdigest()


def test_a_large_folder_goes_into_the_cache(plain, soup, git, dvc):
    Path("rows/sub").mkdir(parents=True)
    for name in ("a", "sub/b"):
        with Path("rows", name).open("wb") as file:
            file.truncate(30_000_000)
    soup("branch", "more", "--dataset", "rows", "--switch")
    assert "nfiles: 2" in git("show", "more:rows.dvc").stdout
    assert json.loads(dvc("status", "--json").stdout) == {}


def test_the_start_may_hold_the_data_the_other_way(pinned, soup, git, dvc):
    git("checkout", "-q", "-b", "small")
    dvc("remove", f"{ROWS_FILE}.dvc")
    git("add", "-f", ROWS_FILE, "data")
    git("commit", "-qam", "Keep the rows in git")
    soup("branch", "one", "--from", "main")
    names = git("ls-tree", "-r", "--name-only", "one", "data").stdout.split()
    assert ROWS_FILE in names
    assert f"{ROWS_FILE}.dvc" not in names, "git and DVC would both own it"
    soup("checkout", "main")
    soup("branch", "two", "--from", "small")
    names = git("ls-tree", "-r", "--name-only", "two", "data").stdout.split()
    assert ROWS_FILE not in names
    assert f"{ROWS_FILE}.dvc" in names


@pytest.mark.parametrize("kind", ["absolute", "dotdot", "link to a file", "link to a folder", "git's own"])  # fmt: skip
def test_data_outside_is_refused(kind, plain, soup, photo, refused):
    outside = plain.parent / "outside"
    outside.mkdir()
    (outside / "rows.jsonl").write_text(ROWS)
    Path("data/link.jsonl").symlink_to(outside / "rows.jsonl")
    Path("linked").symlink_to(outside)
    named = {
        "absolute": outside / "rows.jsonl",
        "dotdot": "../outside/rows.jsonl",
        "link to a file": "data/link.jsonl",
        "link to a folder": "linked/rows.jsonl",
        "git's own": ".git/config",
    }[kind]
    before = photo()
    refused(soup("branch", "more", "--dataset", named, check=False), 128)
    assert photo() == before
    Path("soup.yaml").write_text(f"base: models/tiny\ndata: {{train: {named}}}\n")
    refused(soup("branch", "more", check=False), 128)


def test_a_part_of_what_dvc_tracks_is_refused(pinned, soup, dvc, git, photo, refused):
    Path("rows").mkdir()
    Path("rows/a").write_text("a")
    dvc("add", "--quiet", "rows")
    git("add", "rows.dvc", ".gitignore")
    before = photo()
    refused(soup("branch", "more", "--dataset", "rows/a", check=False), 128, "rows")
    assert photo() == before


def test_data_that_is_nowhere_is_refused(plain, soup, photo, refused):
    Path(ROWS_FILE).unlink()
    before = photo()
    refused(soup("branch", "more", check=False), 128, ROWS_FILE)
    refused(soup("branch", "more", "--dataset", "x" * 300, check=False), 128)
    assert photo() == before


def test_without_data_the_pin_is_null_and_said(repo, soup, git):
    Path("soup.yaml").write_text("base: org/tiny\n")
    done = soup("branch", "more")
    assert "dataset is not pinned" in done.stderr
    assert lock_at(git, "more")["dataset_sha"] is None
    assert lock_at(git, "more")["closure_sha"] is None
    soup("checkout", "more")


# -- the config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"a: [", "YAML"),
        (b"- a\n", "mapping"),
        (b"\xff\xff", "YAML"),
        (b"[" * 100_000, "YAML"),
        (b"a: &a [x]\n" + b"".join(b"b%d: *a\n" % n for n in range(40)), "aliases"),
        (b"# " + b"x" * (1 << 20), "1 MiB"),
    ],
    ids=["cut off", "a list", "binary", "deep", "aliases", "large"],
)
def test_a_config_that_is_none(text, word, plain, soup, photo, refused):
    Path("soup.yaml").write_bytes(text)
    before = photo()
    refused(soup("branch", "more", check=False), 128, word, "soup.yaml")
    assert photo() == before


def test_a_config_that_is_not_there_or_outside(plain, soup, refused):
    refused(soup("branch", "more", "-c", "nowhere.yaml", check=False), 128, "nowhere.yaml")
    refused(soup("branch", "more", "-c", "data", check=False), 128, "data")
    (plain.parent / "out.yaml").write_text(CONFIG)
    refused(soup("branch", "more", "-c", "../out.yaml", check=False), 128, "outside")


# -- names, and branches that exist -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "a..b", "x.lock", "x.", "a/b", "", "ä", "a b", "a~1", "HEAD", "x" * 129, "\x1b[31m", "a\nb", "@{-1}"])  # fmt: skip
def test_a_name_that_is_none(name, pinned, soup, photo, refused):
    before = photo()
    done = soup("branch", name, check=False)
    refused(done, 128)
    assert "\x1b" not in done.stderr
    assert photo() == before


@pytest.mark.parametrize("name", ["-x", "--foo"])
def test_a_name_that_looks_like_an_option(name, pinned, soup, photo):
    before = photo()
    assert soup("branch", name, check=False).returncode == 129
    done = soup("branch", "--", name, check=False)
    assert done.returncode == 128
    assert "not a valid branch name" in done.stderr
    assert photo() == before


@pytest.mark.parametrize("name", ["x", "7", "v1.0_a-B", "x" * 128, "lock", "deadbeef"])
def test_names_that_are_fine(name, pinned, soup, git):
    soup("branch", name)
    assert git("rev-parse", "--verify", f"refs/heads/{name}").returncode == 0


def test_a_name_that_exists_is_refused_and_force_keeps_the_old_tip(
    pinned, soup, git, refused, photo
):
    old = git("rev-parse", "politer").stdout.strip()
    before = photo()
    refused(soup("branch", "politer", check=False), 128, "politer", "--force")
    assert photo() == before
    soup("branch", "--force", "politer")
    assert git("rev-parse", "politer").stdout.strip() != old
    assert git("rev-parse", "politer@{1}").stdout.strip() == old
    assert "git soup branch" in git("reflog", "politer").stdout


def test_force_never_moves_a_branch_that_is_checked_out(pinned, soup, git, refused, photo):
    refused(soup("branch", "--force", "main", check=False), 128, "main")
    git("worktree", "add", "-q", "../linked", "politer")
    before = photo()
    refused(soup("branch", "--force", "politer", check=False), 128, "linked")
    assert photo() == before


def test_a_name_below_one_that_exists(pinned, soup, git, refused):
    git("branch", "team/a")
    refused(soup("branch", "team", check=False), 128, "team/a")


def test_delete_as_git_does(pinned, soup, git, refused):
    Path("soup.yaml").write_text(CONFIG + "# new\n")
    soup("branch", "more")
    done = soup("branch", "-d", "more", check=False)
    refused(done, 128, "not fully merged", "git soup branch -d --force more")
    soup("branch", "-d", "--force", "more")
    assert not git("branch", "--list", "more").stdout
    refused(soup("branch", "-d", "more", check=False), 128, "more")
    refused(soup("branch", "-d", "main", check=False), 128, "main")


def test_rename_as_git_does(pinned, soup, git, refused):
    old = git("rev-parse", "politer").stdout
    soup("branch", "-m", "politer", "kinder")
    assert git("rev-parse", "kinder").stdout == old
    refused(soup("branch", "-m", "kinder", "main", check=False), 128, "main")
    refused(soup("branch", "-m", "nowhere", "x", check=False), 128, "nowhere")
    refused(soup("branch", "-m", "kinder", "x.lock", check=False), 128, "x.lock")
    assert soup("branch", "-m", "kinder", check=False).returncode == 129


def test_options_that_do_not_go_together(pinned, soup):
    assert soup("branch", "-d", "-m", "politer", "x", check=False).returncode == 129
    assert soup("branch", "a", "b", check=False).returncode == 129
    assert soup("branch", "--base", "org/x", check=False).returncode == 129


def test_a_revision_that_is_none(pinned, soup, refused):
    refused(soup("branch", "more", "--from", "nowhere", check=False), 128, "nowhere")
    refused(soup("branch", "more", "--from", "-x", check=False), 128, "-x")


def test_without_an_identity(pinned, soup, refused, photo):
    nobody = {"GIT_AUTHOR_NAME": "", "GIT_COMMITTER_NAME": "", "GIT_AUTHOR_EMAIL": "", "GIT_COMMITTER_EMAIL": ""}  # fmt: skip
    before = photo()
    refused(soup("branch", "more", env=nobody, check=False), 128, "user.name")
    assert photo() == before


# -- many at once ----------------------------------------------------------------------------------


def test_eight_at_the_same_moment_are_all_there(pinned, git):
    Path(ROWS_FILE).write_text(POLITE_ROWS)
    names = [f"at-once-{n}" for n in range(8)]
    running = [
        subprocess.Popen(["git", "soup", "branch", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in names
    ]  # fmt: skip
    ended = [(p.communicate()[1], p.returncode) for p in running]
    assert [code for _, code in ended] == [0] * 8, ended
    listed = git("for-each-ref", "--format=%(refname:short)", "refs/heads/at-once-*").stdout.split()
    assert listed == names
    assert not list(Path(".git").rglob("*.lock"))
    git("fsck", "--strict")


def test_of_eight_that_want_one_name_one_gets_it(pinned, git):
    running = [
        subprocess.Popen(["git", "soup", "branch", "mine"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]  # fmt: skip
    ended = [(p.communicate()[1], p.returncode) for p in running]
    assert sorted(code for _, code in ended) == [0] + [128] * 7, ended
    assert all("mine" in said and "exists" in said for said, code in ended if code), ended
    assert not list(Path(".git").rglob("*.lock"))


def test_a_lock_that_a_killed_git_left_is_named(pinned, soup, refused):
    stale = Path(".git/refs/heads/more.lock")
    stale.touch()
    os.utime(stale, (1, 1))
    done = soup("branch", "more", check=False)
    refused(done, 128, str(stale), "seconds old", "rm ")
    assert stale.exists(), "it is never removed silently"
    command = done.stderr.partition("hint: ")[2].partition(": ")[2].strip()
    assert os.system(command) == 0
    soup("branch", "more")
