"""`git soup bisect` as a user types it: real repositories, real commands, no training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from soup_git import cli
from soup_git.commands.add import add
from soup_git.errors import run_to_exit_code
from soup_git.storage.workspace import Workspace
from tests.conftest import SCRIPTS, Run, runner, write_adapter

Refused = Callable[..., None]
FIRST_BAD = 6
"""Of 1 … 9: from here on the adapter's dropout is 0.5, which the eval command calls broken."""
EVAL = "grep -q 'dropout.: 0.0' {ckpt}/adapter_config.json"
RUN = "2026-01-01-a"


@pytest.fixture(scope="session")
def history_template(
    tmp_path_factory: pytest.TempPathFactory, repo_template: Path
) -> tuple[Path, dict[int, str]]:
    """Nine commits of one adapter, the same as folders, and as checkpoints of a run."""
    root = tmp_path_factory.mktemp("history") / "repo"
    shutil.copytree(repo_template, root, symlinks=True)
    git = runner("git", cwd=root)
    commits, parent = {}, git("rev-parse", "HEAD").stdout.strip()
    for number in range(1, 10):
        dropout = 0.5 if number >= FIRST_BAD else 0.0
        folder = write_adapter(root / "a", seed=number, layers=1, lora_dropout=dropout)
        add(Workspace.open(root), [folder])
        git("commit", "-qam", f"Train {number}")
        commits[number] = git("rev-parse", "HEAD").stdout.strip()
        shutil.copytree(folder, root / "kept" / f"c {number}")
        message = f"step {number}00\n\nSoup-Run: {RUN}\nSoup-Step: {number}00\nSoup-Adapter: a\n"
        parent = git("commit-tree", "HEAD^{tree}", "-p", parent, "-m", message).stdout.strip()
    git("update-ref", f"refs/soup/runs/{RUN}", parent)
    return root, commits


@pytest.fixture
def commits(
    history_template: tuple[Path, dict[int, str]],
    in_tmp_path: Path,
    git: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[int, str]:
    """The test runs in a copy of the history; number -> commit."""
    template, found = history_template
    shutil.copytree(template, in_tmp_path / "repo", symlinks=True)
    monkeypatch.chdir(in_tmp_path / "repo")
    git("update-index", "-q", "--refresh")
    return found


@pytest.fixture
def bisect(soup: Run) -> Callable[..., tuple[int, dict[str, Any]]]:
    """`bisect(*words, command=…)`: (exit code, the JSON report)."""

    def run(*words: str, command: str = EVAL) -> tuple[int, dict[str, Any]]:
        done = soup("bisect", *words, "--eval-command", command, "--json", check=False)
        assert done.returncode in {0, 3, 125}, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


Bisect = Callable[..., tuple[int, dict[str, Any]]]
FOLDERS = [f"kept/c {n}" for n in range(1, 10)]


def numbers(report: dict[str, Any], commits: dict[int, str]) -> list[tuple[int, bool | None]]:
    of = {oid: n for n, oid in commits.items()}
    return [(of[step["checkpoint"]], step["ok"]) for step in report["steps"]]


# -- what is found --------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_folders_a_range_and_a_run_tell_the_same(
    bisect: Bisect, commits: dict[int, str], jobs: str
) -> None:
    named = {
        "folders": (FOLDERS, "kept/c 6", "kept/c 5"),
        "range": ([f"{commits[1]}..{commits[9]}"], commits[6], commits[5]),
        "run": ([f"run/{RUN}"], f"run/{RUN}@600", f"run/{RUN}@500"),
    }
    for specs, broken, good in named.values():
        code, report = bisect(*specs, "--jobs", jobs)
        assert code == 3
        assert report["verdict"] == "BROKEN_AT"
        assert (report["first_broken"], report["last_good"]) == (broken, good)
        assert report["checkpoints"] == 9
        assert report["probes"] == len(report["steps"])
        if jobs == "1":
            assert report["probes"] <= 6, "⌈log2 9⌉ + 2"
        assert report["schema"] == "soup.bisect/1"
        assert report["posterior"] is None


