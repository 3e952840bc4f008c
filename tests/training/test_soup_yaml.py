from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from pathlib import Path

import pytest

from soup_git.errors import FatalError
from soup_git.training import upstream
from soup_git.training.config import SoupConfig, json_schema, load_config
from soup_git.training.lora.kinds import KINDS
from soup_git.training.passthrough import (
    PEFT_IS_OURS,
    PEFT_REFUSED,
    TRL_IS_OURS,
    TRL_REFUSED,
)
from soup_git.training.schema import TrainingBlock
from soup_git.training.tasks import TASKS

GOOD = "base: m\ndata: {train: data/x.jsonl}\n"


def refusal(text: str, *overrides: str) -> list[str]:
    with pytest.raises(FatalError) as caught:
        load_config(text, overrides)
    assert caught.value.hint
    return str(caught.value).splitlines()


def training(text: str) -> list[str]:
    return refusal(f"{GOOD}training: {{{text}}}\n")


def test_the_originals_example_loads() -> None:
    config = load_config(
        "base: meta-llama/Llama-3.1-8B-Instruct\ntask: sft\n\n"
        "data:\n  train: ./data/train.jsonl\n  format: alpaca\n  val_split: 0.1\n\n"
        "training:\n  epochs: 3\n  lr: 2e-5\n  batch_size: 4\n"
        "  lora:\n    r: 64\n    alpha: 16\n\noutput: ./output\n"
    )
    assert config.training.lr == 2e-5
    assert (config.training.lora.r, config.training.lora.alpha) == (64, 16)


