"""What the pages of docs/ say is typed, and true: commands exist, and print what is shown.

A page is a session. Its `sh` blocks are pasted into a shell, of its `console` blocks each
command is, and what it says is compared: `…` stands for anything on a line, and alone for any
lines. On the tutorial, whose numbers are those of a larger model, they may differ, too.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from soup_git.cli import command_tree
from soup_git.manual.commandtree import read_tree
from tests.conftest import MakeAdapter, Run
from tests.warm import Warm, program_launcher, python_launcher

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
VERBS = {verb.path: verb for verb in read_tree(command_tree()).walk()}


# -- a page as a session ----------------------------------------------------------------------


@dataclass
class Step:
    command: str
    says: list[str] | None = field(default_factory=list)
    """The lines that it should print; None when the page shows none, as for a pasted block."""
    exit_code: int = 0


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    for kind, block in re.findall(r"```(sh|console)\n(.*?)```", page, re.DOTALL):
        if kind == "sh":
            found.append(Step(block, None))
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            elif exit_code := re.fullmatch(r"\(exit (\d+)\)", line):
                found[-1].exit_code = int(exit_code[1])
            else:
                assert found[-1].says is not None
                found[-1].says.append(line)
    return found


MAY_DIFFER = re.compile(
    r"(?P<module>layers\.\d+\.[\w.]+)|(?P<bar>[█-▏]+)|(?P<digest>(?:md5|sha256):\S+|\b[0-9a-f]{7,}\b)"
    r"|(?P<number>[+-]?\d[\d.,]*)|(?P<space>[ \t]+)|…"
)
DIFFERS_AS = {
    "module": r"\S+", "bar": r"[█-▏]*", "digest": r"\S+", "number": r"[+-]?\d[\d.,]*",
    "space": r"[ \t]*", None: ".*",
}  # fmt: skip


def pattern(line: str, numbers_may_differ: bool) -> str:
    if line == "…":
        return "(?:.*\n)*?"
    text, at = "", 0
    for found in (MAY_DIFFER if numbers_may_differ else re.compile("…")).finditer(line):
        text += re.escape(line[at : found.start()]) + DIFFERS_AS[found.lastgroup]
        at = found.end()
    return text + re.escape(line[at:]) + " *\n"


def matches(expected: list[str], said: str, numbers_may_differ: bool = False) -> bool:
    lines = "".join(pattern(line, numbers_may_differ) for line in expected)
    return re.fullmatch(lines, said) is not None


def type_page(
    page: str,
    folder: Path,
    environment: Mapping[str, str],
    before: Mapping[str, Callable[[Path], None]],
    numbers_may_differ: bool = False,
) -> None:
    """Type a page of docs/ in `folder`; `before` has what happens before a command, or instead."""
    for step in steps((DOCS / page).read_text()):
        if step.command.startswith("cd "):
            folder = (folder / step.command[3:]).resolve()
            continue
        if step.command in before:
            before[step.command](folder)
            if "demo" in step.command:
                continue
        done = subprocess.run(
            ["bash", "-c", step.command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == step.exit_code, f"$ {step.command}\n{done.stdout}"
        if step.says is not None:
            as_shown = matches(step.says, done.stdout, numbers_may_differ)
            assert as_shown, f"$ {step.command}\n{done.stdout}"


def test_a_wrong_line_would_be_noticed() -> None:
    assert matches(["a …", "…", "z"], "a 1\nb\nc\nz\n")
    assert not matches(["a"], "b\n")
    assert not matches(["a"], "a\nb\n")
    assert not matches(["a 1"], "a 2\n")
    shown = ["layers.1.mlp.x  41.2 %  12 of 16  ███▏", "4f1c2aa: 1,204 rows"]
    assert matches(shown, "layers.0.attn.y  7 %  3 of 8\n0b84a061: 6 rows\n", True)
    assert not matches(shown, "layers.0.attn.y  7 %  3 of 8\n0b84a061: 6 lines\n", True)


# -- the pages --------------------------------------------------------------------------------


def test_tracking_and_pinning_are_what_happens(
    warm_path: str, in_tmp_path: Path, git: Run, make_adapter: MakeAdapter
) -> None:
    git("init", "--quiet", "--initial-branch=main")
    make_adapter("adapters/support", seed=1)
    (in_tmp_path / "soup.yaml").write_text("base: org/base\ndata:\n  train: data/train.jsonl\n")
    (in_tmp_path / "data").mkdir()
    (in_tmp_path / "data" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')

    def edit(folder: Path) -> None:
        with (folder / "data" / "train.jsonl").open("a") as file:
            file.write('{"prompt": "c", "completion": "d"}\n')

    an_edit = 'git commit --all -m "A few more rows"    # after an edit of data/train.jsonl'
    for page in ("howto/track.md", "howto/pin.md"):
        type_page(page, in_tmp_path, {"PATH": warm_path}, {an_edit: edit})


def test_history_release_and_free_space_are_what_happens(
    warm_path: str, in_tmp_path: Path, git: Run, soup: Run, make_adapter: MakeAdapter
) -> None:
    git("init", "--quiet", "--initial-branch=main")
    soup("init")
    rows = {"How late?": "Until 6 pm.", "A refund?": "In 14 days.", "Who are you?": "Support."}
    for seed, subject in ((1, "Track the support adapter"), (2, "Retrain")):
        make_adapter("adapters/support", seed=seed)
        soup("add", "adapters/support")
        lines = [json.dumps({"prompt": ask, "completion": say}) for ask, say in rows.items()]
        (in_tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
        (in_tmp_path / "soup.yaml").write_text("base: tiny/base\ndata:\n  train: train.jsonl\n")
        git("add", "train.jsonl", "soup.yaml")
        rows = {"How late?": "Until 8 pm.", "A refund?": "In 14 days.", "A voucher?": "By mail."}
        git("commit", "--quiet", "-m", subject)
    for page in ("history", "compare-data", "release", "free-space"):
        type_page(f"howto/{page}.md", in_tmp_path, {"PATH": warm_path}, {})


def test_moving_is_what_happens(
    warm_path: str, in_tmp_path: Path, git: Run, make_adapter: MakeAdapter
) -> None:
    git("init", "--quiet", "--initial-branch=main", "old")
    for seed, name in enumerate(("final", "final-v2", "final-v3-good")):
        make_adapter(f"old/adapters/{name}", seed=seed)
    type_page("howto/move.md", in_tmp_path / "old", {"PATH": warm_path}, {})


# -- the tutorial -----------------------------------------------------------------------------

STAGES = ("train", "lock", "evaluate")


@pytest.fixture(scope="module")
def warm_training(warm_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same, with a dvc, stages and a `git soup eval` that have their imports done."""
    pytest.importorskip("trl", reason="the train extra is not installed")
    dvc, stages = Warm("dvc"), Warm("stages")
    stages.start(wait=False)
    dvc.start()
    stages.start()
    folder = tmp_path_factory.mktemp("programs")
    program_launcher(folder, "dvc", "dvc", dvc)
    program_launcher(folder, "git-soup", "soup_git", stages)
    python_launcher(folder, {f"soup_git.stages.{name}": stages for name in STAGES})
    yield f"{folder}{os.pathsep}{warm_path}"
    for server in (dvc, stages):
        server.stop()