def test_the_report_for_people(soup: Run, commits: dict[int, str]) -> None:
    done = soup("bisect", f"run/{RUN}", "--eval-command", EVAL, check=False)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"BROKEN_AT run/{RUN}@600 (last good run/{RUN}@500), 5 probes of 9")
    assert lines[2].split() == ["probe", "checkpoint", "verdict", "exit", "took"]
    assert lines[3].split()[:4] == ["1", f"run/{RUN}@100", "good", "0"]
    assert "step 900 bad" in done.stderr
    assert f"hint: git soup diff run/{RUN}@500 run/{RUN}@600" in done.stderr


def test_all_good_and_all_bad(bisect: Bisect, commits: dict[int, str]) -> None:
    code, report = bisect(*FOLDERS, command="true {ckpt}")
    assert (code, report["verdict"], report["first_broken"]) == (0, "ALL_OK", None)
    assert report["probes"] == 2
    code, report = bisect(*FOLDERS, command="false {ckpt}")
    assert (code, report["verdict"], report["first_broken"]) == (3, "BROKEN_AT", FOLDERS[0])
    assert report["last_good"] is None


def test_the_folder_holds_the_adapter_and_is_gone_afterwards(
    bisect: Bisect, commits: dict[int, str], git: Run
) -> None:
    check = (
        'test "$SOUP_CKPT" = "$1" && test "$2" = "x$1" && test -s "$1/adapter_model.safetensors"'
        ' && test -s "$1/adapter.manifest" && test -s "$1/adapter_config.json"'
        ' && echo "$1" >> seen && pwd -P >> seen'
    )
    words = f"sh -c '{check}' sh {{ckpt}} x{{ckpt}}"
    Path("my work").mkdir()
    code, _ = bisect("HEAD~2..", command=words)
    assert code == 0
    seen = Path("seen").read_text().splitlines()
    assert all(not Path(folder).exists() for folder in seen[::2])
    assert set(seen[1::2]) == {str(Path.cwd())}
    assert git("status", "--porcelain", "-uno").stdout == ""


def test_equal_adapters_are_probed_once(
    bisect: Bisect, soup: Run, git: Run, commits: dict[int, str]
) -> None:
    git("commit", "--allow-empty", "-qm", "Words only")
    git("checkout", "-q", commits[9], "--", "a")
    _, report = bisect(f"{commits[1]}..HEAD")
    assert report["checkpoints"] == 9, "a commit that leaves the adapter alone is no candidate"
    code, report = bisect(commits[1], commits[1], commits[2], commits[2])
    assert (code, report["probes"]) == (0, 2)


def test_a_good_state_that_came_back_is_said(
    soup: Run, git: Run, commits: dict[int, str], refused: Refused
) -> None:
    shutil.copytree("kept/c 1", "a", dirs_exist_ok=True)
    soup("add", "a")
    git("commit", "-qam", "Back to the first")
    done = soup("bisect", f"{commits[1]}..HEAD", "--eval-command", EVAL, check=False)
    # Both ends are the same adapter, so one probe answers for both.
    assert done.returncode == 0
    done = soup("bisect", f"{commits[7]}..HEAD", "--eval-command", EVAL, check=False)
    refused(done, 128, "good comes after bad", commits[7][:10])
    done = soup("bisect", f"{commits[1]}..{commits[9]}", "--eval-command", EVAL, check=False)
    assert done.returncode == 3, "the search that ended so is in nobody's way"


# -- the command's exit codes -----------------------------------------------------------------


@pytest.mark.parametrize("code", [1, 124])
def test_up_to_124_is_bad(bisect: Bisect, commits: dict[int, str], code: int) -> None:
    exit_code, report = bisect(*FOLDERS[:2], command=f"sh -c 'exit {code}' {{ckpt}}")
    assert exit_code == 3
    assert {step["exit_code"] for step in report["steps"]} == {code}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'exit 126' {ckpt}", ["exited with 126", "may not run"]),
        ("sh -c 'exit 127' {ckpt}", ["exited with 127", "cannot find"]),
        ("sh -c 'exit 137' {ckpt}", ["exited with 137", "SIGKILL"]),
        ("sh -c 'exit 255' {ckpt}", ["exited with 255"]),
        ("sh -c 'kill -KILL $$' {ckpt}", ["killed by signal 9 (SIGKILL)"]),
        ("sh -c 'kill -SEGV $$' {ckpt}", ["killed by signal 11 (SIGSEGV)"]),
        ("no-such-program {ckpt}", ["cannot be started", "No such file"]),
        ("./README.md {ckpt}", ["cannot be started", "Permission denied"]),
    ],
)
def test_what_is_no_verdict_ends_the_search(
    soup: Run, commits: dict[int, str], refused: Refused, command: str, words: list[str]
) -> None:
    done = soup("bisect", *FOLDERS, "--eval-command", command, check=False)
    refused(done, 128, "no verdict on kept/c 1", *words)


