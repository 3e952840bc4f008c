"""Repositories that use DVC in their own ways; what DVC says afterwards is the oracle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc_data.hashfile.hash import file_md5

from tests.conftest import Run, runner
from tests.warm import Warm, program_launcher

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def dvc_path(tmp_path_factory: pytest.TempPathFactory, warm_path: str) -> Iterator[str]:
    """A PATH whose `dvc` and `git-soup` need no start."""
    server, folder = Warm("dvc"), tmp_path_factory.mktemp("dvc")
    program_launcher(folder, "dvc", "dvc", server)
    server.start()
    yield f"{folder}{os.pathsep}{warm_path}"
    server.stop()


@pytest.fixture
def dvc(dvc_path: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PATH", dvc_path)
    return runner("dvc")


@pytest.fixture
def sh(dvc: Run) -> Run:
    """`sh(LINE)`: as typed into a shell."""
    return runner("sh", "-c")


def is_clean(dvc: Run, folder: Path | None = None) -> bool:
    return bool(json.loads(dvc("status", "--json", cwd=folder).stdout) == {})


def hint_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 128, done.stderr
    return re.search(r"(?m)^hint: (.*)$", done.stderr)[1]  # type: ignore[index]


def states(soup: Run) -> dict[str, str]:
    return {a["path"]: a["state"] for a in json.loads(soup("status", "--json").stdout)["adapters"]}


def md5_named(pointer: str) -> str:
    return re.search(r"md5: (\w+)", Path(pointer).read_text())[1]  # type: ignore[index]


# -- links into the cache ---------------------------------------------------------------------


@pytest.fixture
def linked(repo: Path, soup: Run, git: Run, dvc: Run, make_adapter) -> Path:
    """Two versions of an adapter on two branches, and data, all links as DVC makes them."""
    dvc("config", "cache.type", "symlink")
    make_adapter("a", seed=1)
    Path("rows").mkdir()
    Path("rows", "x.txt").write_text("x\n")
    dvc("add", f"a/{WEIGHTS}", "rows")
    soup("add", "a")
    git("add", "--all")
    git("commit", "-qm", "one")
    git("switch", "-qc", "two")
    Path("a", WEIGHTS).unlink()
    make_adapter("a", seed=2)
    soup("add", "a")
    git("commit", "-qam", "two")
    dvc("checkout", "--relink")
    assert Path("a", WEIGHTS).is_symlink()
    assert Path("rows", "x.txt").is_symlink()
    return repo


def test_weights_that_are_dvcs_own_links_are_adapters(linked, soup, git, dvc):
    for verb in (["status"], ["fsck"], ["show", "a"], ["checkout"], ["add", "a"]):
        soup(*verb)
    assert states(soup)["a"] == "clean"
    assert git("status", "--porcelain").stdout == ""
    assert is_clean(dvc)


def test_git_switch_replaces_a_link_and_never_writes_through_it(linked, soup, git, dvc):
    for branch in ("main", "two", "main"):
        assert git("switch", "-q", branch).stderr == ""
        assert Path("a", WEIGHTS).is_symlink()
        assert Path("a", WEIGHTS).readlink().name == md5_named(f"a/{WEIGHTS}.dvc")[2:]
        assert is_clean(dvc)
    assert soup("fsck").stdout.endswith("clean\n")


def test_links_that_dangle_since_the_repository_was_moved_are_made_anew(linked, soup, dvc):
    linked.rename(linked.with_name("moved"))
    os.chdir(linked.with_name("moved"))
    assert not Path("a", WEIGHTS).exists()
    soup("checkout")
    assert Path("a", WEIGHTS).exists()
    assert Path("rows", "x.txt").read_text() == "x\n"
    assert is_clean(dvc)


def test_a_link_that_leads_elsewhere_is_still_refused(repo, soup, make_adapter, refused):
    make_adapter("elsewhere", seed=1)
    make_adapter("a", seed=1)
    Path("a", WEIGHTS).unlink()
    Path("a", WEIGHTS).symlink_to(Path("elsewhere", WEIGHTS).absolute())
    refused(soup("add", "a", check=False), 128, "symbolic link")


# -- stages of one's own ----------------------------------------------------------------------


def pipeline(text: str, folder: str = ".") -> None:
    Path(folder, "dvc.yaml").write_text(text)


ONE = f"""\
stages:
  fit:
    cmd: cp made/{WEIGHTS} a/{WEIGHTS}
    deps: [made]
    outs: [a/{WEIGHTS}]
