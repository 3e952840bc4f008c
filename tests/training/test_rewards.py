"""Rewards by themselves, without a model: what each is worth, and what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from soup_git.data.rows import BadRowError
from soup_git.errors import FatalError
from soup_git.training.rewards import sandbox
from soup_git.training.rewards.asked import Asked
from soup_git.training.rewards.byrule import RULES
from soup_git.training.rewards.workspacefile import WorkspaceReward


def worth(rule: str, text: str, **row: Any) -> float:
    RULES[rule].check_row(row)
    (reward,) = RULES[rule]([Asked("rows:1", {"prompt": "?", **row}, text)])
    return reward


@pytest.mark.parametrize(
    ("rule", "text", "row", "reward"),
    [
        ("accuracy", "so it is #### 1,250", {"answer": "1250.0"}, 1),
        ("accuracy", "\\boxed{Paris}", {"solution": "paris"}, 1),
        ("accuracy", "I think 3, or 4", {"answer": 3}, 0),
        ("math", "2 + 2 = \\boxed{4.0}", {"answer": "#### 4"}, 1),
        ("math", "__import__('os')", {"answer": 4}, 0),
        ("math", "nan", {"answer": 4}, 0),
        ("format", "<think>well</think> 4", {}, 1),
        ("format", "<think>well</think>", {}, 0),
        ("format", "4", {}, 0),
        ("format", "<think>a<think>b</think></think> 4", {}, 0),
        ("json_schema", '```json\n{"a": 1}\n```', {"schema": {"required": ["a"]}}, 1),
        ("json_schema", '{"a": "x"}', {"schema": '{"properties": {"a": {"type": "number"}}}'}, 0),
        ("json_schema", "{", {"schema": {}}, 0),
        ("json_schema", "[" * 100_000, {"schema": {}}, 0),
    ],
)
def test_what_an_answer_is_worth(rule: str, text: str, row: dict[str, Any], reward: float) -> None:
    assert worth(rule, text, **row) == reward


@pytest.mark.parametrize(
    ("rule", "row", "what"),
    [
        ("accuracy", {}, "needs the right answer in a column answer or solution or expected"),
        ("accuracy", {"answer": " "}, "needs the right answer"),
        ("math", {"answer": "Paris"}, "needs a number as the answer: 'Paris'"),
        ("code", {"tests": []}, "needs tests"),
        ("json_schema", {}, "needs a JSON Schema in a column schema"),
        ("json_schema", {"schema": "{"}, "this is not JSON"),
        ("json_schema", {"schema": {"type": "thing"}}, "needs a JSON Schema: 'thing' is not valid"),
        ("json_schema", {"schema": {"pattern": "(a+)+$"}}, "cannot be matched safely"),
    ],
)
def test_a_row_without_what_a_rule_needs_is_told(rule: str, row: dict[str, Any], what: str) -> None:
    with pytest.raises(BadRowError) as caught:
        worth(rule, "x", **row)
    assert what in str(caught.value)


def test_code_is_worth_something_when_its_tests_pass() -> None:
    tests = ["assert double(2) == 4", "assert double('a') == 'aa'"]
    right = "Here:\n```python\ndef double(x):\n    return x * 2\n```\nDone."
    assert worth("code", right, tests=tests) == 1
    assert worth("code", right.replace("* 2", "+ x + x"), test_list=tests) == 0
    assert worth("code", "print(6 * 7)", answer="42") == 1
    assert worth("code", "print(6 * 8)", answer="42") == 0


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "raise SystemExit",
        "while True: pass",
        "x = bytearray(1 << 30)",
        "open('large', 'wb').write(bytes(2 << 20))",
        "print('x' * (2 << 20))",
        "import os; os.kill(os.getppid(), 9)",
        "[open('answer.py') for _ in range(64)]",
        "import sys; sys.stdout.close()",
        "(",
        "\0",
    ],
)
def test_code_that_does_not_reach_its_end_is_worth_nothing(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    assert not sandbox.run(code).finished


def test_code_sees_neither_files_nor_network_nor_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    monkeypatch.setenv("TOKEN", "hunter2")
    ran = sandbox.run(
        "import os\n"
        "print('TOKEN' in os.environ, sorted(os.listdir()))\n"
        "open('mine', 'w').write('kept nowhere')\n"
        "import socket\n"
        "try:\n"
        "    socket.create_connection(('127.0.0.1', 9), 0.2)\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
        f"for touch in (open, os.remove):\n"
        "    try:\n"
        f"        touch({str(secret)!r})\n"
        "        print('reached it')\n"
        "    except PermissionError:\n"
        "        print('no')\n"
    )
    assert ran.finished
    if "files" in ran.missing or "network" in ran.missing:
        pytest.skip("this kernel has neither Landlock nor user namespaces")
    first, connect, *touched = ran.printed.split("\n")
    assert first == "False ['answer.py', 'printed']"
    assert connect in {"PermissionError", "OSError", "ConnectionRefusedError"}
    assert touched[:2] == ["no", "no"]
    assert secret.read_text() == "x"


def test_a_set_has_the_same_order_in_every_run() -> None:
    code = "print([*{'a', 'b', 'c', 'd', 'e', 'f'}])"
    assert sandbox.run(code) == sandbox.run(code)


# ---- the workspace's own code -----------------------------------------------------------------

ASKED = [
    Asked("rows:1", {"prompt": "a", "answer": "1"}, "one"),
    Asked("rows:2", {"prompt": "b", "answer": "2"}, "three"),
]


def reward(root: Path, code: str, seconds: float = 20.0) -> WorkspaceReward:
    (root / "mine.py").write_text(code)
    return WorkspaceReward("mine.py", root, seconds)


def test_a_function_of_the_workspace_gets_what_it_asks_for(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("LENGTH = len")
    code = (
        "from beside import LENGTH\n"
        "print('this does not disturb')\n"
        "def reward_fn(completions, answer):\n"
        "    print('nor does this')\n"
        "    return [LENGTH(c) + int(a) for c, a in zip(completions, answer)]\n"
    )
    mine = reward(tmp_path, code)
    assert mine(ASKED) == [4.0, 7.0]
    assert mine(ASKED[::-1]) == [7.0, 4.0]
    turns = Asked("rows:3", {"prompt": [{"role": "user", "content": "a"}]}, "hello")
    code = (
        "def reward_fn(prompts, completions, **rest):\n"
        "    return [len(c[-1]['content']) + len(p) for p, c in zip(prompts, completions)]\n"
    )
    assert reward(tmp_path, code)([turns]) == [6.0]


def test_equal_calls_draw_equal_random_numbers(tmp_path: Path) -> None:
    body = """\