@pytest.mark.parametrize("more", [[], ["--jobs", "3"], ["--confidence", "0.95"]])
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("{python} no-such-script.py {ckpt}", "can't open file"),
        ("{python} -c 'import no_such_module' {ckpt}", "No module named 'no_such_module'"),
        ("sh -c 'exit 2' {ckpt}", "exit code 2"),
    ],
)
def test_a_command_that_fails_alike_at_both_ends_is_asked_about(
    soup: Run, git: Run, commits: dict[int, str], command: str, said: str, more: list[str]
) -> None:  # fmt: skip
    command = command.replace("{python}", sys.executable)
    words = ["bisect", f"{commits[1]}..{commits[9]}", *more, "--eval-command", command]
    done = soup(*words, check=False)
    *_, fatal, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (128, "")
    assert fatal.startswith("fatal: the eval command fails alike on")
    assert commits[9][:10] in fatal
    assert said in fatal
    assert hint.startswith("hint: mend the command; or type the same with --trust-exit")
    assert git("notes", "--ref", "soup", "list", check=False).stdout == "", "it judged nothing"
    trusted = soup(*words, "--trust-exit", "--json", check=False)
    report = json.loads(trusted.stdout)
    assert (trusted.returncode, report["first_broken"]) == (3, commits[1])
    assert report["last_good"] is None


def test_a_command_that_was_mended_starts_anew(
    soup: Run, bisect: Bisect, commits: dict[int, str], refused: Refused
) -> None:
    command = f"{sys.executable} judge.py {{ckpt}}"
    done = soup("bisect", *FOLDERS, "--eval-command", command, check=False)
    refused(done, 128, "fails alike on kept/c 1 and kept/c 9", "judge.py", "mend the command")
    Path("judge.py").write_text(
        "import sys; sys.exit('dropout\": 0.0' not in open(sys.argv[1] + '/adapter_config.json').read())"
    )
    code, report = bisect(*FOLDERS, command=command)
    assert (code, report["first_broken"], report["last_good"]) == (3, FOLDERS[5], FOLDERS[4])
    assert report["probes"] == 5


@pytest.mark.parametrize(
    "command",
    [
        "{python} -c 'assert 1 > 2' {ckpt}",
        "sh -c 'echo worse than the baseline; exit 1' {ckpt}",
        "sh -c 'case \"$1\" in *1) exit 2;; esac; exit 1' sh {ckpt}",
    ],
)
def test_a_first_checkpoint_that_is_bad_already_stays_a_verdict(
    bisect: Bisect, commits: dict[int, str], command: str
) -> None:
    code, report = bisect(*FOLDERS, command=command.replace("{python}", sys.executable))
    assert (code, report["verdict"], report["first_broken"]) == (3, "BROKEN_AT", FOLDERS[0])
    assert report["last_good"] is None


def test_skips_leave_candidates(bisect: Bisect, commits: dict[int, str]) -> None:
    skip = 'sh -c \'case "$1" in *5|*6) exit 125;; esac; ' + EVAL.replace("'", '"') + "' sh {ckpt}"
    skip = skip.replace("{ckpt}/adapter_config.json", '"$1"/adapter_config.json')
    code, report = bisect(*FOLDERS, command=skip)
    assert (code, report["verdict"]) == (125, "UNRESOLVED")
    assert report["candidates"] == ["kept/c 5", "kept/c 6", "kept/c 7"]
    assert (report["first_broken"], report["last_good"]) == (None, "kept/c 4")
    assert not report["may_be_all_ok"]
    assert {s["ok"] for s in report["steps"] if s["exit_code"] == 125} == {None}