"""


@pytest.fixture
def fitted(repo: Path, git: Run, dvc: Run, make_adapter) -> Path:
    """A stage of the user's own has made an adapter; nothing of it is committed."""
    make_adapter("made", seed=1)
    make_adapter("a", seed=9)
    Path("a", WEIGHTS).unlink()
    pipeline(ONE)
    dvc("repro", "-q")
    return repo


def test_the_manifest_of_a_stages_adapter_is_written_after_the_run(fitted, soup, git, dvc):
    told = soup("add", "a")
    assert "git add dvc.yaml dvc.lock" in told.stderr
    assert not Path("a", f"{WEIGHTS}.dvc").exists()
    assert is_clean(dvc)
    assert states(soup)["a"] == "clean"
    git("add", "dvc.yaml", "dvc.lock")
    git("commit", "-qm", "one")
    assert soup("fsck").stdout.endswith("clean\n")


def test_after_the_next_run_the_manifest_is_written_anew(fitted, soup, git, dvc, make_adapter):
    soup("add", "a")
    git("add", "dvc.yaml", "dvc.lock")
    git("commit", "-qm", "one")
    git("switch", "-qc", "two")
    make_adapter("made", seed=2)
    dvc("repro", "-q")
    assert re.search(r"drifted +a .*; after a run, git soup add a\n", soup("status").stdout)
    assert soup("add", "a").stdout.startswith("changed")
    git("commit", "-qam", "two")
    assert soup("fsck").stdout.endswith("clean\n")
    for branch in ("main", "two"):
        git("switch", "-q", branch)
        assert states(soup)["a"] == "clean"
        dvc("commit", "--force", "--no-verify", check=False)


def test_weights_that_are_not_what_the_stage_made_are_refused(fitted, soup, dvc, sh, make_adapter):
    make_adapter("a", seed=3)
    assert "dvc commit" in hint_of(soup("add", "a", check=False))
    dvc("commit", "--force", "-q")
    soup("add", "a")
    assert is_clean(dvc)


def test_a_stage_that_never_ran_owns_its_output_already(repo, soup, dvc, sh, make_adapter):
    make_adapter("made", seed=1)
    make_adapter("a", seed=1)
    pipeline(ONE)
    hint = hint_of(soup("add", "a", check=False))
    assert not Path("a", f"{WEIGHTS}.dvc").exists()
    sh(re.search(r"dvc commit --force \S+", hint)[0])  # type: ignore[index]
    soup("add", "a")
    assert is_clean(dvc)


def test_adapters_that_no_template_of_a_stage_names_are_added_as_ever(
    repo, soup, dvc, make_adapter
):
    make_adapter("other", seed=1)
    pipeline(f"vars: [{{where: a}}]\n{ONE}".replace(f"[a/{WEIGHTS}]", f'["${{where}}/{WEIGHTS}"]'))
    soup("add", "other")
    assert Path("other", f"{WEIGHTS}.dvc").exists()
    make_adapter("a", seed=1)
    assert "stage fit" in soup("add", "a", check=False).stderr


def test_pointer_and_stage_for_one_file(fitted, soup, dvc, sh):
    Path("a", f"{WEIGHTS}.dvc").write_text(
        f"outs:\n- md5: {'0a' * 16}\n  size: 1\n  hash: md5\n  path: {WEIGHTS}\n"
    )
    assert "is specified in" in dvc("repro", check=False).stderr
    hint = hint_of(soup("add", "a", check=False))
    sh(hint.replace(", then", " &&"))
    assert is_clean(dvc)


MANY = f"""\
stages:
  each:
    foreach: [a, b]
    do:
      wdir: work
      cmd: cp ../made/{WEIGHTS} ${{item}}/
      outs: ["${{item}}/{WEIGHTS}"]
  grid:
    matrix: {{x: [1, 2]}}
    cmd: cp ../made/{WEIGHTS} ../c${{item.x}}/
    outs: ["../c${{item.x}}/{WEIGHTS}"]
"""
MADE = ("sub/work/a", "sub/work/b", "c1", "c2")


