"""Learning from answers that were compared or judged: what each method does to a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training.config import load_config
from soup_git.training.methods import pairs
from tests.training import tiny_model as tiny
from tests.training.methods import Words, curve, prepare, run

PAIRS = [
    {
        "prompt": f"{n}: ",
        "chosen": tiny.SENTENCES[n % 3],
        "rejected": tiny.SENTENCES[(n + 1) % 3][::-1],
    }
    for n in range(8)
]


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("dpo", []),
        ("ipo", ["training.ipo_tau=0.5"]),
        ("bco", []),
        ("preference", ["training.preference_loss=apo_zero"]),
        ("preference", ["training.preference_loss=sft"]),
        ("preference", ["training.preference_loss_weights={dpo: 0.7, bco: 0.3}"]),
        ("orpo", ["training.orpo_beta=2.0"]),
        ("cpo", []),
        ("preference", ["training.preference_loss=simpo", "training.simpo_gamma=1.0"]),
    ],
)
def test_the_chosen_answer_gains_on_the_rejected_one(
    workspace: Path, task: str, options: list[str]
) -> None:
    prepare(workspace, task, PAIRS)
    report = run(workspace, *options)
    assert report.task == task
    words = Words(workspace)
    assert all(words.margin(row) > 1 for row in PAIRS)


def test_the_first_loss_of_dpo_is_that_of_no_preference(workspace: Path) -> None:
    """The adapter starts as the base, which is the reference: log 2 for every pair."""
    prepare(workspace, "dpo", PAIRS)
    run(workspace, "training.max_steps=2")
    assert curve(workspace)[0] == pytest.approx(math.log(2), abs=2e-6)


def test_kto_raises_good_answers_and_lowers_bad_ones(workspace: Path) -> None:
    rows = [
        {"prompt": row["prompt"], "completion": row[key], "label": key == "chosen"}
        for row in PAIRS
        for key in ("chosen", "rejected")
    ]
    prepare(workspace, "kto", rows)
    first = run(workspace, "training.kto_beta=0.2", "training.save_steps=3")
    words = Words(workspace)
    assert all(words.margin(row) > 1 for row in PAIRS)
    assert run(workspace, "training.kto_beta=0.2").weights_sha256 == first.weights_sha256


def test_imitation_beside_the_comparison_is_as_strong_as_its_weight(workspace: Path) -> None:
    """SimPO alone does not imitate; with cpo_alpha the chosen answer itself becomes likelier."""
    prepare(workspace, "simpo", PAIRS)
    likelier = []
    for alpha in (0.0, 5.0):
        run(workspace, f"training.cpo_alpha={alpha}")
        words = Words(workspace)
        likelier.append(sum(words.logprob(r["prompt"], r["chosen"]) for r in PAIRS))
    assert likelier[1] > likelier[0] + 5


def test_pretraining_splits_documents_and_learns_all_of_them(workspace: Path) -> None:
    text = " ".join(tiny.SENTENCES)
    prepare(workspace, "pretrain", [{"text": text}, {"text": text[::-1]}])
    report = run(workspace, "data.max_length=32", "training.max_steps=12")
    assert (report.truncated_rows, report.dropped_rows) == (0, 0)
    assert report.loss_tokens == report.tokens - 2
    first, *_, last = curve(workspace)
    assert last < first - 0.2


def test_beta_follows_its_schedule(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from soup_git.training.methods.pairtrainers import DPO

    prepare(workspace, "dpo", PAIRS)
    seen: list[float] = []
    original = DPO._compute_loss

    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.beta)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(DPO, "_compute_loss", keeping)
    schedule = "training.dpo_beta_schedule=linear", "training.dpo_beta_end=0.1"
    run(workspace, "training.dpo_beta=0.5", *schedule, "training.max_steps=3")
    assert seen == pytest.approx([0.5, 0.3, 0.1])


def test_every_schedule_goes_from_its_start_to_its_end() -> None:
    for shape in pairs.SCHEDULES.values():
        assert shape(0.4, 0.1, 0.0) == pytest.approx(0.4)
        assert shape(0.4, 0.1, 1.0) == pytest.approx(0.1)
    assert pairs.SCHEDULES["exponential"](0.4, 0.1, 0.5) == pytest.approx(0.2)
    assert pairs.SCHEDULES["cosine"](0.4, 0.1, 0.5) == pytest.approx(0.25)


def test_a_killed_run_goes_on_to_the_same_bytes(workspace: Path) -> None:
    """The schedule included, with dropout on."""
    prepare(workspace, "dpo", PAIRS)
    options = (
        *("training.lora.dropout=0.1", "training.save_steps=2"),
        *("training.dpo_beta_schedule=cosine", "training.dpo_beta_end=0.01"),
    )
    whole = run(workspace, *options)

    class Killed(BaseException):
        pass

    def kill(step: int, *_: Any) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        run(workspace, *options, on_checkpoint=kill)
    rest = run(workspace, *options, resume=True)
    assert rest.resumed_from == 4
    assert rest.weights_sha256 == whole.weights_sha256
    assert rest.metrics == whole.metrics


def test_tokens_are_those_that_trl_itself_makes(workspace: Path) -> None:
    """We tokenize ourselves; this is the proof that nothing else is compared."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from soup_git.data import formats
    from soup_git.training import model, prepared, templates

    turns = [
        {
            "prompt": [{"role": "user", "content": f"{n}"}],
            "chosen": [{"role": "assistant", "content": "yes " * n}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for n in range(1, 4)
    ]
    for rows in (PAIRS, turns):
        prepare(workspace, "dpo", rows)
        config = load_config(workspace / "soup.yaml")
        base = model.locate(config, workspace)
        tokenizer = model.load_tokenizer(base, config)
        template = templates.resolve(config, workspace, model.own_template(tokenizer))
        dataset = formats.load_dataset(workspace / "data" / "train.jsonl", shapes=("pairs",))
        reading = prepared.Reading(tokenizer, template, config, workspace)
        examples = prepared.prepare(dataset.rows, config.method, reading).examples
        ours = pairs.columns(examples, reading)
        trainer = DPOTrainer(
            model=model.load(base, config, dtype="float32"),
            args=DPOConfig(
                output_dir=str(workspace / "trl"), use_cpu=True, bf16=False, report_to="none",
                activation_checkpointing=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )  # fmt: skip
        for column, values in ours.items():
            assert list(trainer.train_dataset[column]) == values


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("task: preference", "2: task: preference needs training.preference_loss or"),
        ("task: ppo", "task: ppo is gone from TRL; task rloo, or grpo, with training.reward_model"),
        ("task: dpo\ntraining: {ipo_tau: 1.0}", "task dpo has no such option (task ipo has)"),
        ("task: dpo\ntraining: {dpo_beta_end: 1.0}", "dpo_beta_end: needs dpo_beta_schedule"),
        ("task: dpo\ntraining: {trl: {beta: 1.0}}", "trl.beta: that is training.dpo_beta here"),
        ("task: ipo\ntraining: {trl: {loss_type: [x]}}", "trl.loss_type: is not taken: task ipo"),
        ("task: dpo\ntraining: {lora: {bias: all}}", "lora.bias: task dpo compares with the base"),
        ("task: dpo\ntraining: {packing: true}", "packing: task dpo has no such option"),
        ("task: kto\ntraining: {batch_size: 1}", "batch_size: task kto needs other answers"),
        (
            "task: cpo\ntraining: {trl: {max_completion_length: 9}}",
            "max_completion_length: is not taken: data.max_length is for prompt and answer",
        ),
        ("task: dpo\ntraining: {dpo_beta: 0.0}", "dpo_beta: should be greater than 0"),
        (
            "task: preference\ntraining: {preference_loss: ipo, dpo_beta: 1.0}",
            "dpo_beta: task preference with preference_loss ipo has no such option",
        ),
        (
            "task: preference\ntraining: {preference_loss_weights: {dpo: 1.0, simpo: 1.0}}",
            "preference_loss_weights: should be",
        ),
        (
            "task: preference\ntraining: {preference_loss_weights: {dpo: 1.0}}",
            "preference_loss_weights: Dictionary should have at least 2 items",
        ),
    ],
)
def test_what_a_method_cannot_honour_is_refused_with_its_key(text: str, what: str) -> None:
    with pytest.raises(FatalError) as caught:
        load_config(f"base: m\n{text}\ndata: {{train: x}}\n")
    assert what in str(caught.value)


def test_a_task_has_defaults_of_its_own_which_the_file_overrides() -> None:
    head = "base: m\ndata: {train: x}\n"
    sft, dpo = load_config(head), load_config(f"{head}task: dpo\n")
    assert (sft.training.lr, sft.training.lora.dropout) == (2e-4, 0.05)
    assert (dpo.training.lr, dpo.training.lora.dropout) == (1e-5, 0.0)
    given = load_config(f"{head}task: dpo\ntraining: {{lr: 1.0, lora: {{dropout: 0.1}}}}\n")
    assert (given.training.lr, given.training.lora.dropout) == (1.0, 0.1)
    orpo = load_config(f"{head}task: preference\ntraining: {{preference_loss: ipo}}\n")
    assert orpo.method.name == "ipo"


def test_answers_that_do_not_fit_are_cut_or_dropped(workspace: Path) -> None:
    long = {"prompt": "a ", "chosen": "b " * 200, "rejected": "c"}
    filled = {"prompt": "a " * 200, "chosen": "b", "rejected": "c"}
    prepare(workspace, "dpo", [*PAIRS[:4], long, filled])
    report = run(workspace, "training.max_steps=2")
    assert (report.rows, report.truncated_rows, report.dropped_rows) == (5, 2, 1)
