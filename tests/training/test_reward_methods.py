"""Learning from rewards: that they are reached, and what a run refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from soup_git.training.methods.prompts import SAME_FOR_ONE_STEP
from tests.training import tiny_model as tiny
from tests.training.methods import points, prepare, run, steerable

PROMPTS = [{"prompt": f"{n} and", "answer": str(n)} for n in range(6)]
SHORT = ("training.trl={max_completion_length: 8}", "training.num_generations=4")
# Rewards every letter e, and writes down what it gave.
LETTERS = """\
def reward_fn(completions, **_):
    given = [10 * text.count("e") / (len(text) or 1) for text in completions]
    with open("given.txt", "a") as file:
        file.write(f"{sum(given) / len(given)}\\n")
    return given
"""


def given(workspace: Path) -> list[float]:
    return [float(line) for line in (workspace / "given.txt").read_text().splitlines()]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("grpo", []),
        ("grpo", ["training.grpo_variant=two_sided", "training.grpo_delta=4.0"]),
        ("rloo", []),
    ],
)
def test_a_reward_that_can_be_learnt_is(
    workspace: Path, base_folder: Path, task: str, options: list[str]
) -> None:
    prepare(workspace, task, PROMPTS)
    steerable(workspace, base_folder)
    (workspace / "letters.py").write_text(LETTERS)
    often = ("training.batch_size=32", "training.num_generations=16", "training.max_steps=10")
    often = (*often, "training.lr=0.03", "training.trl={max_completion_length: 4}")
    run(workspace, *often, *options, "training.reward_fn=letters.py")
    rewards = given(workspace)
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3]) > 0
    told = points(workspace)
    assert [point["reward"] for point in told] == pytest.approx(rewards, rel=1e-4)
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert metrics["reward"] == told[-1]["reward"]
    assert 0 < metrics["answer_tokens"] <= 4
    assert "loss_tokens" not in metrics


def test_rewards_that_are_all_the_same_are_told_as_that(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(workspace, "rloo", PROMPTS)
    with pytest.raises(FatalError, match="no two answers to a prompt ever had different rewards"):
        run(
            workspace, *SHORT, "training.reward_fn=accuracy", "training.max_steps=10",
            "training.trl={max_completion_length: 2, beta: 0.0}",
        )  # fmt: skip
    said = capsys.readouterr().err
    assert "no two answers to a prompt had different rewards in 10 steps" in said


@pytest.mark.parametrize("variant", ["standard", "dapo", "dr_grpo", "bnpo", "gspo", "cispo"])
def test_variants_are_trls_options(variant: str) -> None:
    from trl import GRPOConfig

    from soup_git.training.methods.prompts import VARIANTS

    options = VARIANTS[variant]
    arguments = GRPOConfig(
        output_dir="x", use_cpu=True, bf16=False, activation_checkpointing=False, **options
    )
    assert {key: getattr(arguments, key) for key in options} == options


def test_a_variant_that_amounts_to_another_here_says_so(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer is used for one step, so what limits the ratio to the old model is idle."""
    prepare(workspace, "grpo", PROMPTS)
    (workspace / "letters.py").write_text(LETTERS)
    options = (*SHORT, "training.reward_fn=letters.py", "training.max_steps=2")
    made = {}
    for name in ("standard", *SAME_FOR_ONE_STEP, "dapo"):
        delta = ("training.grpo_delta=1.5",) if name == "two_sided" else ()
        run(workspace, *options, f"training.grpo_variant={name}", *delta)
        made[name] = load_file(workspace / "output" / "adapter_model.safetensors")
        assert ("as standard does" in capsys.readouterr().err) == (
            SAME_FOR_ONE_STEP.get(name) == "standard"
        )
    for name, same in SAME_FOR_ONE_STEP.items():
        assert all(torch.allclose(made[name][k], t, atol=1e-5) for k, t in made[same].items())