def test_foreach_and_matrix_stages_in_a_folder_with_a_wdir(repo, soup, git, dvc, make_adapter):
    make_adapter("made", seed=1)
    for folder in MADE:
        make_adapter(folder, seed=9)
        Path(folder, WEIGHTS).unlink()
    make_adapter("sub/made", seed=1)
    pipeline(MANY, "sub")
    dvc("repro", "-q", "sub/dvc.yaml")
    soup("add", *MADE)
    git("add", "--all", ":!made", ":!sub/made")
    git("commit", "-qm", "many")
    assert is_clean(dvc)
    assert {states(soup)[folder] for folder in MADE} == {"clean"}
    assert soup("fsck").stdout.endswith("clean\n")
    assert not list(Path().rglob(f"{WEIGHTS}.dvc"))
    for folder in MADE:
        Path(folder, WEIGHTS).unlink()
    soup("checkout")
    assert all(Path(folder, WEIGHTS).is_file() for folder in MADE)
    assert is_clean(dvc)


def test_git_merges_runs_of_a_foreach_entry_by_entry(repo, soup, git, dvc, make_adapter, tmp_path):
    made = tmp_path / "made"
    pipeline(
        f"stages:\n  fit:\n    foreach: [a, b]\n    do:\n"
        f"      cmd: cp {made}/${{item}}/{WEIGHTS} ${{item}}/{WEIGHTS}\n"
        f"      outs:\n      - ${{item}}/{WEIGHTS}\n"
    )

    def train(branch: str, seeds: dict[str, int]) -> None:
        git("switch", "-qc", branch)
        for folder, seed in seeds.items():
            make_adapter(made / folder, seed=seed)
            dvc("repro", "-q", "--force", "--single-item", f"fit@{folder}")
            soup("add", folder)
        git("add", "--all")
        git("commit", "-qm", branch)

    for folder in "ab":
        make_adapter(folder, seed=1)
        Path(folder, WEIGHTS).unlink()
    train("base", {"a": 1, "b": 1})
    train("left", {"a": 2})
    git("switch", "-q", "base")
    train("right", {"b": 3})
    wanted = md5_of("b")
    git("merge", "-q", "--no-edit", "left")
    assert is_clean(dvc)
    assert states(soup) == {"a": "clean", "b": "clean"}
    assert (md5_of("a"), md5_of("b")) == (md5_of(made / "a"), wanted)
    # Both trained one entry again: its adapters are combined, as those of any stage.
    git("switch", "-q", "left")
    train("again", {"b": 4})
    git("switch", "-q", "right")
    git("merge", "-q", "--no-edit", "again")
    assert is_clean(dvc)
    assert states(soup) == {"a": "clean", "b": "clean"}
    assert md5_of("b") not in {wanted, md5_of(made / "b")}
    assert soup("fsck").stdout.endswith("clean\n")


def md5_of(folder: Path | str) -> str:
    return hashlib.md5(Path(folder, WEIGHTS).read_bytes(), usedforsecurity=False).hexdigest()


def test_a_stage_whose_output_is_the_folder(repo, soup, dvc, make_adapter):
    make_adapter("made", seed=1)
    pipeline("stages:\n  fit:\n    cmd: cp -r made a\n    outs: [a]\n")
    dvc("repro", "-q")
    hint = hint_of(soup("add", "a", check=False))
    assert f"name a/{WEIGHTS}" in hint
    pipeline(Path("dvc.yaml").read_text().replace("[a]", f"[a/{WEIGHTS}]"))
    pipeline(Path("dvc.yaml").read_text().replace("cp -r made a", "mkdir -p a && cp made/* a"))
    dvc("repro", "-q")
    soup("add", "a")
    assert is_clean(dvc)


# -- pointers and imports that are not committed yet ------------------------------------------


@pytest.mark.parametrize("staged", [False, True])
def test_a_folder_tracked_as_a_whole_is_refused_and_the_hint_gets_one_through(
    staged, repo, soup, git, dvc, sh, make_adapter
):
    make_adapter("x y/d", seed=1)
    dvc("add", "x y/d")
    if staged:
        git("add", "--all")
    hint = hint_of(soup("add", "x y/d", check=False))
    assert not Path("x y/d", "adapter.manifest").exists()
    sh(hint.partition(", then")[0])
    soup("add", "x y/d")
    assert is_clean(dvc)
    dvc("checkout", "--force")
    assert Path("x y/d", "adapter.manifest").exists()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, dvc_path: str, make_adapter) -> Path:
    """A repository of somebody else's that has an adapter in DVC."""
    root = tmp_path_factory.mktemp("source")
    make_adapter(root / "a", seed=5)
    for words in ("git init -q", "dvc init -q", f"dvc add -q a/{WEIGHTS}", "git add --all", "git commit -qm a"):  # fmt: skip
        subprocess.run(words.split(), cwd=root, check=True, env={**os.environ, "PATH": dvc_path})
    return root


