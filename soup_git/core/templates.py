"""What `git soup init --template NAME` writes: a registry, a row for each template.

A template is a soup.yaml, a pipeline and a suite; most share the pipeline and a suite, so a row
names files of `.dvc-template/` instead of holding copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from soup_git.errors import FatalError

CONFIG, PIPELINE = "soup.yaml", "dvc.yaml"
SUITE, PROMPTS = "eval/suite.yaml", "eval/prompts.jsonl"
DEFAULT_BASE = "Qwen/Qwen3-0.6B"
DEFAULT_DATASET = "data/train.jsonl"
_SMALL_MOE = "Qwen/Qwen3-30B-A3B"
_SMALL_EMBEDDER = "Qwen/Qwen3-Embedding-0.6B"


@dataclass(frozen=True)
class Template:
    """A starting point for training."""

    name: str
    summary: str
    """One sentence, for `git soup init -h`."""
    files: Mapping[str, tuple[str, ...]]
    """Path in the workspace -> files of `.dvc-template/`, which are joined."""
    rows: tuple[str, ...]
    """Formats of the rows (data/formats.py), the usual one first."""
    base: str = DEFAULT_BASE
    dataset: str = DEFAULT_DATASET
    more_data: Mapping[str, str] | None = None
    """Other datasets that its pipeline reads -> the format of their rows."""


def _template(
    name: str, summary: str, *rows: str, suite: str | None = "answers", base: str = DEFAULT_BASE
) -> Template:
    pipeline = ("pipelines/adapter.yaml", *(("pipelines/evaluate.yaml",) if suite else ()))
    files = {CONFIG: (f"templates/{name}.yaml",), PIPELINE: pipeline, **_suite(suite)}
    return Template(name, summary, files, rows, base=base)


def _suite(name: str | None) -> dict[str, tuple[str, ...]]:
    if name is None:
        return {}
    return {SUITE: (f"suites/{name}/suite.yaml",), PROMPTS: (f"suites/{name}/prompts.jsonl",)}


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        _template("chat", "fine-tune a chat model on conversations", "messages"),
        _template("code", "teach a model to write code", "alpaca", suite="code"),
        _template(
            "reasoning",
            "reward right answers and the form of the thinking before them (GRPO)",
            "prompt",
            suite="reasoning",
        ),
        _template("preference", "learn which of two answers is better (DPO or a kin)", "dpo"),
        _template("kto", "learn from answers that are good or bad, each by itself", "kto"),
        _template("orpo", "learn from pairs in one stage, without a reference", "dpo"),
        _template("simpo", "learn from pairs by log-probabilities per token", "dpo"),
        _template("ipo", "learn from pairs with a margin that does not run away", "dpo"),
        _template("bco", "learn from pairs as a classifier of good and bad answers", "dpo"),
        Template(
            "rlhf",
            "three trainings in one pipeline: SFT, a reward model, RLOO with it",
            {
                CONFIG: ("templates/rlhf/rloo.yaml",),
                "sft/soup.yaml": ("templates/rlhf/sft.yaml",),
                "reward/soup.yaml": ("templates/rlhf/reward.yaml",),
                PIPELINE: ("pipelines/rlhf.yaml",),
                **_suite("answers"),
            },
            ("prompt",),
            dataset="data/prompts.jsonl",
            more_data={"data/sft.jsonl": "messages", "data/preferences.jsonl": "dpo"},
        ),
        _template(
            "pretrain", "go on with pre-training on text of a field", "plaintext", suite="fit"
        ),
        _template(
            "moe",
            "adapt attention and experts of a mixture of experts",
            "messages",
            base=_SMALL_MOE,
        ),
        _template("longcontext", "fine-tune on conversations of up to 32k tokens", "messages"),
        _template("classifier", "label texts", "classification", suite=None),
        _template(
            "embedding",
            "texts to vectors, near where the texts belong together (extra embedding)",
            "embedding",
            suite=None,
            base=_SMALL_EMBEDDER,
        ),
        _template(
            "tool-calling", "teach a model when and how to call tools", "messages", suite="tools"
        ),
        _template("medical", "answer questions of one field, such as medicine", "alpaca"),
    )
}
"""Name -> template, in the order of `git soup init -h`."""


def template_named(name: str) -> Template:
    """The template called `name`; raises FatalError, with all of them, for any other word."""
    if name not in TEMPLATES:
        raise FatalError(
            f"there is no template {name!r}: {', '.join(TEMPLATES)}",
            hint="git soup init -h says what each is for",
        )
    return TEMPLATES[name]
