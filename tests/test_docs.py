"""The examples in docs/ are typed, and print what the page says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
Run = Callable[..., subprocess.CompletedProcess[str]]


def steps(page: str) -> list[tuple[str, list[str], int]]:
    """(command, expected lines, exit code) of every console block."""
    found: list[tuple[str, list[str], int]] = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], [], 0))
            elif exit_code := re.fullmatch(r"\(exit (\d+)\)", line):
                found[-1] = (*found[-1][:2], int(exit_code[1]))
            else:
                found[-1][1].append(line)
    return found


def matches(expected: list[str], said: str) -> bool:
    pattern = "".join(
        "(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + " *\n"
        for line in expected
    )
    return re.fullmatch(pattern, said) is not None


@pytest.fixture
def before_the_tour(in_tmp_path: Path, git: Run, make_adapter: Callable[..., Path]) -> Path:
    git("init", "--quiet", "--initial-branch=main")
    make_adapter("adapters/support", seed=1)
    (in_tmp_path / "soup.yaml").write_text("base: org/base\ndata:\n  train: data/train.jsonl\n")
    (in_tmp_path / "data").mkdir()
    (in_tmp_path / "data" / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return in_tmp_path


def test_the_tour_is_what_happens(before_the_tour: Path) -> None:
    for command, expected, code in steps((DOCS / "tutorial" / "ten-minutes.md").read_text()):
        if "# after an edit" in command:
            with (before_the_tour / "data" / "train.jsonl").open("a") as file:
                file.write('{"prompt": "c", "completion": "d"}\n')
        done = subprocess.run(
            shlex.split(command, comments=True),
            cwd=before_the_tour,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code, f"$ {command}\n{done.stdout}"
        if expected:
            assert matches(expected, done.stdout), f"$ {command}\n{done.stdout}"


@pytest.fixture
def before_the_history(in_tmp_path: Path, git: Run, make_adapter: Callable[..., Path]) -> Path:
    git("init", "--quiet", "--initial-branch=main")
    git("soup", "init")
    rows = {"How late?": "Until 6 pm.", "A refund?": "In 14 days.", "Who are you?": "Support."}
    for seed, subject in ((1, "Track the support adapter"), (2, "Retrain")):
        make_adapter("adapters/support", seed=seed)
        git("soup", "add", "adapters/support")
        lines = [json.dumps({"prompt": ask, "completion": say}) for ask, say in rows.items()]
        (in_tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
        (in_tmp_path / "soup.yaml").write_text("base: tiny/base\ndata:\n  train: train.jsonl\n")
        git("add", "train.jsonl", "soup.yaml")
        rows = {"How late?": "Until 8 pm.", "A refund?": "In 14 days.", "A voucher?": "By mail."}
        git("commit", "--quiet", "-m", subject)
    return in_tmp_path


def test_the_history_page_is_what_happens(before_the_history: Path) -> None:
    for command, expected, code in steps((DOCS / "howto" / "history.md").read_text()):
        done = subprocess.run(
            shlex.split(command), cwd=before_the_history,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == code, f"$ {command}\n{done.stdout}"
        assert matches(expected, done.stdout), f"$ {command}\n{done.stdout}"


def test_a_wrong_line_would_be_noticed() -> None:
    assert matches(["a …", "…", "z"], "a 1\nb\nc\nz\n")
    assert not matches(["a"], "b\n")
    assert not matches(["a"], "a\nb\n")