def test_an_imported_folder_is_refused_before_it_is_committed(source, repo, soup, dvc, sh):
    dvc("import", source, "a", "-o", "got")
    hint = hint_of(soup("add", "got", check=False))
    sh(hint.partition(", then")[0])
    soup("add", "got")
    assert is_clean(dvc)


def test_imported_weights_get_a_manifest_and_stay_an_import(source, repo, soup, dvc, make_adapter):
    make_adapter("got", seed=5)
    Path("got", WEIGHTS).unlink()
    dvc("import", source, f"a/{WEIGHTS}", "-o", f"got/{WEIGHTS}")
    before = Path("got", f"{WEIGHTS}.dvc").read_bytes()
    soup("add", "got")
    assert Path("got", f"{WEIGHTS}.dvc").read_bytes() == before
    assert states(soup)["got"] == "clean"
    make_adapter("got", seed=6)
    hint = hint_of(soup("add", "got", check=False))
    assert "dvc update" in hint
    assert "dvc remove" in hint


def test_a_pointer_keeps_what_else_it_says(repo, soup, dvc, make_adapter):
    make_adapter("a", seed=1)
    dvc("add", f"a/{WEIGHTS}")
    pointer = Path("a", f"{WEIGHTS}.dvc")
    pointer.write_text(f"{pointer.read_text()}  desc: of ours\nmeta:\n  owner: ada\n")
    before = pointer.read_text()
    soup("add", "a")
    assert pointer.read_text() == before
    make_adapter("a", seed=2)
    soup("add", "a")
    assert "  desc: of ours\nmeta:\n  owner: ada\n" in pointer.read_text()
    assert is_clean(dvc)


def test_a_pointer_elsewhere_is_refused_and_the_hint_gets_one_through(repo, soup, dvc, sh, make_adapter):  # fmt: skip
    make_adapter("a", seed=1)
    dvc("add", f"a/{WEIGHTS}")
    Path("a", f"{WEIGHTS}.dvc").rename("mine.dvc")
    Path("mine.dvc").write_text(Path("mine.dvc").read_text() + "wdir: a\n")
    assert is_clean(dvc)
    hint = hint_of(soup("add", "a", check=False))
    sh(hint.replace(", then", " &&"))
    assert is_clean(dvc)
    assert shlex.split(hint)[:2] == ["dvc", "remove"]


def test_a_config_that_dvc_tracks(repo, soup, dvc, sh, make_adapter):
    make_adapter("a", seed=1)
    dvc("add", "a/adapter_config.json")
    hint = hint_of(soup("add", "a", check=False))
    sh(hint.partition(", then")[0])
    soup("add", "a")
    assert is_clean(dvc)


# -- projects in folders ----------------------------------------------------------------------


def subproject(folder: str, git: Run, dvc: Run, soup: Run) -> None:
    Path(folder).mkdir(parents=True)
    dvc("init", "-q", "--subdir", cwd=Path(folder))
    soup("init", cwd=Path(folder))


@pytest.fixture
def monorepo(in_tmp_path: Path, git: Run, soup: Run, dvc: Run, make_adapter, monkeypatch) -> Path:
    """A project in `ml/x`, with an adapter in two versions, and one in `ml/y`."""
    root = in_tmp_path / "mono"
    root.mkdir()
    monkeypatch.chdir(root)
    git("init", "-q")
    Path("README").write_text("much else\n")
    for folder, seed in (("ml/x", 1), ("ml/y", 7)):
        subproject(folder, git, dvc, soup)
        make_adapter(f"{folder}/a", seed=seed)
        soup("add", "a", cwd=Path(folder))
    git("add", "--all")
    git("commit", "-qm", "one")
    git("switch", "-qc", "two")
    make_adapter("ml/x/a", seed=2)
    soup("add", "ml/x/a")
    git("commit", "-qam", "two")
    return root