@pytest.mark.parametrize("more", [[], ["--confidence", "0.9"], ["--jobs", "4"]])
def test_all_skipped(bisect: Bisect, commits: dict[int, str], more: list[str]) -> None:
    code, report = bisect(*FOLDERS, *more, command="sh -c 'exit 125' {ckpt}")
    assert (code, report["verdict"], report["probes"]) == (125, "UNRESOLVED", 9)
    assert report["candidates"] == FOLDERS
    assert report["may_be_all_ok"]


def test_a_command_that_hangs_is_ended_with_all_it_started(
    soup: Run, commits: dict[int, str]
) -> None:
    hang = "sh -c 'case \"$1\" in *2) sleep 61.5 & sleep 61.5;; esac' sh {ckpt}"
    started = time.monotonic()
    words = ["bisect", "kept/c 1", "kept/c 2", "--timeout", "0.3s", "--json"]
    done = soup(*words, "--eval-command", hang, check=False)
    assert time.monotonic() - started < 10
    assert done.returncode == 125
    report = json.loads(done.stdout)
    assert report["steps"][1] | {"seconds": 0} == {
        "checkpoint": "kept/c 2", "ok": None, "exit_code": None, "seconds": 0,
    }  # fmt: skip
    assert "longer than 300 ms" in done.stderr
    assert (
        "61.5" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    )


def test_what_the_command_prints_is_talk_without_escapes(
    soup: Run, commits: dict[int, str]
) -> None:
    talk = r"""sh -c 'printf "10%%\r99%%\n\033[31mred\n"; echo oops >&2' {ckpt}"""
    done = soup("bisect", *FOLDERS[:2], "--json", "--eval-command", talk)
    assert json.loads(done.stdout)["verdict"] == "ALL_OK"
    assert "\x1b" not in done.stderr
    assert {"  99%", "  \\x1b[31mred", "  oops"} <= set(done.stderr.splitlines())


# -- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["HEAD~2..HEAD", "--eval-command", "true"], ["no {ckpt}"]),
        (["HEAD~2..HEAD", "--eval-command", "grep 'x {ckpt}"], ["cannot be split", "quotation"]),
        (["HEAD", "--eval-command", EVAL], ["two checkpoints or more"]),
        (["HEAD..HEAD", "--eval-command", EVAL], ["no commit in HEAD..HEAD changed"]),
        (["kept/c 1", "--eval-command", EVAL], ["two checkpoints or more", "gives 1"]),
        (["kept/c 1", "kept/none", "--eval-command", EVAL], ["'kept/none' names no adapter"]),
        (["nowhere..HEAD", "--eval-command", EVAL], ["'nowhere' names no commit"]),
        (["HEAD...HEAD~1", "--eval-command", EVAL], ["HEAD...HEAD~1 has no order"]),
        (["HEAD..HEAD~3", "--eval-command", EVAL], ["HEAD~3 comes before HEAD"]),
        (["HEAD", "HEAD~3", "--eval-command", EVAL], ["HEAD~3 comes before HEAD in history"]),
        (["run/none", "--eval-command", EVAL], ["no training run none"]),
        ([f"run/{RUN}@100", "--eval-command", EVAL], ["two checkpoints or more"]),
        (
            ["HEAD~2..", "--adapter", "b", "--eval-command", EVAL],
            ["no adapter at b in HEAD; it has a"],
        ),
        (["HEAD~9..HEAD", "--eval-command", EVAL], ["HEAD~9 has no adapter at a"]),
        (
            ["kept/c 1", "kept/other", "--eval-command", EVAL],
            ["base model other/base", "tiny/base"],
        ),
        (["HEAD~2..", "--budget", "5s", "--eval-command", EVAL], ["out of bounds"]),
        (["HEAD~2..", "--budget", "soon", "--eval-command", EVAL], ["'soon' is not a duration"]),
        (["HEAD~2..", "--timeout", "0s", "--eval-command", EVAL], ["'0s' is not a duration"]),
        (["HEAD~2..", "--noise", "0.6", "--eval-command", EVAL], ["0.6 is no flip rate"]),
        (["HEAD~2..", "--noise", "x", "--eval-command", EVAL], ["x is no flip rate"]),
        (["HEAD~2..", "--noise", "nan", "--eval-command", EVAL], ["nan is no flip rate"]),
        (["HEAD~2..", "--confidence", "1", "--eval-command", EVAL], ["not between 0.5 and 1"]),
        (["HEAD~2..", "--max-probes", "9", "--eval-command", EVAL], ["--max-probes bounds"]),
        (
            ["HEAD~2..", "--scheduler", "nonsense", "--eval-command", EVAL],
            ["nonsense is no address"],
        ),
        (["log"], ["no bisection is under way"]),
        (["replay", "README.md"], ["is not a log of git soup bisect"]),
        (["replay", "none"], ["there is no log none"]),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str],
    commits: dict[int, str],
    refused: Refused,
    words: list[str],
    said: list[str],
) -> None:
    """In this process: most of a process would be the start of Python."""
    if "kept/other" in words:
        write_adapter("kept/other", base="other/base", layers=1)
    code = run_to_exit_code(partial(cli.run, ["bisect", *words]))
    refused(subprocess.CompletedProcess(words, code, *capsys.readouterr()), 128, *said)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["HEAD~2..HEAD"],
        ["log", "HEAD"],
        ["replay"],
        ["reset", "--eval-command", EVAL],
        ["HEAD~2..", "--jobs", "0", "--eval-command", EVAL],
    ],
)
def test_wrong_usage(soup: Run, commits: dict[int, str], words: list[str]) -> None:
    done = soup("bisect", *words, check=False)
    assert (done.returncode, done.stdout) == (129, "")
    assert "hint: git soup bisect -h" in done.stderr