import random

def reward_fn(completions, **_):
    names = {"a", "b", "c", "d", "e"}
    return [random.random() + list(names).index("c") for _ in completions]
"""
    (tmp_path / "r.py").write_text(body)
    asked = [Asked("rows:1", {"prompt": "p"}, text) for text in ("a", "b")]
    first, second = (WorkspaceReward("r.py", tmp_path, 30) for _ in range(2))
    drawn = first(asked)
    assert drawn[0] != drawn[1]
    assert first([asked[0]]) != drawn[:1]
    assert second(asked) == drawn


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("return [1 / 0 for _ in completions]", "it raised ZeroDivisionError: division by zero (line 3)"),
        ("return [1.0]", "it returned 1 rewards for 2 completions"),
        ("return [float('nan')] * 2", "it returned nan, which nothing can be learnt from"),
        ("return [1.0, float('inf')]", "it returned inf, which nothing can be learnt from"),
        ("return [1.0, None]", "it returned None, which is no number"),
        ("return ['1', '2']", "it returned '1', which is no number"),
        ("return 1", "it raised TypeError: 'int' object is not iterable"),
        ("time.sleep(60)", "it took longer than 0.5 s for one batch"),
        ("while True: pass", "it took longer than 0.5 s for one batch"),
        ("os._exit(3)", "its process ended with exit code 3"),
        ("raise SystemExit", "it raised SystemExit"),
        ("raise ValueError('\\x1b[31mred')", "it raised ValueError: \\x1b[31mred"),
    ],
)  # fmt: skip
def test_a_function_that_misbehaves_says_how(tmp_path: Path, body: str, what: str) -> None:
    mine = reward(tmp_path, f"import os, time\ndef reward_fn(completions, **_):\n    {body}\n")
    mine.start()
    mine._seconds = 0.5 if "took longer" in what else 20.0
    began = time.monotonic()
    with pytest.raises(FatalError) as caught:
        mine(ASKED)
    assert f"the reward function of mine.py: {what}" in str(caught.value)
    assert caught.value.hint
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("def other(): ...", "it cannot be loaded: ImportError: it has no function reward_fn"),
        ("import nonsense_of_mine", "ModuleNotFoundError: No module named 'nonsense_of_mine'"),
        ("def reward_fn(", "it cannot be loaded: SyntaxError"),
        ("raise SystemExit(4)", "it cannot be loaded: SystemExit: 4 (line 1)"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(tmp_path: Path, code: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        reward(tmp_path, code).start()
    assert what in str(caught.value)