def test_a_project_in_a_folder_is_used_and_none_is_made_at_the_top(monorepo, soup, git, dvc):
    assert not Path(".dvc").exists()
    assert not Path(".gitattributes").exists()
    for folder in ("ml/x", "ml/y"):
        assert is_clean(dvc, Path(folder))
        assert soup("init", "--check", cwd=Path(folder)).returncode == 0
    assert soup("init", "--check").returncode == 0
    assert states(soup) == {"ml/x/a": "clean", "ml/y/a": "clean"}
    assert soup("fsck").stdout.endswith("clean\n")


def test_each_project_keeps_its_own_objects(monorepo, dvc):
    for folder in ("ml/x", "ml/y"):
        Path(folder, "a", WEIGHTS).unlink()
        dvc("checkout", cwd=Path(folder))
        assert Path(folder, "a", WEIGHTS).is_file()


def test_git_moves_the_weights_of_a_project_in_a_folder(monorepo, soup, git, dvc):
    for branch in ("main", "two"):
        assert git("switch", "-q", branch).stderr == ""
        assert states(soup)["ml/x/a"] == "clean"
        assert is_clean(dvc, Path("ml/x"))
    git("switch", "-q", "main", cwd=Path("ml/x"))
    assert states(soup)["ml/x/a"] == "clean"
    assert "q_proj" in soup("diff", "HEAD:ml/x/a", "two:ml/x/a", cwd=Path("ml/x")).stdout


def test_git_merges_adapters_of_a_project_in_a_folder(monorepo, soup, git, dvc, make_adapter):
    git("switch", "-q", "main")
    make_adapter("ml/x/a", seed=3)
    soup("add", "ml/x/a")
    git("commit", "-qam", "three")
    git("merge", "-q", "--no-edit", "two")
    assert states(soup)["ml/x/a"] == "clean"
    assert is_clean(dvc, Path("ml/x"))


def test_a_clone_completes_the_projects_that_it_has(monorepo, soup, git, dvc, tmp_path):
    for folder in ("ml/x", "ml/y"):
        dvc("remote", "add", "-d", "store", tmp_path / "store", cwd=Path(folder))
        dvc("push", "-q", "-a", cwd=Path(folder))
    git("commit", "-qam", "remotes")
    git("clone", "-q", monorepo, tmp_path / "clone")
    clone = tmp_path / "clone"
    soup("init", cwd=clone)
    assert not (clone / ".dvc").exists()
    for folder in (clone / "ml/x", clone / "ml/y"):
        soup("checkout", cwd=folder)
        assert (folder / "a" / WEIGHTS).is_file()
        assert is_clean(dvc, folder)


def test_in_a_linked_work_tree_a_project_in_a_folder_shares_its_cache(monorepo, soup, git, dvc):
    git("worktree", "add", "-q", "../linked", "main")
    assert Path("../linked/ml/x/a", WEIGHTS).is_file()
    assert is_clean(dvc, Path("../linked/ml/x"))
    assert not Path("../linked/ml/x/.dvc/cache").exists()


def test_a_folder_of_no_project_is_refused(monorepo, soup, make_adapter, refused):
    make_adapter("other/a", seed=1)
    refused(soup("add", "other/a", check=False), 128, "no DVC project", "dvc init --subdir")


def test_hints_fit_where_one_stands(monorepo, soup, dvc, sh, make_adapter, monkeypatch):
    make_adapter("ml/x/d", seed=1)
    monkeypatch.chdir("ml/x")
    dvc("add", "d")
    hint = hint_of(soup("add", "d", check=False))
    sh(hint.partition(", then")[0])
    soup("add", "d")
    assert is_clean(dvc)


def test_a_template_belongs_to_the_top(monorepo, soup, refused):
    refused(soup("init", "--template", "chat", cwd=Path("ml/x"), check=False), 128, "git init")


# -- experiments ------------------------------------------------------------------------------