def test_a_side_branch_is_no_range(
    soup: Run, git: Run, commits: dict[int, str], refused: Refused
) -> None:
    git("switch", "-qc", "side", commits[8])
    git("commit", "--allow-empty", "-qm", "Side")
    git("switch", "-q", "main")
    refused(
        soup("bisect", "side..main", "--eval-command", EVAL, check=False),
        128, "side is no ancestor of main",
    )  # fmt: skip
    git("merge", "-q", "--no-edit", "side")
    refused(
        soup("bisect", "side..main", "--eval-command", EVAL, check=False),
        128, "came into main by a merge", "bisect-step",
    )  # fmt: skip


def test_weights_that_are_nowhere_are_named(
    soup: Run, commits: dict[int, str], refused: Refused
) -> None:
    shutil.rmtree(".dvc/cache")
    done = soup("bisect", f"{commits[1]}..HEAD~1", "--eval-command", EVAL, check=False)
    refused(done, 128, "is not in the DVC cache")


# -- the log ----------------------------------------------------------------------------------


def test_a_killed_search_goes_on_where_it_was(
    bisect: Bisect, soup: Run, commits: dict[int, str]
) -> None:
    """The third probe kills the bisection itself, by SIGKILL, once."""
    Path("once").touch()
    count = 'echo "$1" >> calls; test $(wc -l < calls) = 3 && test -e once && rm once && kill -9 $PPID; '
    command = f'sh -c \'{count}grep -q "dropout.: 0.0" "$1"/adapter_config.json\' sh {{ckpt}}'
    done = soup("bisect", *FOLDERS, "--eval-command", command, check=False)
    assert done.returncode in {-9, 137}
    log = Path(".git/SOUP_BISECT_LOG").read_text().splitlines()
    assert [line.split(" ")[0] for line in log] == ["#", "question", "good", "bad"]
    code, report = bisect(*FOLDERS, command=command)
    assert (code, report["first_broken"]) == (3, "kept/c 6")
    calls = Path("calls").read_text().splitlines()
    assert len(calls) == report["probes"] + 1, "only the probe that was killed is asked again"


def test_another_question_is_refused_until_reset(
    soup: Run, bisect: Bisect, commits: dict[int, str], refused: Refused
) -> None:
    abort = "sh -c 'case \"$1\" in *9) exit 200;; esac' sh {ckpt}"
    mistyped = soup("bisect", *FOLDERS, "--eval-command", "gerp {ckpt}", check=False)
    refused(mistyped, 128, "cannot be started")
    refused(soup("bisect", *FOLDERS, "--eval-command", abort, check=False), 128, "kept/c 9")
    done = soup("bisect", *FOLDERS, "--eval-command", EVAL, check=False)
    refused(
        done, 128, "another bisection is under way: kept/c 1 to kept/c 9", "git soup bisect reset"
    )
    assert "good 0 exit=0" in soup("bisect", "log").stdout
    soup("bisect", "reset")
    refused(soup("bisect", "log", check=False), 128, "no bisection")
    assert bisect(*FOLDERS)[0] == 3
    assert soup("bisect", "log").stdout.endswith("end BROKEN_AT # kept/c 6\n")
    assert bisect(*FOLDERS[:4])[0] == 0, "a search that has ended is in nobody's way"