def test_a_killed_run_goes_on_to_the_same_bytes_beyond_an_epoch(workspace: Path) -> None:
    """Sampling, dropout, a reference and the order of prompts are all where they were."""
    prepare(workspace, "grpo", PROMPTS)
    (workspace / "letters.py").write_text(LETTERS)
    options = (
        *(*SHORT, "training.reward_fn=letters.py", "training.lora.dropout=0.1"),
        *("training.batch_size=8", "training.save_steps=1", "training.max_steps=8"),
        "training.grpo_beta=0.1",
    )
    whole = run(workspace, *options)
    steps = given(workspace)

    class Killed(BaseException):
        pass

    def kill(step: int, *_: Any) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(workspace, *options, on_checkpoint=kill)
    rest = run(workspace, *options, resume=True)
    assert rest.resumed_from == 5
    assert given(workspace)[len(steps) :] == steps
    assert rest.weights_sha256 == whole.weights_sha256


def test_rules_reward_turns_and_validation_is_measured(workspace: Path) -> None:
    prepare(workspace, "grpo", [tiny.conversation(n) for n in range(8)])
    (workspace / "letters.py").write_text(LETTERS.replace("text.count", "text[0]['content'].count"))
    tiny.write_rows(workspace / "data" / "held.jsonl", [tiny.conversation(9)] * 4)
    text = (workspace / "soup.yaml").read_text()
    (workspace / "soup.yaml").write_text(
        text.replace("val_split: 0.0", "validation: data/held.jsonl")
    )
    report = run(
        workspace, *SHORT, "training.reward_fn=[format, accuracy, letters.py]",
        "training.max_steps=2", "training.grpo_beta=0.1", "training.trl.temperature=0.9",
    )  # fmt: skip
    assert report.format == "messages"
    assert report.eval_loss is not None


def test_an_adapter_that_scores_is_the_reward(workspace: Path) -> None:
    """Reward model first, then rloo on it: what the model answers scores higher afterwards."""
    pairs = [
        {"prompt": row["prompt"], "chosen": "e e e e", "rejected": "the fox runs"}
        for row in PROMPTS
    ]
    prepare(workspace, "reward_model", pairs)
    run(workspace, "training.max_steps=10")
    shutil.move(workspace / "output", workspace / "scores")
    prepare(workspace, "rloo", PROMPTS)
    options = ("training.reward_model=scores", *SHORT, "training.max_steps=2")
    first = run(workspace, *options)
    assert "sha256 of scores" in first.run
    assert run(workspace, *options).weights_sha256 == first.weights_sha256
    settings = json.loads((workspace / "scores" / "adapter_config.json").read_text())
    for changed, what in (
        ({"base_model_name_or_path": "other"}, "scores is of base other, and reads other tokens"),
        ({"task_type": "CAUSAL_LM"}, "scores was not trained to score answers"),
    ):
        (workspace / "scores" / "adapter_config.json").write_text(json.dumps(settings | changed))
        with pytest.raises(FatalError, match=what):
            run(workspace, *options)
    with pytest.raises(FatalError, match=r"training\.reward_model: none has no adapter_model"):
        run(workspace, *SHORT, "training.reward_model=none")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["training.reward_fn=missing.py"], "reward_fn: missing.py is not a file"),
        (["training.reward_fn=link.py"], "reward_fn: link.py is outside the workspace"),
        (["training.reward_fn=broken.py"], "the reward function of broken.py: it cannot be loaded"),
        (["training.reward_fn=nan.py"], "nan.py: it returned nan, which nothing can be learnt"),
        (
            ["training.reward_fn=format", "training.batch_size=64"],
            "a step answers 16 prompts, and there are 6 to train on",
        ),
        (
            ["training.reward_fn=verifiable", "training.verifiable_domain=code", "data.format=kto"],
            "kto rows, which this task does not read|6 rows do not fit",
        ),
    ],
)
def test_a_run_that_cannot_reward_says_why(workspace: Path, options: list[str], what: str) -> None:
    prepare(workspace, "grpo", PROMPTS)
    (workspace / "broken.py").write_text("import nothing_of_that_name\n")
    (workspace / "nan.py").write_text(
        "def reward_fn(completions):\n    return [float('nan')] * 4\n"
    )
    (workspace.parent / "away.py").write_text(LETTERS)
    (workspace / "link.py").symlink_to(workspace.parent / "away.py")
    with pytest.raises(FatalError, match=what):
        run(workspace, *SHORT, *options)