def test_experiments_run_apart_where_init_has_run(repo, soup, git, dvc, sh, make_adapter, tmp_path):
    """DVC copies .git/config with a parser that refuses repeated keys."""
    git("remote", "add", "origin", "..")
    git("config", "include.path", "own")
    soup("init")
    make_adapter(tmp_path / "made", seed=1)
    make_adapter("a", seed=1)
    Path("a", WEIGHTS).unlink()
    pipeline(ONE.replace("made/", f"{tmp_path}/made/").replace("[made]", "[more]"))
    Path("more").write_text("an input\n")
    git("add", "--all")
    git("commit", "-qm", "one")
    dvc("exp", "run", "--temp", "-q", "--name", "apart")
    assert git("rev-parse", "--verify", "-q", "refs/exps/" + exps(git)).returncode == 0
    git("remote", "rename", "origin", "up")
    git("config", "--add", "remote.up.fetch", "+refs/pull/*:refs/pull/*")
    fetched = set(git("config", "--get-all", "remote.up.fetch").stdout.split())
    Path("more").write_text("another input\n")
    git("commit", "-qam", "two")
    dvc("exp", "run", "--queue", "-q", "--name", "queued")
    assert soup("init", "--check", check=False).returncode == 1
    soup("init")
    told = json.loads(soup("doctor", "--json", check=False).stdout)["checks"]
    (check,) = (c for c in told if c["name"] == "settings")
    assert check["found"] == "remote.up.fetch is in .git/config more than once"
    sh(check["fix"])
    again = json.loads(soup("doctor", "--json", check=False).stdout)["checks"]
    assert [c["state"] for c in again if c["name"] == "settings"] == ["ok"]
    assert soup("init", "--check").returncode == 0
    after = set(git("config", "--get-all", "remote.up.fetch").stdout.split())
    assert {line.replace("origin", "up") for line in fetched} == after
    dvc("queue", "start")
    until = time.monotonic() + 60
    while "/queued" not in git("for-each-ref", "refs/exps").stdout and time.monotonic() < until:
        time.sleep(0.2)
    assert "Success" in dvc("queue", "status").stdout
    dvc("queue", "stop", "--kill")


def exps(git: Run) -> str:
    refs = git("for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    return next(ref for ref in refs if ref.endswith("/apart")).removeprefix("refs/exps/")


# -- caches -----------------------------------------------------------------------------------


def modes(cache: Path) -> dict[str, str]:
    return {
        "folder" if path.is_dir() else "file": f"{path.stat().st_mode & 0o7777:o}"
        for path in sorted(cache.rglob("*"))
    }


@pytest.mark.parametrize("shared", [True, False])
def test_modes_in_a_cache_are_those_that_dvc_sets(shared, repo, soup, dvc, sh, make_adapter):
    """Whatever the umask: in a group's cache others must be able to read, and to add."""
    if shared:
        dvc("config", "cache.shared", "group")
    make_adapter("a", seed=1)
    sh(f"umask 077; dvc config --local cache.dir {repo.parent}/theirs; dvc add -q a/{WEIGHTS}")
    theirs = modes(repo.parent / "theirs")
    dvc("config", "--local", "cache.dir", repo.parent / "ours")
    # In a process of its own: a warm one keeps the umask that it was started with.
    sh(f"umask 077; {shlex.quote(sys.executable)} -m soup_git add a")
    ours = modes(repo.parent / "ours")
    assert ours["file"] == theirs["file"] == "444"
    assert ours["folder"] == (theirs["folder"] if shared else "700")


@pytest.mark.parametrize("level", ["--system", "--global", "--project", "--local"])
def test_a_cache_is_where_dvc_finds_it(level, repo, soup, dvc, make_adapter, tmp_path, monkeypatch):
    for name in ("SYSTEM", "GLOBAL"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"DVC_{name}_CONFIG_DIR", str(tmp_path / name))
    dvc("cache", "dir", level, "../else where")
    make_adapter("a", seed=1)
    soup("add", "a")
    md5 = md5_named(f"a/{WEIGHTS}.dvc")
    assert (repo.parent / "else where" / "files" / "md5" / md5[:2] / md5[2:]).is_file()
    assert is_clean(dvc)


def test_what_dvc_2_wrote_is_read_once_dvc_has_migrated_it(repo, soup, git, dvc):
    """Its cache has no files/md5, its pointers no hash, its digest of text counts no CR."""
    md5 = hashlib.md5(b'{"a": 1}\n', usedforsecurity=False).hexdigest()
    kept = Path(".dvc/cache", md5[:2], md5[2:])
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b'{"a": 1}\r\n')
    Path("rows.jsonl.dvc").write_text(f"outs:\n- md5: {md5}\n  size: 10\n  path: rows.jsonl\n")
    git("add", "rows.jsonl.dvc")
    git("commit", "-qm", "as DVC 2 wrote it")
    dvc("checkout")
    dvc("cache", "migrate", "--dvc-files")
    git("commit", "-qam", "migrated")
    Path("rows.jsonl").unlink()
    soup("checkout")
    assert Path("rows.jsonl").read_bytes() == b'{"a": 1}\r\n'
    assert is_clean(dvc)


