"""`git soup init`: a workspace in any repository; what was there stays; twice is once."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

HOOKS = (
    "pre-commit", "prepare-commit-msg", "commit-msg", "pre-push", "post-checkout", "post-merge",
    "post-rewrite",
)  # fmt: skip


@pytest.fixture
def new(in_tmp_path, git, monkeypatch) -> Path:
    """A repository with one commit, before `git soup init`; the test runs in it."""
    git("init", "-q", "new")
    root = in_tmp_path / "new"
    monkeypatch.chdir(root)
    Path("README.md").write_text("# new\n")
    git("add", "README.md")
    git("commit", "-qm", "Start")
    return root


def all_files(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(root)): (p.stat().st_mode, p.read_bytes())
        for p in root.rglob("*")
        if p.is_file() and "objects" not in p.parts and p.name not in {"index", "facts"}
    }


def test_what_it_makes(new, soup, git):
    done = soup("init")
    assert done.stderr == ""
    staged = git("diff", "--cached", "--name-only").stdout.split()
    assert staged == [
        ".dvc/.gitignore",
        ".dvc/config",
        ".dvcignore",
        ".gitattributes",
        ".gitignore",
    ]
    for hook in HOOKS:
        assert os.access(f".git/hooks/{hook}", os.X_OK)
    assert git("check-attr", "merge", "a/adapter.manifest").stdout.endswith(": soup\n")
    assert git("check-ignore", "a/adapter_model.safetensors").returncode == 0
    assert not Path("soup.yaml").exists()
    assert not Path("dvc.yaml").exists()
    assert git("config", "remote.origin.push", check=False).stdout == ""


def test_twice_is_once(new, soup, git):
    soup("init")
    before, config = all_files(new), git("config", "--list").stdout
    done = soup("init", "--json")
    assert {part["state"] for part in json.loads(done.stdout)["parts"]} == {"ok"}
    assert all_files(new) == before
    assert git("config", "--list").stdout == config


def test_check_says_what_is_missing_and_changes_nothing(new, soup, git):
    before = all_files(new)
    done = soup("init", "--check", "--json", check=False)
    assert done.returncode == 1
    assert {part["state"] for part in json.loads(done.stdout)["parts"]} == {"missing"}
    assert all_files(new) == before
    soup("init")
    assert soup("init", "--check").returncode == 0
    Path(".git/hooks/post-merge").unlink()
    done = soup("init", "--check", check=False)
    assert done.returncode == 1
    assert "post-merge" in done.stdout


def test_dvc_agrees_that_this_is_its_workspace(new, soup, dvc):
    soup("init")
    assert json.loads(dvc("status", "--json").stdout) == {}


def test_in_an_existing_dvc_workspace(new, soup, git, dvc):
    dvc("init", "--quiet")
    dvc("remote", "add", "--quiet", "-d", "store", "/nowhere")
    Path("rows.jsonl").write_text("{}\n")
    dvc("add", "--quiet", "rows.jsonl")
    git("add", "rows.jsonl.dvc")
    config = Path(".dvc/config").read_bytes()
    ignore = Path(".gitignore").read_text()
    soup("init")
    assert Path(".dvc/config").read_bytes() == config
    assert Path(".gitignore").read_text().startswith(ignore)
    assert "clean  rows.jsonl" in soup("status").stdout


def test_texts_of_the_user_stay(new, soup):
    Path(".gitattributes").write_bytes(b"*.png binary")
    Path(".gitignore").write_bytes(b"caf\xe9\n*.tmp")
    soup("init")
    assert Path(".gitattributes").read_bytes().startswith(b"*.png binary\n")
    assert Path(".gitignore").read_bytes().startswith(b"caf\xe9\n*.tmp\n")


def test_a_workspace_of_an_older_version_is_told_what_it_lacks_and_gets_it(new, soup, git):
    soup("init")
    git("commit", "-qm", "init")
    path = Path(".gitattributes")
    line = "adapter_config.json merge=soup\n"
    before = path.read_text().replace(line, "")
    path.write_text(before)
    git("commit", "-qam", "as it was")
    done = soup("init", "--check", check=False)
    assert done.returncode == 1 and line.strip() in done.stdout
    soup("init")
    assert path.read_text().startswith(before) and line in path.read_text()
    assert git("check-attr", "merge", "a/adapter_config.json").stdout.endswith(": soup\n")
    assert soup("init", "--check").returncode == 0


def test_from_a_subfolder(new, soup):
    Path("a/b").mkdir(parents=True)
    soup("init", cwd=new / "a" / "b")
    assert Path(".dvc/config").is_file()
    assert not Path("a/b/.dvc").exists()


def test_in_a_repository_with_sha256(in_tmp_path, soup, git, make_adapter, monkeypatch):
    git("init", "-q", "--object-format=sha256", "new")
    monkeypatch.chdir(in_tmp_path / "new")
    soup("init")
    make_adapter("adapters/a", seed=1)
    soup("add", "adapters/a")
    Path("soup.yaml").write_text("base: org/x\n")
    git("commit", "-qm", "Start")
    soup("branch", "more", "--switch")
    assert json.loads(soup("branches", "--json").stdout)["branches"][0]["name"] == "more"
    soup("checkout", "main")
    soup("fsck")


def test_in_a_linked_work_tree(new, soup, git, make_adapter):
    git("worktree", "add", "-q", "../linked")
    linked = new.parent / "linked"
    soup("init", cwd=linked)
    assert soup("init", "--check", cwd=linked).returncode == 0
    make_adapter(linked / "adapters/a", seed=1)
    soup("add", "adapters/a", cwd=linked)
    assert not (linked / ".dvc" / "cache").exists()
    git("commit", "-qm", "Start", cwd=linked)
    soup("fsck", cwd=linked)


def test_a_cache_that_is_configured_is_not_set_aside_in_a_linked_work_tree(new, soup, git):
    soup("init")
    Path(".dvc/config").write_text("[cache]\n    dir = /srv/shared\n")
    git("commit", "-qam", "Share a cache")
    git("worktree", "add", "-q", "../linked")
    soup("init", cwd=new.parent / "linked")
    assert not (new.parent / "linked" / ".dvc" / "config.local").exists()


def test_remotes_are_fetched_into_their_own_namespace(new, soup, git):
    git("clone", "-q", ".", "../clone")
    clone = new.parent / "clone"
    git("update-ref", "refs/soup/runs/a", "HEAD")
    soup("init", cwd=clone)
    git("update-ref", "refs/soup/runs/mine", "HEAD", cwd=clone)
    git("fetch", "-q", "--prune", cwd=clone)
    refs = git("for-each-ref", "--format=%(refname)", "refs/soup", "refs/soup-remotes", cwd=clone)
    assert refs.stdout.split() == ["refs/soup-remotes/origin/runs/a", "refs/soup/runs/mine"]
    assert soup("init", "--check", cwd=clone).returncode == 0
    git("remote", "add", "other", "../new", cwd=clone)
    assert soup("init", "--check", cwd=clone, check=False).returncode == 1


def test_no_key_is_there_twice_as_it_is_spelled_and_git_reads_one(new, soup, git):
    git("remote", "add", "origin", "..")
    git("config", "include.path", "own")
    soup("init")
    lines = [line.strip() for line in Path(".git/config").read_text().splitlines()]
    sections, keys = [line for line in lines if line.startswith("[")], set()
    assert len(sections) == len(set(sections))
    section = ""
    for line in lines:
        section = line if line.startswith("[") else section
        key = section, line.partition(" = ")[0]
        assert key not in keys
        keys.add(key)
    assert git("config", "--get-all", "remote.origin.fetch").stdout.split("\n")[:3] == [
        "+refs/heads/*:refs/remotes/origin/*",
        "+refs/soup/*:refs/soup-remotes/origin/*",
        "+refs/notes/soup*:refs/notes/origin/soup*",
    ]
    git("remote", "remove", "origin")
    assert git("remote").stdout == ""


def test_settings_of_an_older_version_are_moved_and_answers_stay(new, soup, git):
    git("remote", "add", "origin", "..")
    soup("init")
    settings = git("config", "--list", "--local", "--includes", "-z").stdout.split("\0")
    # As it was before: all in .git/config itself, keys repeated.
    git("config", "--unset-all", "include.path")
    git("config", "--unset-all", "remote.origin.fetch", "soup")
    Path(".git/soup/gitconfig").unlink()
    for item in settings[:-1]:
        key, _, value = item.partition("\n")
        is_ours = key.startswith(("diff.soup", "merge.soup", "notes.", "log.")) or "soup" in value
        if is_ours and key != "include.path":
            git("config", "--add", key, value)
    git("config", "--add", "core.logAllRefUpdates", "always")
    git("config", "--add", "log.excludeDecoration", "refs/mine/*")
    before = answers(git)
    done = soup("init", "--check", check=False)
    assert done.returncode == 1
    assert "include.path=soup/gitconfig" in done.stdout
    soup("init")
    assert soup("init", "--check").returncode == 0
    assert answers(git) == before
    text = Path(".git/config").read_text()
    assert text.count("fetch = ") == 1
    assert "merge_driver" not in text
    assert "refs/mine/*" in text


def answers(git) -> dict[str, list[str]]:
    """What git says of each key that has to do with us, whatever file it is in."""
    keys = git("config", "--list", "--name-only").stdout.split()
    wanted = {
        k for k in keys if k.startswith(("core.", "diff.", "merge.", "notes.", "log.", "remote."))
    }
    found = {key: git("config", "--get-all", key).stdout.splitlines() for key in wanted}
    found["core.logallrefupdates"] = found["core.logallrefupdates"][-1:]
    return {key: sorted(values) for key, values in found.items()}


# -- hooks of others ----------------------------------------------------------------------------


def foreign(path: Path, word: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho {word} >> "$(git rev-parse --git-common-dir)/ran"\n')
    path.chmod(0o755)


def test_a_foreign_hook_is_chained_and_runs_once(new, soup, git):
    foreign(Path(".git/hooks/pre-commit"), "theirs")
    done = soup("init")
    assert "pre-commit chained before yours" in done.stdout
    git("commit", "-qm", "Make it a workspace")
    assert Path(".git/ran").read_text() == "theirs\n"
    soup("init")
    assert soup("init", "--check").returncode == 0


def test_a_foreign_hook_that_refuses_still_refuses(new, soup, git):
    Path(".git/hooks/pre-commit").write_text("#!/bin/sh\nexit 7\n")
    Path(".git/hooks/pre-commit").chmod(0o755)
    soup("init")
    assert git("commit", "-qm", "x", check=False).returncode != 0


def test_a_foreign_link_stays_a_link(new, soup, git):
    foreign(Path("hooks/check.sh"), "linked")
    Path(".git/hooks/pre-commit").symlink_to("../../hooks/check.sh")
    soup("init")
    assert "linked" in Path("hooks/check.sh").read_text()
    git("commit", "-qm", "x")
    assert Path(".git/ran").read_text() == "linked\n"


def test_a_kill_between_the_two_steps_is_mended(new, soup, git):
    foreign(Path(".git/hooks/pre-commit"), "theirs")
    os.link(".git/hooks/pre-commit", ".git/hooks/pre-commit.before-soup")
    soup("init")
    git("commit", "-qm", "x")
    assert Path(".git/ran").read_text() == "theirs\n"


def test_two_foreign_hooks_are_left_to_the_user(new, soup, refused):
    foreign(Path(".git/hooks/pre-commit"), "one")
    foreign(Path(".git/hooks/pre-commit.before-soup"), "two")
    refused(soup("init", check=False), 128, "pre-commit")
    assert "one" in Path(".git/hooks/pre-commit").read_text()


def test_hooks_path_of_the_repository(new, soup, git):
    git("config", "core.hooksPath", "githooks")
    foreign(Path("githooks/pre-commit"), "theirs")
    soup("init")
    git("commit", "-qm", "x")
    assert Path(".git/ran").read_text() == "theirs\n"
    assert not Path(".git/hooks/pre-commit").exists()
    assert soup("init", "--check").returncode == 0


def test_hooks_path_of_all_repositories_is_not_written_to(new, soup, git, refused):
    shared = new.parent / "shared-hooks"
    shared.mkdir()
    env = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.hooksPath", "GIT_CONFIG_VALUE_0": str(shared)}  # fmt: skip
    home = Path(os.environ["GIT_CONFIG_GLOBAL"])
    text = home.read_text()
    own = new.parent / "gitconfig"
    own.write_text(f"{text}[core]\n\thooksPath = {shared}\n")
    env = {"GIT_CONFIG_GLOBAL": str(own)}
    done = soup("init", check=False, env=env)
    refused(done, 128, "core.hooksPath")
    assert not list(shared.iterdir())
    hint = done.stderr.partition("hint: ")[2].partition(", then")[0]
    assert hint.startswith("git config --local core.hooksPath ")
    git(*hint.split()[1:])
    soup("init", env=env)
    assert not list(shared.iterdir())
    assert soup("init", "--check", env=env).returncode == 0


def test_where_python_is_gone_git_goes_on_with_a_warning(new, soup, git):
    foreign(Path(".git/hooks/pre-commit"), "theirs")
    soup("init")
    hook = Path(".git/hooks/pre-commit")
    line = next(line for line in hook.read_text().splitlines() if line.startswith("python="))
    hook.write_text(hook.read_text().replace(line, "python=/nowhere/python"))
    done = git("commit", "-m", "x")
    assert "did not run" in done.stderr
    assert Path(".git/ran").read_text() == "theirs\n"
    soup("init")
    assert line in hook.read_text(), "init puts this Python's path in again"


# -- bad input ------------------------------------------------------------------------------------


def test_no_repository(in_tmp_path, soup, refused):
    refused(soup("init", check=False), 128, "not a git repository", "git init")
    assert list(in_tmp_path.iterdir()) == []


def test_a_bare_repository(in_tmp_path, soup, git, refused):
    git("init", "-q", "--bare", "bare.git")
    refused(soup("init", cwd=in_tmp_path / "bare.git", check=False), 128, "bare", "clone")


def test_inside_gits_own_folder(new, soup, refused):
    refused(soup("init", cwd=new / ".git", check=False), 128, "git's own folder")


def test_a_repository_of_somebody_else(new, soup, git, refused):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in [new, *new.rglob("*")]:
        shutil.chown(path, 12345)
    env = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    refused(soup("init", check=False, env=env), 128, "dubious ownership", "safe.directory")


def test_before_the_first_commit(in_tmp_path, soup, git):
    git("init", "-q", "new")
    soup("init", cwd=in_tmp_path / "new")
    git("commit", "-qm", "Start", cwd=in_tmp_path / "new")
    assert stat.S_ISREG((in_tmp_path / "new" / ".dvc" / "config").stat().st_mode)


def test_a_template_says_what_goes_where_and_what_to_type(new, soup, git):
    Path("dvc.yaml").write_text("stages: {}\n")
    done = soup("init", "--template", "rlhf", "--json")
    report = json.loads(done.stdout)
    assert report["template"] == "rlhf"
    assert [line.split(",")[0] for line in report["next"][1:4]] == [
        "  rows in data/prompts.jsonl",
        "  rows in data/sft.jsonl",
        "  rows in data/preferences.jsonl",
    ]
    assert "git soup config check reward/soup.yaml" in report["next"][4]
    assert report["next"][5] == (
        "  git soup init --template rlhf --add-stages: dvc.yaml is yours, without stages sft, fold, reward,"
        " train, lock, evaluate"
    )
    assert Path("dvc.yaml").read_text() == "stages: {}\n"
    assert not Path("eval").exists()
    assert "sft/soup.yaml is valid" in soup("config", "check", "sft/soup.yaml").stdout
    assert "soup.yaml" in git("diff", "--cached", "--name-only").stdout


def test_a_config_that_is_there_is_kept_and_that_is_said(new, soup, git):
    git("init", "-q", ".")
    soup("init", "--template", "chat")
    again = soup("init", "--template", "chat", "--json")
    part = {p["part"]: p["state"] for p in json.loads(again.stdout)["parts"]}
    assert (part["soup.yaml"], part["dvc.yaml"], part["eval/suite.yaml"]) == ("ok", "ok", "ok")
    before = Path("soup.yaml").read_text()
    other = soup("init", "--template", "kto")
    assert re.search(r"soup\.yaml +kept", other.stdout)
    assert "yours, and not what template kto has" in other.stdout
    assert "rows in" not in other.stdout
    filled = soup("init", "--template", "kto", "--base", "org/model", check=False)
    assert filled.returncode == 128
    assert "soup.yaml is there already, and --base org/model would fill in" in filled.stderr
    same = soup("init", "--template", "kto", "--base", "Qwen/Qwen3-0.6B", check=False)
    assert same.returncode == 0, same.stderr
    assert Path("soup.yaml").read_text() == before


_OWN = """\
# what makes our data
stages:
    prepare:  # by hand until May
        cmd: mkdir -p data && cp raw.jsonl data/train.jsonl
        deps:
        - raw.jsonl
        outs:
        - data/train.jsonl
        # the end of prepare