def test_rows_without_what_a_rule_needs_are_named_before_torch_is(workspace: Path) -> None:
    prepare(workspace, "grpo", [{"prompt": "2+2", "answer": "4"}, {"prompt": "2+2"}])
    with pytest.raises(FatalError) as caught:
        run(workspace, *SHORT, "training.reward_fn=accuracy")
    assert "1 row does not fit, of 2\ndata/train.jsonl:2: this reward needs" in str(caught.value)


@pytest.mark.parametrize(
    ("task", "options", "what"),
    [
        ("grpo", "{}", "task: grpo needs training.reward_fn or training.reward_model"),
        ("rloo", "{}", "task: rloo needs training.reward_fn or training.reward_model"),
        ("grpo", "{reward_fn: acuracy}", "reward_fn: acuracy is none of accuracy, format"),
        ("grpo", "{reward_fn: acuracy}", "did you mean accuracy?"),
        ("grpo", "{reward_fn: ../x.py}", "reward_fn: ../x.py is not a file inside the workspace"),
        ("grpo", "{reward_fn: /x.py}", "/x.py is not a file inside the workspace"),
        ("grpo", "{reward_model: ../x}", "reward_model: ../x is not a folder inside"),
        ("grpo", "{reward_fn: verifiable}", "verifiable needs verifiable_domain: math, code"),
        ("grpo", "{reward_fn: format, verifiable_domain: math}", "is for reward_fn: verifiable"),
        ("grpo", "{reward_fn: format, grpo_variant: rft}", "grpo_variant: should be 'standard'"),
        ("grpo", "{reward_fn: format, grpo_variant: two_sided}", "and grpo_delta need each other"),
        ("grpo", "{reward_fn: format, grpo_delta: 1.0}", "and grpo_delta need each other"),
        ("grpo", "{reward_fn: format, num_generations: 3}", "num_generations: 8 answers are gener"),
        ("grpo", "{reward_fn: format, batch_size: 6}", "batch_size: 6 answers are generated at once"),
        ("grpo", "{reward_fn: format, trl: {num_iterations: 2}}", "could not be resumed to the same"),
        ("grpo", "{reward_fn: format, trl: {use_vllm: true}}", "in the process that trains"),
        ("grpo", "{reward_fn: format, trl: {beta: 1.0}}", "trl.beta: that is training.grpo_beta"),
        ("rloo", "{reward_fn: format, grpo_beta: 1.0}", "task rloo has no such option"),
        ("rloo", "{reward_fn: format, lora: {bias: all}}", "task rloo compares with the base"),
        ("grpo", "{reward_fn: format, grpo_beta: 0.1, lora: {bias: all}}", "grpo_beta compares with"),
        (
            "grpo",
            "{reward_fn: format, grpo_beta: 0.1, lora: {init_strategy: pissa}}",
            "lora.init_strategy: pissa moves the base, and grpo_beta compares with its answers",
        ),
        (
            "grpo",
            "{reward_fn: format, grpo_beta: 0.1, lora: {use_olora: true}}",
            "lora.use_olora: olora moves the base, and grpo_beta compares with its answers",
        ),
        (
            "grpo",
            "{reward_fn: format, grpo_beta: 0.1, relora_steps: 2, relora_mode: merge}",
            "relora_mode: merge moves the base, and grpo_beta compares with the base's answers",
        ),
        ("sft", "{reward_fn: format}", "reward_fn: task sft has no such option (task grpo, rloo"),
    ],
)  # fmt: skip
def test_rewards_that_cannot_be_honoured_are_refused(task: str, options: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\ntask: {task}\ndata: {{train: x}}\ntraining: {options}\n")
    assert what in str(caught.value)