@pytest.fixture
def of_dvc2(repo: Path, soup: Run, git: Run, dvc: Run, make_adapter) -> Path:
    """An adapter, text with CR LF and a folder with some, as DVC 2 keeps and names them."""
    make_adapter("a", seed=1)
    Path("rows.jsonl").write_bytes(b'{"a": 1}\r\n')
    Path("rows").mkdir()
    Path("rows", "x.txt").write_bytes(b"x\r\n")
    Path("rows", "y.bin").write_bytes(b"\0\r\n")
    soup("add", "a")
    dvc("add", "-q", "rows.jsonl", "rows")
    shutil.rmtree(".dvc/cache")
    listing = [{"md5": as_dvc2(f), "relpath": f.name} for f in sorted(Path("rows").iterdir())]
    Path("listing").write_text(json.dumps(listing))
    named = {
        Path("a", WEIGHTS): as_dvc2(Path("a", WEIGHTS)),
        Path("rows.jsonl"): as_dvc2(Path("rows.jsonl")),
        Path("rows"): hashlib.md5(Path("listing").read_bytes()).hexdigest() + ".dir",
    }
    for path, md5 in named.items():
        pointer = path.with_name(f"{path.name}.dvc")
        text = pointer.read_text().replace("  hash: md5\n", "")
        pointer.write_text(re.sub("md5: .*", f"md5: {md5}", text))
    objects = {named[f]: f for f in named if f.is_file()}
    objects |= {named[Path("rows")]: Path("listing")}
    objects |= {as_dvc2(f): f for f in Path("rows").iterdir()}
    for md5, file in objects.items():
        place = Path(".dvc/cache", md5[:2], md5[2:])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    Path("listing").unlink()
    git("add", "--all")
    git("commit", "-qm", "as DVC 2 wrote it")
    assert is_clean(dvc)
    return repo


def as_dvc2(file: Path) -> str:
    return str(file_md5(str(file), name="md5-dos2unix"))


def contents() -> dict[str, bytes]:
    files = [Path("a", WEIGHTS), Path("rows.jsonl"), *sorted(Path("rows").iterdir())]
    return {str(file): file.read_bytes() for file in files}


def test_what_dvc_2_wrote_is_read_as_it_is_and_named(of_dvc2, soup, git, dvc, sh):
    before = contents()
    told = json.loads(soup("status", "--json").stdout)
    assert {d["path"]: d["state"] for d in told["data"]} == {"rows": "clean", "rows.jsonl": "clean"}
    assert states(soup) == {"a": "clean"}
    assert soup("fsck").stdout.endswith("clean\n")
    for path in (Path("a", WEIGHTS), Path("rows.jsonl")):
        path.unlink()
    shutil.rmtree("rows")
    soup("checkout")
    assert contents() == before
    assert is_clean(dvc)
    assert "nothing to repair" in soup("checkout").stderr
    Path("rows.jsonl").write_text("another\n")
    assert "modified" in soup("status").stdout
    Path("rows.jsonl").write_bytes(before["rows.jsonl"])
    # The way that status names, as typed.
    (note,) = (line for line in told["notes"] if "DVC 2" in line)
    sh(f"{note.partition('layout, ')[2].replace(', then', ' &&')} -qm migrated")
    assert "DVC 2" not in soup("status").stdout
    assert is_clean(dvc)
    assert soup("fsck").stdout.endswith("clean\n")


def test_weights_of_dvc_2_that_are_added_again_come_to_the_layout_of_dvc_3(of_dvc2, soup, dvc):
    soup("add", "a")
    assert "hash: md5" in Path("a", f"{WEIGHTS}.dvc").read_text()
    md5 = md5_named(f"a/{WEIGHTS}.dvc")
    assert Path(".dvc/cache/files/md5", md5[:2], md5[2:]).is_file()
    assert is_clean(dvc)