def test_a_log_is_replayed_without_running_anything(
    soup: Run, bisect: Bisect, commits: dict[int, str], refused: Refused, tmp_path: Path
) -> None:
    _, report = bisect(*FOLDERS)
    text = soup("bisect", "log").stdout
    shutil.rmtree("kept")
    soup("bisect", "reset")
    saved = tmp_path / "log"
    saved.write_text(text)
    done = soup("bisect", "replay", saved, "--json", check=False)
    assert (done.returncode, json.loads(done.stdout)) == (3, report)
    assert soup("bisect", "log").stdout == text

    lines = text.splitlines(keepends=True)
    saved.write_text("".join(lines[:4]) + "good 4 exit=0 sec")
    done = soup("bisect", "replay", saved, "--json", check=False)
    assert done.returncode == 125
    assert json.loads(done.stdout)["candidates"] == FOLDERS[1:]

    saved.write_text("".join(lines[:4]) + lines[2].replace("good 0", "bad 0"))
    refused(soup("bisect", "replay", saved, check=False), 128, "contradicts itself")
    saved.write_text("".join(lines[:2]) + "good 99 exit=0 seconds=0.100\n")
    refused(soup("bisect", "replay", saved, check=False), 128, "line 3 names a checkpoint")
    saved.write_text("".join(lines[:2]) + "perhaps 1\n")
    refused(soup("bisect", "replay", saved, check=False), 128, "line 3")