def test_every_error_at_once_each_with_line_key_and_nearest() -> None:
    lines = refusal(
        """\
base: m
task: stf
epochs: 3
data:
  train: ../x.jsonl
  formt: alpaca
training:
  lr: 2e-5
  batch_size: "4"
  learning_rate: 1
  warmup_ratio: .1
  warmup_steps: 2
  scheduler: cosin
  lora:
    r: true
    use_dora: true
    init_strategy: pissa
    rank_pattern: {v_proj: 5000}
    peft: {lora_bais: true, r: 3}
  trl: {adam_beta1: x, hub_token: a, loss_type: foo, adam_beta3: 1}
"""
    )
    assert lines[0] == "soup.yaml: 18 errors"
    starts = [
        "soup.yaml:2: task: should be 'sft'",
        "soup.yaml:3: epochs: unknown key; did you mean training.epochs?",
        "soup.yaml:5: data.train: ../x.jsonl is not a path inside the workspace",
        "soup.yaml:6: data.formt: unknown key; did you mean format?",
        "soup.yaml:9: training.batch_size: should be a valid integer or auto",
        "soup.yaml:10: training.learning_rate: unknown key; that is training.lr here",
        "soup.yaml:11: training.warmup_ratio: excludes warmup_steps",
        "soup.yaml:13: training.scheduler: cosin is not one of linear, cosine",
        "soup.yaml:15: training.lora.r: should be a valid integer",
        "soup.yaml:16: training.lora.use_dora: excludes init_strategy: pissa",
        "soup.yaml:18: training.lora.rank_pattern.v_proj: should be less than or equal to 1024",
        "soup.yaml:19: training.lora.peft: excludes init_strategy: pissa",
        "soup.yaml:19: training.lora.peft.lora_bais: no such option; did you mean lora_bias?",
        "soup.yaml:19: training.lora.peft.r: that is training.lora.r here",
        "soup.yaml:20: training.trl.adam_beta1: should be float",
        "soup.yaml:20: training.trl.hub_token: is not taken: nothing is uploaded",
        "soup.yaml:20: training.trl.loss_type: is not one of nll, dft",
        "soup.yaml:20: training.trl.adam_beta3: no such option; did you mean adam_beta",
    ]
    assert len(lines) == len(starts) + 1
    for line, start in zip(lines[1:], starts, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "soup.yaml:1: should be a mapping"),
        ("- 1", "soup.yaml:1: should be a mapping"),
        ("base: m\nbase: n\ndata: {train: x}", "soup.yaml:2: base: given twice, first on line 1"),
        ("base: &a m\ndata: *a", "soup.yaml:1: anchors and aliases"),
        ("base: [", "soup.yaml:1: not valid YAML"),
        ("base: m\n\tx: 1", "soup.yaml:2: not valid YAML"),
        ("base: !!python/object:os.system x", "base: cannot be read"),
        ("base: m\ndata: {? {a: 1} : 2}", "soup.yaml:2: data: a key must be a word"),
        ("base: m", "soup.yaml:1: data: is missing"),
        ("base: m\ndata: 3", "soup.yaml:2: data: should be a block of options"),
        ("base: m\ndata: {train: x}\n---\nbase: m", "soup.yaml:3: not valid YAML"),
        ("base: \x00", "soup.yaml:1: not valid YAML"),
        ("[" * 3000, "nested deeper"),
        ("# " + "x" * (1 << 20), "at most 1 MiB"),
    ],
)
def test_what_is_no_config_is_refused_with_its_line(text: str, what: str) -> None:
    assert what in "\n".join(refusal(text))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("epochs: 0", "epochs: should be greater than 0"),
        ("lr: .nan", "lr: should be a finite number"),
        ("seed: true", "seed: should be a valid integer"),
        ("batch_size: most", "batch_size: should be a valid integer or auto"),
        ("batch_size: 0", "batch_size: should be greater than or equal to 1 or auto"),
        ("trl: {auto_find_batch_size: true}", "training.batch_size: auto finds one first"),
        ("reproducible: portable, threads: 4", "threads: reproducible: portable means one thread"),
        ("precision: fp16, device: cpu", "precision: fp16 does not train on a CPU"),
        ("optimizer: adam", "optimizer: adam is not one of adamw_torch"),
        ("lora: {init_strategy: pisa}", "did you mean pissa?"),
        ("lora: {layers_to_transform: [1]}", "needs target_modules as a list"),
        ("lora: {alpha_pattern: {q_proj: true}}", "alpha_pattern.q_proj: should be a valid int"),
        ("trl: {output_dir: x}", "trl.output_dir: that is output here"),
        ("trl: {report_to: wandb}", "trl.report_to: is not taken: trackers are off"),
        ("trl: {fsdp_config: {}}", "that is training.fsdp"),
        ("trl: {adam_beta1: true}", "trl.adam_beta1: should be float"),
        ("trl: {model_init_kwargs: {dtype: x}}", "model_init_kwargs.dtype: is git-soup's"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options: str, what: str) -> None:
    assert what in "\n".join(training(options))


@pytest.mark.parametrize("task", [n for n, t in TASKS.items() if t.head != "words"])
def test_a_gate_of_words_is_refused_where_the_head_has_other_answers(task: str) -> None:
    head = TASKS[task].head
    lines = refusal(f"{GOOD}task: {task}\ntraining:\n  eval_gate: {{suite: eval/suite.yaml}}\n")
    why = f"soup.yaml:5: training.eval_gate: a suite asks for words, task {task} answers"
    assert [line for line in lines if line.startswith(f"{why} with {head}: leave it out;")]


def test_a_pattern_may_have_256_keys() -> None:
    def patterns(count: int) -> str:
        return "lora: {rank_pattern: {" + ", ".join(f"m{i}: 2" for i in range(count)) + "}}"

    assert load_config(f"{GOOD}training: {{{patterns(256)}}}").training.lora.rank_pattern
    assert "rank_pattern: " in training(patterns(257))[0]


def test_upstream_options_pass_through() -> None:
    config = load_config(
        f"{GOOD}training:\n  packing: true\n"
        "  trl: {adam_beta1: 0.8, packing_strategy: bfd_split}\n"
        "  lora: {peft: {lora_bias: true}}\n"
    )
    assert config.training.trl["adam_beta1"] == 0.8
    assert config.training.lora.peft == {"lora_bias": True}