@pytest.mark.parametrize("is_plain", [True, False])
def test_objects_of_dvc_2_are_pushed_where_dvc_looks_for_them(
    is_plain, of_dvc2, soup, git, dvc, tmp_path
):
    before = contents()
    dvc("remote", "add", "-d", "store", tmp_path / "store")
    if not is_plain:  # no plain folder for us: DVC itself moves the bytes
        dvc("remote", "modify", "store", "type", "copy")
    git("commit", "-qam", "a remote")
    git("init", "-q", "--bare", tmp_path / "hub")
    git("remote", "add", "origin", tmp_path / "hub")
    soup("push")
    shutil.rmtree(".dvc/cache")
    Path("rows.jsonl").unlink()
    dvc("pull", "-q")
    shutil.rmtree(".dvc/cache")
    Path("rows.jsonl").unlink()
    if is_plain:
        shutil.rmtree("rows")
        Path("a", WEIGHTS).unlink()
        soup("checkout")
        assert contents() == before
        assert is_clean(dvc)
    else:
        assert "dvc fetch" in soup("checkout", check=False).stderr
        dvc("fetch", "-q")
        soup("checkout")
        assert contents() == before


def test_a_merge_of_weights_that_dvc_2_wrote_is_in_the_layout_of_dvc_3(
    of_dvc2, soup, git, dvc, make_adapter
):
    git("switch", "-qc", "theirs")
    md5s = [md5_of("a")]
    for seed, branch in ((2, "theirs"), (3, "main")):
        git("switch", "-q", branch)
        make_adapter("a", seed=seed)
        soup("add", "a")
        md5s.append(md5_of("a"))
        md5 = md5s[-1]
        old, new = (
            Path(".dvc/cache", md5[:2], md5[2:]),
            Path(".dvc/cache/files/md5", md5[:2], md5[2:]),
        )
        old.parent.mkdir(exist_ok=True)
        new.rename(old)
        pointer = Path("a", f"{WEIGHTS}.dvc")
        pointer.write_text(pointer.read_text().replace("  hash: md5\n", ""))
        git("commit", "-qam", branch)
        assert is_clean(dvc)
    git("merge", "-q", "--no-edit", "theirs")
    assert md5_of("a") not in md5s
    assert md5_named(f"a/{WEIGHTS}.dvc") == md5_of("a")
    assert is_clean(dvc)
    assert states(soup) == {"a": "clean"}


# -- remotes and data from outside the repository ---------------------------------------------


def test_a_local_remote_serves_an_imported_dataset(repo, soup, git, dvc, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    dvc("import-url", "-q", "../rows.jsonl", "rows.jsonl")
    git("add", "--all")
    git("commit", "-qm", "imported")
    git("init", "-q", "--bare", "-b", "main", tmp_path / "hub")
    git("remote", "add", "origin", tmp_path / "hub")
    dvc("remote", "add", "-q", "--local", "-d", "store", tmp_path / "store")
    soup("push")
    assert git("status", "--porcelain").stdout == ""
    assert json.loads(dvc("status", "--cloud", "--json").stdout) == {}
    git("clone", "-q", tmp_path / "hub", tmp_path / "clone")
    os.chdir(tmp_path / "clone")
    soup("init")
    (tmp_path / "rows.jsonl").unlink()
    dvc("remote", "add", "-q", "--local", "-d", "store", tmp_path / "store")
    soup("checkout")
    assert Path("rows.jsonl").read_text() == '{"a": 1}\n'
    assert is_clean(dvc)


def test_a_cloud_versioned_remote_is_left_to_dvc(repo, soup, git, dvc, sh, make_adapter, tmp_path):
    git("init", "-q", "--bare", tmp_path / "hub")
    git("remote", "add", "origin", tmp_path / "hub")
    make_adapter("a", seed=1)
    soup("add", "a")
    dvc("remote", "add", "-q", "-d", "store", tmp_path / "store")
    dvc("remote", "modify", "store", "version_aware", "true")
    git("add", "--all")
    git("commit", "-qm", "one")
    done = soup("push", check=False)
    assert "'store' has version_aware" in done.stderr
    sh(hint_of(done).partition("serves, ")[2])
    soup("push")
    assert Path(tmp_path, "store", "files").is_dir()