def test_the_tutorial_is_what_happens(warm_training: str, in_tmp_path: Path) -> None:
    from tests.training.tiny_model import make_base

    # Two minutes of training; a random model of the same kind stands in for it.
    make_the_base = "git soup demo --base-only models/base"
    before = {make_the_base: lambda folder: make_base(folder / "models" / "base")}
    type_page(
        "tutorial/ten-minutes.md",
        in_tmp_path,
        {"PATH": warm_training, "GIT_AUTHOR_NAME": "Ada"},
        before,
        numbers_may_differ=True,
    )


# -- every command that a page mentions -------------------------------------------------------


def unknown_commands(text: str) -> Iterator[str]:
    """What stands after `git soup` on a page, in code, and is no verb or no option of it."""
    code = re.findall(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL)
    for piece in ("".join(pair) for pair in code):
        for words in re.findall(r"\bgit[ -]soup ([^\n;|&#)]+)", piece):
            typed = words.replace("'", " ").replace('"', " ").split()
            yield from wrong_words(typed)


def wrong_words(typed: list[str]) -> Iterator[str]:
    if not typed or not re.fullmatch(r"[a-z][a-z-]+", typed[0]):
        return  # VERB, …, an option of the program itself
    path = tuple(typed[:1])
    if path not in VERBS:
        yield f"git soup {typed[0]}"
        return
    while (*path, *typed[len(path) : len(path) + 1]) in VERBS and typed[len(path) :]:
        path = (*path, typed[len(path)])
    known = {name for option in VERBS[path].options for name in option.names} | {"-h", "--help"}
    for word in typed[len(path) :]:
        name = word.partition("=")[0].rstrip(",.:")
        if re.fullmatch(r"--[a-z][a-z-]+", name) and name not in known:
            yield f"{' '.join(('git soup', *path))} {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_on_the_page_exists(page: Path) -> None:
    assert list(unknown_commands(page.read_text())) == []


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    text = (
        "`git soup fly`, `git soup diff --wings A B`, `git soup lock check --env`, `git soup VERB`"
    )
    found = unknown_commands(text)
    assert list(found) == ["git soup fly", "git soup diff --wings"]
