"""What soup.yaml names and dvc.yaml does not: said with the lines to add, which DVC takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from soup_git.core.stagedeps import config_stages

CONFIG = """\
base: org/base
task: grpo
data:
  train: data/train.jsonl
  chat_template: t.jinja
  validation: data/val.jsonl
training:
  reward_fn: [format, rewards/short.py]
  reward_model: adapters/rm
output: ./output
"""
FILES = {
    "soup.yaml": CONFIG,
    "t.jinja": "{{ messages }}",
    "data/train.jsonl": '{"prompt": "a"}\n',
    "data/val.jsonl": '{"prompt": "b"}\n',
    "rewards/short.py": "def reward_fn(prompts, completions): ...\n",
}
LINES = [
    "- ${data.chat_template}",
    "- ${data.validation}",
    "- ${training.reward_fn[1]}",
    "- ${training.reward_model}/adapter_model.safetensors",
]


@pytest.fixture
def naming(repo: Path, git, soup, make_adapter) -> Path:
    """A workspace whose soup.yaml names files, and the pipeline that a template has."""
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    make_adapter(Path("adapters/rm"), seed=5)
    soup("add", "adapters/rm")
    return repo


def add_lines(stages: set[str], lines: list[str]) -> None:
    text, stage = [], ""
    for line in Path("dvc.yaml").read_text().splitlines():
        found = re.fullmatch(r"  (\w+):", line)
        stage = found[1] if found else stage
        text.append(line)
        if line == "      - ${data.train}" and stage in stages:
            text += [f"      {one}" for one in lines]
    Path("dvc.yaml").write_text("\n".join(text) + "\n")


def test_a_pipeline_that_misses_inputs_is_told_the_lines_to_add(naming, soup, dvc):
    said = soup("init", "--template", "reasoning").stderr
    assert "warning: dvc repro does not see when t.jinja, data/val.jsonl, rewards/short.py and adapters/rm changes" in said  # fmt: skip
    assert "hint: in dvc.yaml, add to deps of stages train and lock:" in said
    assert [line.strip() for line in said.splitlines() if line.startswith("      ")] == LINES
    assert soup("config", "check", check=False).stderr.count("warning: dvc repro") == 1

    add_lines({"train", "lock"}, LINES)
    resolved = dvc("stage", "list", "--names-only").stdout.split()
    assert {"train", "lock"} <= set(resolved)
    status = json.loads(dvc("status", "--json").stdout)
    deps = {dep for change in status["train"] if "changed deps" in change for dep in change["changed deps"]}  # fmt: skip
    wanted = {"t.jinja", "data/val.jsonl", "rewards/short.py", "adapters/rm/adapter_model.safetensors"}  # fmt: skip
    assert wanted <= deps
    assert "warning" not in soup("init", "--template", "reasoning").stderr


def test_the_plan_says_what_dvc_does_not_see(naming, git, soup):
    soup("init", "--template", "reasoning")
    Path("dvc.yaml").write_text(
        "stages:\n  train:\n    cmd: 'true python -m soup_git.stages.train'\n"
        "    deps:\n      - soup.yaml\n      - t.jinja\n"
        "  after:\n    cmd: 'true'\n    deps:\n      - soup.yaml\n"
    )
    soup("lock", "write")
    git("add", "--all")
    soup("train", check=False)
    assert soup("plan").stdout.count("up to date") == 2
    Path("rewards/short.py").write_text("def reward_fn(prompts, completions): return 1\n")
    done = soup("plan", check=False)
    assert done.returncode == 3
    assert "rewards/short.py changed, which only git soup train sees" in done.stdout
    assert "config drifted: sha256:" in done.stdout
    assert "add to deps of stage train:\n      - data/val.jsonl\n" in done.stderr
    done = soup("train", check=False)
    said = done.stderr
    assert "rewards/short.py changed, which dvc.yaml does not name: training again" in said
    # What this stage runs succeeds, and trains nothing.
    assert done.returncode == 128
    assert "holds no adapter that it trained" in said
    assert soup("plan").returncode == 0
    assert soup("lock", "check").returncode == 0
    Path("t.jinja").write_text("{{ other }}")
    assert "dependency t.jinja modified" in soup("plan", check=False).stdout


def test_an_older_pipeline_without_what_is_read_is_left_alone(naming, soup):
    Path("dvc.yaml").write_text("stages: [not, a, mapping")
    done = soup("config", "check", check=False)
    assert "Traceback" not in done.stderr
    assert "dvc repro does not see" not in done.stderr


@pytest.mark.parametrize(
    ("cmd", "found"),
    [
        ("python -m soup_git.stages.train", [(True, "soup.yaml")]),
        ("python -m soup_git.stages.train sft/soup.yaml", [(True, "sft/soup.yaml")]),
        ("python -m soup_git.stages.train >log", [(True, "soup.yaml")]),
        ("nice python -m soup_git.stages.train && echo done", [(True, "soup.yaml")]),
        ("python -m soup_git.stages.lock", [(False, "soup.yaml")]),
        ("python -m soup_git.stages.train ${item}/soup.yaml", []),
        ("python -m soup_git.stages.trainer", []),
        ("python train.py", []),
    ],
)
def test_the_stages_that_read_a_config(cmd, found):
    text = f"stages:\n  one:\n    cmd: {cmd}\n    deps: [a, {{b: {{hash: md5}}}}]\n"
    stages = config_stages(text.encode())
    assert [(stage.trains, stage.config) for stage in stages] == found
    assert all(stage.deps == ("a", "b") for stage in stages)


def test_a_dependency_counts_by_itself_by_a_file_of_it_and_by_a_folder_around_it():
    text = "stages: {t: {cmd: python -m soup_git.stages.train, deps: ['./a/', '${data.b}', c/d/e, '${x}']}}"
    [stage] = config_stages(text.encode())
    config = {"data": {"b": "rows.jsonl"}}
    seen = ["a", "a/b", "rows.jsonl", "c/d", "c/d/e"]
    assert [path for path in [*seen, "x", "b", "ab", "c/other"] if stage.sees(path, config)] == seen
