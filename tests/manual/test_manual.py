"""The manual page, the reference and the completions say what the command line does, now."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from soup_git.cli import command_tree
from soup_git.errors import ExitCode
from soup_git.manual.__main__ import SCHEMA_WRITERS, WRITERS, generated
from soup_git.manual.commandtree import read_tree
from soup_git.manual.methods import with_table
from soup_git.manual.words import EXIT_STATUS
from tests.conftest import Run

ROOT = Path(__file__).parents[2]
SHARE = ROOT / "share"
GITS_OWN = Path("/usr/share/bash-completion/completions/git")
TREE = read_tree(command_tree())


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.mark.parametrize("path", [*WRITERS, *SCHEMA_WRITERS])
def test_the_generated_files_are_current(path: str) -> None:
    assert (ROOT / path).read_text() == generated()[path], "make docs"


def test_the_table_of_tasks_is_current() -> None:
    page = (ROOT / "docs" / "reference" / "tasks.md").read_text()
    assert with_table(page) == page, "make docs"
    assert with_table(page.replace("| [sft]", "| [stf]")) == page


def test_a_changed_verb_shows_in_every_file() -> None:
    """The control of the test above: nothing generated ignores the tree."""
    command = command_tree()
    command.commands["frobnicate"] = command.commands.pop("fsck")
    tree = read_tree(command)
    for path, write in WRITERS.items():
        assert "frobnicate" in write(tree)
        assert "frobnicate" not in (ROOT / path).read_text()


def test_every_exit_code_is_explained() -> None:
    assert list(EXIT_STATUS) == list(ExitCode)


def test_every_verb_has_a_summary_and_every_option_a_help() -> None:
    for verb in TREE.walk():
        assert verb.summary, verb.name
        for option in verb.options:
            assert option.help, (verb.name, option.names)


# -- the manual page --------------------------------------------------------------------------


@needs("man")
def test_the_page_shows_every_verb_and_option_and_no_complaint() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", SHARE / "man/man1/git-soup.1"],
        env={**os.environ, "MANWIDTH": "100", "MAN_KEEP_FORMATTING": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    text = " ".join(re.sub(".\b", "", done.stdout).split())
    for verb in TREE.walk():
        assert verb.name in text
        for option in verb.options:
            assert option.form in text, (verb.name, option.form)
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "FILES", "EXAMPLES"):  # fmt: skip
        assert f" {heading} " in text
    assert "125 This revision cannot be judged" in text


# -- bash -------------------------------------------------------------------------------------


def complete_in_bash(line: str, cwd: Path, *, through_git: bool) -> list[str]:
    """COMPREPLY as it stands after TAB at the end of `line`; a trailing space is kept as `_`."""
    sourced = SHARE / "bash-completion/completions/git-soup"
    words = line.split(" ")
    function = "__git_wrap__git_main" if through_git else "__git_soup_main"
    script = f"""
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
        {f"source {GITS_OWN}" if through_git else ""}
        source {sourced}
        COMP_LINE=$1 COMP_POINT=${{#1}} COMP_TYPE=9 COMP_KEY=9; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        {function} "${{COMP_WORDS[0]}}" "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
        (( ${{#COMPREPLY[@]}} )) && printf '%s|\\n' "${{COMPREPLY[@]}}"; true
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", line, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    # git's functions print nothing; compopt outside a real completion complains, and only that.
    assert not [x for x in done.stderr.splitlines() if "compopt" not in x], done.stderr
    return [candidate.replace(" |", "_").replace("|", "") for candidate in done.stdout.splitlines()]


def through_git() -> list[object]:
    is_there = GITS_OWN.is_file()
    skip = pytest.mark.skipif(not is_there, reason="git's own completion is not installed")
    return [pytest.param(True, marks=skip, id="git soup"), pytest.param(False, id="git-soup")]


@needs("bash")
@pytest.mark.parametrize("as_git", through_git())
def test_bash_completes(as_git: bool, repo: Path, git: Run) -> None:
    program = "git soup" if as_git else "git-soup"

    def tab(rest: str) -> list[str]:
        return sorted(complete_in_bash(f"{program} {rest}", repo, through_git=as_git))

    git("branch", "politer")
    git("branch", "tone/formal")
    git("tag", "release")
    (repo / "adapters" / "support").mkdir(parents=True)
    (repo / "notes.txt").touch()
    assert tab("che") == ["checkout_"]
    assert tab("branch") == ["branch_", "branches_"]
    assert tab("") == sorted(f"{verb.path[-1]}_" for verb in TREE.verbs)
    assert tab("lock ") == ["check_", "show_", "write_"]
    assert tab("lock check --st") == ["--staged_", "--strict_"]
    assert tab("checkout p") == ["politer_"]
    assert tab("checkout --force t") == ["tone/formal_"]
    assert tab("branch -d ") == ["main_", "politer_", "tone/formal_"]
    assert tab("branch --from re") == ["release_"]
    assert tab("add a") == ["adapters"]
    assert tab("add n") == []
    assert tab("branch x -c no") == ["notes.txt"]
    assert tab("show ad") == ["adapters/"]
    assert tab("status --format ") == ["json_", "table_"]
    assert tab("status --format = j") == ["json_"]
    assert tab("nonsense ") == sorted(f"{verb.path[-1]}_" for verb in TREE.verbs)


@needs("bash")
def test_bash_never_runs_what_a_branch_is_called(repo: Path, git: Run) -> None:
    name = "x$(touch${IFS}pwned)"
    git("update-ref", f"refs/heads/{name}", "HEAD")
    found = complete_in_bash("git-soup checkout x", repo, through_git=False)
    assert found == [r"x\$\(touch\$\{IFS\}pwned\)_"]
    assert not (repo / "pwned").exists()


@pytest.mark.skipif(not GITS_OWN.is_file(), reason="git's own completion is not installed")
def test_bash_completes_after_git_options(repo: Path, tmp_path: Path) -> None:
    assert complete_in_bash(f"git -C {repo} soup che", tmp_path, through_git=True) == ["checkout_"]


# -- fish and zsh -----------------------------------------------------------------------------


@needs("fish")
@pytest.mark.parametrize("program", ["git-soup", "git soup"])
def test_fish_completes(program: str, repo: Path, git: Run) -> None:
    def tab(rest: str) -> set[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source {SHARE}/fish/vendor_completions.d/git-soup.fish; complete -C '{program} {rest}'"],
            cwd=repo,
            capture_output=True,
            text=True,
            check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return {line.partition("\t")[0] for line in done.stdout.splitlines()}

    git("branch", "politer")
    (repo / "adapters").mkdir()
    (repo / "notes.txt").touch()
    assert tab("che") == {"checkout"}
    assert tab("lock ") == {"write", "show", "check"}
    assert {"--staged", "--strict"} <= tab("lock check --st")
    assert tab("checkout ") == {"main", "politer"}
    assert tab("add a") == {"adapters/"}
    assert tab("add n") == set()
    assert tab("status --format ") == {"table", "json"}
    assert tab("branch x -c no") == {"notes.txt"}


def type_into_zsh(line: str, wanted: str, cwd: Path) -> str:
    """What an interactive zsh shows after `line` and TAB, until `wanted` is there or 20 s passed."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(cwd)
        os.execvpe("zsh", ["zsh", "-f", "-i"], {**os.environ, "PS1": "", "TERM": "dumb"})
    shown = ""
    try:
        setup = f"fpath=({SHARE}/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u -D; print ready=$?"
        os.write(terminal, (setup + "\n").encode())
        for keys, until in ((None, "ready=0"), (f"{line}\t", wanted)):
            if keys is not None:
                shown = ""
                os.write(terminal, keys.encode())
            deadline = time.monotonic() + 20
            while until not in shown and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.2)[0]:
                    shown += os.read(terminal, 4096).decode(errors="replace")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
    return shown


@needs("zsh")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("git-soup che", "git-soup checkout "),
        ("git soup che", "git soup checkout "),
        ("git soup lock wr", "git soup lock write "),
        ("git soup lock check --stag", "git soup lock check --staged "),
        ("git soup checkout pol", "git soup checkout politer "),
        ("git soup add adap", "git soup add adapters/"),
        ("git soup status --format j", "git soup status --format json "),
    ],
)
def test_zsh_completes(line: str, wanted: str, repo: Path, git: Run) -> None:
    git("branch", "politer")
    (repo / "adapters").mkdir()
    assert wanted in type_into_zsh(line, wanted, repo)