def test_two_at_once_is_refused(soup: Run, commits: dict[int, str], refused: Refused) -> None:
    slow = "sh -c 'touch started; sleep 20' {ckpt}"
    words = [SCRIPTS / "git-soup", "bisect", *FOLDERS, "--eval-command", slow]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: Path("started").exists())
        done = soup("bisect", *FOLDERS, "--eval-command", EVAL, check=False)
        refused(done, 128, "another git soup bisect is running")
    finally:
        first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 130
    assert not any(Path(".git/soup/bisect").iterdir())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_probe_outlives_an_ended_search(commits: dict[int, str], how: signal.Signals) -> None:
    slow = "sh -c 'echo $$ >> pids; sleep 30 & echo $! >> pids; wait' {ckpt}"
    words = [SCRIPTS / "git-soup", "bisect", "-j", "2", *FOLDERS, "--eval-command", slow]
    done = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        # Whoever runs the tests in the background of a shell has it ignored.
        preexec_fn=partial(signal.signal, how, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    _until(lambda: Path("pids").exists() and len(Path("pids").read_text().split()) == 4)
    done.send_signal(how)
    assert done.wait(10) == 130
    for pid in Path("pids").read_text().split():
        _until(lambda pid=pid: not _runs(int(pid)))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_plan_only_runs_nothing(soup: Run, commits: dict[int, str]) -> None:
    words = ["bisect", *FOLDERS, "--plan-only", "--eval-command", "sh -c 'touch ran' {ckpt}"]
    plan = json.loads(soup(*words, "--json").stdout)
    assert plan["schema"] == "soup.bisect-plan/1"
    assert plan["most_probes"] == 6
    assert plan["ends"] == [FOLDERS[0], FOLDERS[-1]]
    assert "at most 6" in soup(*words).stdout
    assert not Path("ran").exists()
    assert not Path(".git/SOUP_BISECT_LOG").exists()


def test_verdicts_are_noted_on_the_commits(
    bisect: Bisect, git: Run, commits: dict[int, str]
) -> None:
    bisect(f"{commits[1]}..{commits[9]}")
    note = json.loads(git("notes", "--ref=soup", "show", commits[6]).stdout)
    assert note["schema"] == "soup.bisect-verdict/1"
    assert (note["good"], note["bad"], note["skip"]) == (0, 1, 0)
    assert note["adapter"] == "a"
    assert note["probe"]["command"][:2] == ["grep", "-q"]
    before = git("rev-parse", "refs/notes/soup").stdout
    bisect(f"{commits[1]}..{commits[9]}")
    assert git("rev-parse", "refs/notes/soup").stdout == before, "the same verdict is the same line"


# -- noise --------------------------------------------------------------------------------------

# Every fifth answer is a lie.
LIES = (
    "sh -c 'echo >> n; test $(( $(wc -l < n) % 5 )) != 0; lie=$?;"
    ' grep -q "dropout.: 0.0" "$1"/adapter_config.json; test $? = $lie\' sh {ckpt}'
)


@pytest.mark.parametrize("how", [["--noise", "0.2"], ["--confidence", "0.95"]])
def test_lies_are_outvoted(bisect: Bisect, commits: dict[int, str], how: list[str]) -> None:
    code, report = bisect(*FOLDERS, *how, command=LIES)
    assert (code, report["first_broken"]) == (3, "kept/c 6")
    chances = {c["checkpoint"]: c["probability"] for c in report["posterior"]}
    assert set(chances) == {*FOLDERS, None}
    assert chances["kept/c 6"] >= 0.95
    assert sum(chances.values()) == pytest.approx(1)
    assert report["noise"]["is_known"] == (how[0] == "--noise")
    assert report["probes"] > 6


def test_a_search_that_ran_out_of_probes_goes_on_with_more(
    bisect: Bisect, commits: dict[int, str]
) -> None:
    code, report = bisect(*FOLDERS, "--noise", "0.2", "--max-probes", "5", command=LIES)
    assert (code, report["verdict"], report["probes"]) == (125, "UNRESOLVED", 5)
    assert "kept/c 6" in report["candidates"]
    code, more = bisect(*FOLDERS, "--noise", "0.2", command=LIES)
    assert code == 3
    assert more["steps"][:5] == report["steps"]


def test_the_posterior_is_a_chart(soup: Run, commits: dict[int, str]) -> None:
    words = ["bisect", *FOLDERS, "--noise", "0.2,0.1", "--eval-command", LIES]
    done = soup(*words, check=False)
    assert "first broken" in done.stdout
    assert "█" in done.stdout
    assert "noise, given: good judged bad 20.0 %, bad judged good 10.0 %" in done.stdout
    page = soup(*words, "--format", "html", check=False).stdout
    assert '<svg class="bars"' in page
    assert "<script" not in page
    assert "|--:|" in soup(*words, "--format", "markdown", check=False).stdout


# -- inside git's own bisection -----------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--no-checkout"]])
def test_git_bisect_run_finds_the_same(git: Run, commits: dict[int, str], how: list[str]) -> None:
    run = f"soup/runs/{RUN}"
    git("bisect", "start", *how, run, f"{run}~8")
    done = git("bisect", "run", "git", "soup", "bisect-step", "--eval-command", EVAL)
    culprit = git("rev-parse", f"{run}~3").stdout.strip()
    assert f"{culprit} is the first bad commit" in done.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true {ckpt}", 0),
        ("sh -c 'exit 7' {ckpt}", 7),
        ("sh -c 'exit 125' {ckpt}", 125),
        ("sh -c 'exit 126' {ckpt}", 128),
        ("no-such-program {ckpt}", 128),
        ("true", 128),
    ],
)
def test_the_codes_of_a_step(soup: Run, commits: dict[int, str], command: str, code: int) -> None:
    assert soup("bisect-step", "--eval-command", command, check=False).returncode == code


def test_a_step_where_there_is_no_adapter_is_skipped(
    soup: Run, git: Run, commits: dict[int, str]
) -> None:
    git("checkout", "-q", "HEAD~9")
    done = soup("bisect-step", "--eval-command", EVAL, check=False)
    assert done.returncode == 125
    assert "has no adapter: skip" in done.stderr


def test_a_step_that_hangs_is_skipped(soup: Run, commits: dict[int, str]) -> None:
    words = ["bisect-step", "--timeout", "0.2s", "--eval-command", "sh -c 'sleep 30' {ckpt}"]
    assert soup(*words, check=False).returncode == 125
