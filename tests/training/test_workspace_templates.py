"""Every template of `git soup init`: it validates, and what runs small does run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from soup_git.commands.init import rendered, start
from soup_git.core.templates import TEMPLATES, Template
from soup_git.data.formats import FORMATS
from soup_git.errors import FatalError
from soup_git.evaluation.suite import load_suite
from soup_git.storage.templatefiles import template_text, text_below
from soup_git.training import upstream
from soup_git.training.config import SoupConfig, load_config
from soup_git.training.train import train
from tests.training import tiny_model as tiny

HERE = [
    template
    for template in TEMPLATES.values()
    if template.name != "embedding" or upstream.installed("sentence_transformers")
]
"""Those whose extras are installed."""


def configs_of(texts: dict[str, str]) -> dict[str, SoupConfig]:
    return {n: load_config(text) for n, text in texts.items() if n.endswith("soup.yaml")}


@pytest.mark.parametrize("template", HERE, ids=[template.name for template in HERE])
def test_a_template_is_valid_in_all_its_parts(template: Template, tmp_path: Path) -> None:
    texts = rendered(start(template.name, None, None), base_is_folder=False)
    configs = configs_of(texts)
    data = {template.dataset: template.rows[0], **(template.more_data or {})}
    assert {config.data.train for config in configs.values()} == set(data)
    for config in configs.values():
        accepted = {FORMATS[form].shape for form in (data[config.data.train],)}
        assert accepted <= set(config.method.shapes)
        assert config.data.format in {"auto", data[config.data.train]}
    assert len({config.output for config in configs.values()}) == len(configs)
    stages = yaml.safe_load(texts["dvc.yaml"])["stages"]
    trained = {stage["cmd"].split()[3:][0] if len(stage["cmd"].split()) > 3 else "soup.yaml"
               for stage in stages.values() if "stages.train" in stage["cmd"]}  # fmt: skip
    assert trained == set(configs)
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if "evaluate" in stages:
        assert load_suite(tmp_path / "eval" / "suite.yaml", tmp_path)
    assert ("eval/suite.yaml" in texts) is ("evaluate" in stages)


def test_a_template_whose_extra_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = upstream.installed
    missing = "sentence_transformers"
    monkeypatch.setattr(upstream, "installed", lambda name: name != missing and there(name))
    texts = rendered(start("embedding", None, None), base_is_folder=False)
    with pytest.raises(FatalError, match=r"needs sentence_transformers: .*git-soup\[embedding\]"):
        configs_of(texts)


def test_base_and_dataset_are_filled_in_as_text(tmp_path: Path) -> None:
    odd = 'a "quoted": # name'
    texts = rendered(start("chat", odd, "data/é.jsonl"), base_is_folder=True)
    config = load_config(texts["soup.yaml"])
    assert (config.base, config.data.train) == (odd, "data/é.jsonl")
    assert "${base}" in texts["dvc.yaml"]


@pytest.mark.parametrize("name", ["../pyproject.toml", "/etc/passwd", "a/../../x", "link"])
def test_template_files_stay_inside_their_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "template"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(FatalError, match="is not inside"):
        text_below(folder, name)
    if name != "link":
        with pytest.raises(FatalError, match="is not inside"):
            template_text(name)


ROWS: dict[str, Any] = {
    "messages": tiny.conversation,
    "alpaca": lambda n: {"instruction": f"Say {n}", "output": tiny.SENTENCES[n % 5]},
    "plaintext": lambda n: {"text": f"{n} {tiny.SENTENCES[n % 5]}"},
    "dpo": lambda n: {"prompt": f"{n}: ", "chosen": " yes", "rejected": " no"},
    "kto": lambda n: {"prompt": f"{n}: ", "completion": " yes", "label": n % 2 == 0},
    "prompt": lambda n: {"prompt": f"{n} + {n}", "answer": str(2 * n)},
    "classification": lambda n: {"text": tiny.SENTENCES[n % 5], "label": n % 2},
    "embedding": lambda n: {"anchor": f"Which {n}?", "positive": tiny.SENTENCES[n % 5]},
}
SMALL = (
    *("training.max_steps=1", "training.batch_size=4", "training.gradient_accumulation_steps=1"),
    *("training.threads=1", "data.max_length=64", "data.val_split=0", "training.warmup_steps=0"),
)
NEEDS_MORE = {
    "rlhf": "three stages: tests/pipeline runs them",
    "reasoning": "a base that is right now and then, or nothing is learnt: test_reward_methods",
    "moe": "a base with experts",
}


def test_what_runs_small_does_run(workspace: Path) -> None:
    """One step on the tiny base through the soup.yaml of each template that is another way
    through the code: another trainer, or other options of one."""
    ways: dict[tuple[Any, ...], str] = {}
    for template in HERE:
        name = template.name
        config = load_config(rendered(start(name, None, None), base_is_folder=False)["soup.yaml"])
        way = (config.method.trainer, config.task == "pretrain", *config.training.trl)
        if name in NEEDS_MORE or ways.setdefault(way, name) != name:
            continue
        rows = [ROWS[template.rows[0]](n) for n in range(8)]
        tiny.write_rows(workspace / template.dataset, rows)
        text = rendered(start(name, "base", None), base_is_folder=True)["soup.yaml"]
        config = load_config(text, SMALL)
        state = workspace.parent / "state" / name
        report = train(
            config, workspace_root=workspace, output=workspace / config.output, state_dir=state
        )
        assert (report.task, report.steps) == (config.task, 1)
        made = json.loads((workspace / config.output / "adapter_config.json").read_text())
        assert made["r"] == config.training.lora.r
    assert len(ways) >= 8