# shown on the wall
plots:
- wall.csv
"""


def test_stages_join_a_pipeline_that_is_there_and_nothing_of_it_moves(new, soup, git, dvc):
    Path("dvc.yaml").write_text(_OWN)
    said = soup("init", "--template", "chat").stdout
    assert re.search(r"dvc\.yaml +kept +yours, without stages train, lock, evaluate", said)
    assert re.search(r"soup\.yaml +created", said)
    hint = re.search(r"git soup (init --template chat --add-stages): dvc\.yaml is yours", said)
    assert Path("dvc.yaml").read_text() == _OWN
    train = soup("train", check=False)
    assert train.returncode == 128
    assert f"hint: git soup {hint[1]}" in train.stderr
    added = soup(*hint[1].split()).stdout
    assert re.search(r"dvc\.yaml +extended +stages train, lock, evaluate added after yours", added)
    now = Path("dvc.yaml").read_text()
    lines = iter(now.splitlines())
    assert all(line in lines for line in _OWN.splitlines())  # each, in its order
    stages = dvc("stage", "list", "--name-only").stdout.split()
    assert stages == ["prepare", "train", "lock", "evaluate"]
    assert "prepare" in dvc("dag", "--dot", "train").stdout
    assert "dvc.yaml" in git("diff", "--cached", "--name-only").stdout
    again = soup("init", "--template", "chat", "--add-stages").stdout
    assert re.search(r"dvc\.yaml +ok", again)
    assert Path("dvc.yaml").read_text() == now


def test_stages_that_have_no_place_are_printed_and_nothing_is_written(new, soup):
    for text, said in (
        ("stages: {a: {cmd: echo}}\n", "its stages are written on one line"),
        ("stages:\n  train:\n    cmd: mine\n", "has a stage train of your own"),
        ("vars:\n  - base: other\nstages:\n  a:\n    cmd: echo ${base}\n", "dvc dag failed"),
    ):
        Path("dvc.yaml").write_text(text)
        done = soup("init", "--template", "chat", "--add-stages", check=False)
        assert done.returncode == 128
        assert said in done.stderr
        assert Path("dvc.yaml").read_text() == text
        assert "hint: " in done.stderr


def test_a_dataset_lies_in_the_workspace(new, soup, git):
    git("init", "-q", ".")
    for path in ("/etc/passwd", "../rows.jsonl"):
        done = soup("init", "--template", "chat", "--dataset", path, check=False)
        assert done.returncode == 128
        assert "is not a path inside the workspace" in done.stderr
    assert not Path("soup.yaml").exists()


def test_a_template_is_one_of_the_list(new, soup):
    for name in ("../chat", "/etc", "chatt", ""):
        done = soup("init", "--template", name, check=False)
        assert done.returncode == 128
        assert f"there is no template {name!r}: chat, code" in done.stderr
    listed = soup("init", "-h").stdout
    assert "  rlhf:         three trainings in one pipeline" in listed
    Path("elsewhere").mkdir()
    Path("eval").symlink_to("elsewhere")
    done = soup("init", "--template", "chat", check=False)
    assert "eval is a symbolic link; nothing is written through it" in done.stderr
    assert not list(Path("elsewhere").iterdir())