def test_overrides_are_dvcs_and_are_named_in_errors() -> None:
    config = load_config(GOOD, ["training.lr=1e-5", "training.lora.target_modules=[q, v]"])
    assert config.training.lr == 1e-5
    assert config.training.lora.target_modules == ["q", "v"]
    assert refusal(GOOD, "training.lr=fast") == ["-S: training.lr: should be a valid number"]
    assert "key=value" in refusal(GOOD, "training.lr")[0]
    assert "not a block" in "\n".join(refusal(GOOD, "base.x=1"))


def test_a_file_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("base: m\ndata:\n  train: x\n  val: 1\n")
    with pytest.raises(FatalError, match=r"other\.yaml:4: data\.val: unknown key"):
        load_config(path)
    with pytest.raises(FatalError, match="does not exist"):
        load_config(tmp_path / "missing.yaml")
    path.write_bytes(b"base: m\n\xff")
    with pytest.raises(FatalError, match=r"other\.yaml:2: not UTF-8"):
        load_config(path)


def peft_options() -> dict[str, upstream.Option]:
    return {k: v for kind in KINDS.values() for k, v in upstream.options(kind.sources).items()}


def test_every_option_that_the_tables_name_exists_upstream() -> None:
    """A table that names what upstream dropped would refuse nothing, or the wrong thing."""
    for known, tables in (
        (
            {k: v for t in TASKS.values() for k, v in upstream.options(t.config_sources).items()},
            (TRL_IS_OURS, TRL_REFUSED),
        ),
        (peft_options(), (PEFT_IS_OURS, PEFT_REFUSED)),
    ):
        for name in (name for table in tables for name in table):
            if name.endswith("*"):
                assert any(option.startswith(name[:-1]) for option in known), name
            else:
                assert name in known


@pytest.mark.parametrize("name", TASKS)
def test_every_option_that_a_task_names_exists_upstream(name: str) -> None:
    task = TASKS[name]
    known = upstream.options(task.config_sources)
    assert set(filter(None, task.options.values())) <= set(known)
    assert set(task.sets) <= set(known)
    assert all(fnmatch.filter(known, pattern) for pattern in task.refuses)
    assert set(task.options) | set(task.needs) <= set(TrainingBlock.model_fields)


def test_names_read_from_the_sources_are_those_of_the_classes() -> None:
    import dataclasses

    import peft
    from trl import SFTConfig

    sft = {f.name for f in dataclasses.fields(SFTConfig) if f.init}
    assert set(upstream.options(TASKS["sft"].config_sources)) >= sft
    for kind in KINDS.values():
        names = {f.name for f in dataclasses.fields(getattr(peft, kind.config)) if f.init}
        assert set(upstream.options(kind.sources)) >= names


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    json.dumps(schema, allow_nan=False)
    blocks = [schema, *schema["$defs"].values()]
    for block in blocks:
        assert block["additionalProperties"] is False
        for name, described in block["properties"].items():
            assert described.get("description") or "$ref" in described, name
    assert set(schema["properties"]) == set(SoupConfig.model_fields)


def test_checking_a_config_loads_nothing_heavy() -> None:
    code = (
        "import sys; from soup_git.training.config import load_config;"
        f"load_config({GOOD!r});"
        "print([m for m in ('torch', 'numpy', 'transformers', 'peft', 'trl') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("output", "what"),
    [(".git/x", "a folder of git's own"), ("./base", "is the base"), (".dvc", "dvc's own")],
)
def test_an_adapter_is_not_written_into_what_is_somebody_elses(
    workspace: Path, output: str, what: str
) -> None:
    with pytest.raises(FatalError, match=f"output: .*{what}"):
        load_config(workspace / "soup.yaml", [f"output={output}"], check_upstream=False)
