"""Options that nothing would read in a config are refused, each under its own key."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training import optimizers, passthrough, unread, upstream
from soup_git.training.config import load_config
from soup_git.training.tasks import TASKS

HEAD = "base: m\ndata: {train: data/x.jsonl}\n"
RL = "reward_fn: format, num_generations: 4"
SMOOTHED = "trl: {label_smoothing_factor: 0.1}"


def problems(text: str) -> str:
    with pytest.raises(FatalError) as caught:
        load_config(text)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("scheduler: constant, warmup_steps: 2", "warmup_steps: scheduler constant has no warm-up"),
        ("scheduler: constant, warmup_ratio: 0.1", "warmup_ratio: scheduler constant has no warm"),
        ("scheduler: greedy, warmup_steps: 2", "warmup_steps: scheduler greedy has no warm-up"),
        (
            "scheduler: constant_with_warmup, trl: {lr_scheduler_kwargs: {x: 1}}",
            "lr_scheduler_kwargs: has no effect: it needs a scheduler with options",
        ),
        ("trl: {optim_target_modules: [q]}", "optim_target_modules: is not taken: only GaLore"),
        ("trl: {optim_args: 'x=1'}", "optim_args: adamw_torch has no x: it reads none of them"),
        (
            "optimizer: sgd, trl: {optim_args: 'momentum=0.9,weight_decay=0.1'}",
            "optim_args: weight_decay is training.weight_decay here",
        ),
        (
            "optimizer: sgd, trl: {adam_beta2: 0.9}",
            "adam_beta2: has no effect: it needs Adam's bet",
        ),
        ("optimizer: adafactor, trl: {adam_epsilon: 0.1}", "adam_epsilon: has no effect: it needs"),
        ("trl: {use_cache: true}", "use_cache: is not taken: training has no use for a cache"),
        ("trl: {logging_nan_inf_filter: false}", "logging_nan_inf_filter: is not taken"),
        ("trl: {length_column_name: n}", "length_column_name: is not taken: rows have no such"),
        ("trl: {bf16_full_eval: true}", "bf16_full_eval: is not taken: the last validation would"),
        ("trl: {eval_accumulation_steps: 2}", "eval_accumulation_steps: is not taken: no metric"),
        ("trl: {packing_strategy: bfd}", "packing_strategy: has no effect: it needs packing"),
        (
            "trl: {gradient_checkpointing_kwargs: {use_reentrant: true}}",
            "gradient_checkpointing_kwargs: has no effect: it needs gradient_checkpointing: true",
        ),
        (
            "trl: {liger_kernel_config: {rope: true}}",
            "liger_kernel_config: has no effect: it needs trl.use_liger_kernel",
        ),
        (
            "trl: {dataloader_persistent_workers: true}",
            "dataloader_persistent_workers: has no effect: it needs trl.dataloader_num_workers",
        ),
        (
            "trl: {loss_type: dft, label_smoothing_factor: 0.1}",
            "label_smoothing_factor: has no effect: it needs trl.loss_type: nll",
        ),
        ("lora: {peft: {fan_in_fan_out: true}}", "fan_in_fan_out: is not taken: PEFT looks at the"),
        (
            "lora: {peft: {arrow_config: {top_k: 2}}}",
            "arrow_config: is not taken: it chooses among",
        ),
        ("lora: {peft: {monteclora_config: {}}}", "monteclora_config: is not taken: the trainer"),
    ],
)
def test_what_nothing_would_read_is_refused(options: str, what: str) -> None:
    said = problems(f"{HEAD}training: {{{options}}}\n")
    assert said.startswith("soup.yaml:3: ")
    assert what in said


@pytest.mark.parametrize(
    ("task", "options", "what"),
    [
        *((name, SMOOTHED, "label_smoothing_factor: is not taken") for name in (
            *("dpo", "ipo", "bco", "kto", "orpo", "cpo", "simpo", "reward_model"),
        )),
        ("grpo", f"{RL}, {SMOOTHED}", "label_smoothing_factor: is not taken"),
        ("rloo", f"{RL}, {SMOOTHED}", "label_smoothing_factor: is not taken"),
        (
            "preference",
            f"preference_loss: apo_zero, {SMOOTHED}",
            "label_smoothing_factor: is not taken",
        ),
        ("reranker", SMOOTHED, "label_smoothing_factor: has no effect: it needs one label"),
        (
            "classifier",
            f"num_labels: 3, classifier_kind: multi_label, {SMOOTHED}",
            "label_smoothing_factor: has no effect: it needs one label for each row",
        ),
        (
            "dpo",
            "trl: {label_smoothing: 0.3}",
            "label_smoothing: has no effect: only aot, aot_unpaired, exo_pair, robust read it, and",
        ),
        ("ipo", "trl: {label_smoothing: 0.3}", "only aot, aot_unpaired, exo_pair, robust read it"),
        ("dpo", "trl: {discopop_tau: 0.1}", "discopop_tau: has no effect: only discopop read it"),
        (
            "dpo",
            "trl: {f_alpha_divergence_coef: 0.3}",
            "f_alpha_divergence_coef: has no effect: it needs trl.f_divergence_type: alpha_div",
        ),
        ("dpo", "trl: {precompute_ref_batch_size: 4}", "it needs trl.precompute_ref_log_probs"),
        ("dpo", "trl: {loss_type: [ipo]}", "loss_type: is not taken: task preference has the loss"),
        ("ipo", "trl: {loss_weights: [2.0]}", "loss_weights: is not taken: task preference has"),
        (
            "preference",
            "preference_loss: sft, dpo_beta: 0.2",
            "dpo_beta: has no effect: preference_loss sft compares with nothing",
        ),
        ("cpo", "trl: {loss_type: simpo}", "loss_type: that is task: simpo"),
        ("cpo", "trl: {simpo_gamma: 0.5}", "simpo_gamma: is not taken: task simpo has it"),
        (
            "cpo",
            "trl: {loss_type: hinge, label_smoothing: 0.1}",
            "label_smoothing: has no effect: only sigmoid, simpo read it, and this is hinge",
        ),
        ("orpo", "trl: {padding_value: 3}", "padding_value: is not taken: padding is masked"),
        ("dpo", "trl: {train_sampling_strategy: group_by_length}", "rows of one sequence of tokens"),
        ("grpo", f"{RL}, trl: {{train_sampling_strategy: sequential}}", "TRL draws the prompts"),
        ("grpo", f"{RL}, trl: {{epsilon: 0.1}}", "epsilon: is not taken: an answer is used for one"),
        ("grpo", f"{RL}, trl: {{epsilon_high: 0.3}}", "epsilon_high: is not taken"),
        ("grpo", f"{RL}, trl: {{sapo_temperature_pos: 2.0}}", "sapo_temperature_pos: is not taken"),
        ("grpo", f"{RL}, trl: {{off_policy_mask_threshold: 0.1}}", "off_policy_mask_threshold: is"),
        ("grpo", f"{RL}, off_policy_mask_threshold: 0.1", "leave it out: an answer is used"),
        ("grpo", f"{RL}, trl: {{loss_type: bnpo}}", "loss_type: is not taken: training.grpo_varia"),
        (
            "grpo",
            f"{RL}, grpo_variant: dr_grpo, trl: {{scale_rewards: group}}",
            "trl.scale_rewards: grpo_variant: dr_grpo sets it",
        ),
        ("grpo", f"{RL}, trl: {{use_bias_correction_kl: true}}", "it needs grpo_beta above 0"),
        (
            "grpo",
            f"{RL}, trl: {{generation_kwargs: {{no_repeat_ngram: 3}}}}",
            "generation_kwargs.no_repeat_ngram: no such option; did you mean no_repeat_ngram_size?",
        ),
        (
            "rloo",
            f"{RL}, trl: {{generation_kwargs: {{temperature: 0.5}}}}",
            "generation_kwargs.temperature: that is training.trl.temperature here",
        ),
        ("grpo", f"{RL}, trl: {{generation_kwargs: {{do_sample: false}}}}", "of a group have to dif"),
        ("grpo", f"{RL}, trl: {{entropy_target: 0.3}}", "it needs trl.use_adaptive_entropy"),
        ("rloo", f"{RL}, trl: {{epsilon: 0.1}}", "epsilon: has no effect: it needs lora.dropout"),
        ("dpo", "lora: {peft: {kasa_config: {}}}", "kasa_config: changes the base, and task dpo"),
        (
            "grpo",
            f"{RL}, grpo_beta: 0.1, lora: {{peft: {{layer_replication: [[0, 2]]}}}}",
            "layer_replication: changes the base, and grpo_beta compares with its answers",
        ),
    ],
)  # fmt: skip
def test_what_a_task_would_not_read_is_refused(task: str, options: str, what: str) -> None:
    said = problems(f"{HEAD}task: {task}\ntraining: {{{options}}}\n")
    assert said.startswith("soup.yaml:4: ")
    assert what in said


@pytest.mark.parametrize("option", ["eval_steps: 1", "trl: {eval_on_start: true}"])
def test_what_is_about_validation_needs_one(option: str) -> None:
    text = f"base: m\ndata: {{train: x, val_split: 0.0}}\ntraining: {{{option}}}\n"
    assert "needs a validation loss: data.val_split above 0" in problems(text)
    assert load_config(text.replace("val_split: 0.0", "validation: y"))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("sft", "scheduler: constant, warmup_steps: 0"),
        ("sft", "scheduler: constant_with_warmup, warmup_steps: 3"),
        ("sft", "scheduler: polynomial, trl: {lr_scheduler_kwargs: {power: 2.0}}"),
        ("sft", f"packing: true, {SMOOTHED.replace('{', '{packing_strategy: bfd_split, ')}"),
        ("sft", "trl: {eval_packing: false, use_liger_kernel: false}"),
        ("sft", "optimizer: sgd, trl: {optim_args: 'momentum=0.9, nesterov=true'}"),
        ("sft", "trl: {train_sampling_strategy: group_by_length, adam_beta1: 0.8}"),
        ("classifier", f"num_labels: 3, {SMOOTHED}"),
        ("preference", "preference_loss: robust, trl: {label_smoothing: 0.1}"),
        ("preference", "preference_loss_weights: {sft: 1.0, aot: 1.0}, trl: {label_smoothing: 0.1}"),
        ("preference", "preference_loss: discopop, dpo_beta: 0.2, trl: {discopop_tau: 0.1}"),
        ("dpo", "trl: {f_divergence_type: alpha_divergence, f_alpha_divergence_coef: 0.5}"),
        ("cpo", "trl: {label_smoothing: 0.1, alpha: 0.1}"),
        ("simpo", "trl: {label_smoothing: 0.1, beta: 2.0}"),
        ("kto", "trl: {loss_type: apo_zero_unpaired, desirable_weight: 2.0}"),
        ("grpo", f"{RL}, trl: {{generation_kwargs: {{no_repeat_ngram_size: 3}}}}"),
        ("rloo", f"{RL}, lora: {{dropout: 0.1}}, trl: {{epsilon: 0.1}}"),
        ("grpo", f"{RL}, grpo_beta: 0.1, trl: {{use_bias_correction_kl: true}}"),
    ],
)  # fmt: skip
def test_what_is_read_is_taken(task: str, options: str) -> None:
    assert load_config(f"{HEAD}task: {task}\ntraining: {{{options}}}\n")


def test_the_tables_name_what_there_is() -> None:
    known = {k for t in TASKS.values() for k in upstream.options(t.config_sources)}
    tables = (unread._NEEDS, unread._DPO_LOSSES, unread._CPO_LOSSES)
    assert {name for table in tables for name in table} <= known
    generation = ("transformers", "generation/configuration_utils.py", "GenerationConfig")
    names_of_it = upstream.popped(*generation)
    assert {*passthrough._GENERATION_OURS, *passthrough._GENERATION_SET} <= set(names_of_it)
    names = upstream.enum_values("transformers", "trainer_utils.py", "SchedulerType")
    assert set(names) >= unread._NO_WARMUP | unread._NO_OPTIONS
    assert set(TASKS) >= unread._ONE_SEQUENCE


def test_the_table_of_optimizer_arguments_is_what_transformers_reads() -> None:
    """The keys of `optim_args` in the handlers of the optimizers that are offered."""
    path = upstream.source("transformers", "trainer_optimizer.py")
    read: set[str] = set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("_get_"):
            continue
        if any(part in node.name for part in ("galore", "apollo", "schedule_free")):
            continue
        text = ast.unparse(node)
        if "optim_args" in text:
            read |= {
                constant.value
                for constant in ast.walk(node)
                if isinstance(constant, ast.Constant)
                and isinstance(constant.value, str)
                and constant.value in {key for keys in optimizers._ARGS.values() for key in keys}
            }
    assert {key for keys in optimizers._ARGS.values() for key in keys} <= read
