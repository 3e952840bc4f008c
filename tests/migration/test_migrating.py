"""Configs of other trainers, as their users have them, and what becomes of each key."""

from __future__ import annotations

import json
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.migration import target
from soup_git.migration.converting import convert
from soup_git.migration.draft import Draft
from soup_git.migration.llamafactoryblocks import KEYS as V1_KEYS
from soup_git.migration.llamafactoryblocks import LLAMAFACTORY_BLOCKS
from soup_git.migration.reading import TOOLS
from soup_git.migration.rules import Rule
from soup_git.migration.target import has_key
from soup_git.migration.unsloth import SCRIPTED
from soup_git.training.config import load_config

AXOLOTL = """\
base_model: meta-llama/Llama-3.2-1B   # a comment
datasets:
  - path: data/rows.jsonl
    type: alpaca
val_set_size: 0.1
output_dir: ./outputs/lora-out
adapter: lora
sequence_len: 2048
sample_packing: true
lora_r: 16
lora_alpha: 32
lora_target_linear: true
gradient_accumulation_steps: 2
micro_batch_size: 4
num_epochs: 2
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
warmup_ratio: 0.1
weight_decay: 0.0
wandb_project: soup
special_tokens:
  pad_token: "<|end_of_text|>"
"""


def drafted(tool: str, text: str, name: str = "c.yaml", beside: Any = None) -> Draft:
    """What becomes of a config; its soup.yaml is valid, whatever it said."""
    _, draft = convert(name, text, tool, lambda _path: beside, check_upstream=True)
    load_config(target.text_of(draft, draft.lost, []))
    return draft


def said(draft: Draft) -> list[str]:
    """What changes training and is lost."""
    return [f"{x.place}: {x.key}: {x.why}" for x in draft.lost if x.changes_training]


def test_axolotl_carries_all_that_changes_training():
    draft = drafted("axolotl", AXOLOTL)
    assert draft.config() == {
        "base": "meta-llama/Llama-3.2-1B",
        "data": {"train": "data/rows.jsonl", "format": "alpaca", "val_split": 0.1,
                 "max_length": 2048},
        "training": {
            "epochs": 2, "lr": 2e-4, "scheduler": "cosine", "warmup_ratio": 0.1, "batch_size": 4,
            "gradient_accumulation_steps": 2, "weight_decay": 0.0, "optimizer": "adamw_torch",
            "packing": True, "gradient_checkpointing": True, "precision": "auto",
            "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"},
        },
        "output": "./outputs/lora-out",
    }  # fmt: skip
    assert said(draft) == []
    dropped = {item.key: item.place for item in draft.lost}
    assert dropped == {
        "flash_attention": "c.yaml:22",
        "wandb_project": "c.yaml:25",
        "special_tokens.pad_token": "c.yaml:27",
    }
    written_out = {entry.to for entry in draft.carried.values() if not entry.key}
    assert written_out == {"training.lora.dropout"}


def test_axolotl_carries_what_ends_a_training_early():
    lines = "early_stopping_patience: 3\nloss_watchdog_threshold: 5.0\nloss_watchdog_patience: 3\n"
    draft = drafted("axolotl", AXOLOTL + lines)
    training = draft.config()["training"]
    assert training["early_stop_patience"] == 3
    assert training["loss_watchdog"] is True
    assert (training["loss_watchdog_threshold"], training["loss_watchdog_patience"]) == (5.0, 3)
    assert said(draft) == []


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("fsdp: [full_shard, auto_wrap]", {"fsdp": "full_shard"}),
        ("fsdp: [full_shard, offload]", {"fsdp": "full_offload"}),
        ("fsdp_config: {reshard_after_forward: false}", {"fsdp": "shard_grad"}),
        (
            "fsdp: full_shard\nfsdp_config: {fsdp_transformer_layer_cls_to_wrap: Block}",
            {"fsdp": "full_shard", "fsdp_layers": ["Block"]},
        ),
    ],
)
@pytest.mark.parametrize("tool", ["axolotl", "llamafactory"])
def test_what_splits_a_model_is_carried_over(tool, lines, wanted):
    text = AXOLOTL if tool == "axolotl" else LLAMAFACTORY
    draft = drafted(tool, f"{text}{lines}\n")
    training = draft.config()["training"]
    assert training["launcher"] == "accelerate"
    assert {key: training[key] for key in wanted} == wanted


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="the deepspeed extra is not installed")
@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("deepspeed_configs/zero2.json", "zero2"),
        ("examples/deepspeed/ds_z3_offload_config.json", "zero3_offload"),
        ("zero3_bf16_cpuoffload_all.json", "zero3_offload"),
    ],
)
def test_deepspeed_is_known_by_the_name_of_its_file(file, stage):
    training = drafted("axolotl", f"{AXOLOTL}deepspeed: {file}\n").config()["training"]
    assert (training["launcher"], training["deepspeed"]) == ("accelerate", stage)


@pytest.mark.parametrize(
    ("method", "kind", "read"),
    [
        ("dpo", "chat_template.argilla_chat", True),
        ("dpo", "chatml.intel", False),
        ("orpo", "nonsense.type", False),
        ("kto", "chatml.prompt_pairs", False),
    ],
)
def test_axolotl_rows_of_answers_are_read_only_where_they_mean_the_same(method, kind, read):
    text = AXOLOTL.replace("type: alpaca", f"type: {kind}") + f"rl: {method}\n"
    found = [line for line in said(drafted("axolotl", text)) if "datasets.0.type" in line]
    assert (not found) is read, found
    assert read or "write its prompts and answers as turns" in found[0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("deepspeed: mine.json", "deepspeed: training.deepspeed is zero1, zero2 or zero3"),
        ("tensor_parallel_size: 2", "tensor_parallel_size: processes share the rows"),
        ("lora_model_dir: ./earlier", "lora_model_dir: training starts from a fresh adapter"),
        ("excess_length_strategy: drop", "excess_length_strategy: rows longer than"),
        ("bogus_key: 1", "bogus_key: is not a key that git-soup knows of axolotl"),
        ("chat_template: pixtral", "chat_template: the tokenizer's own chat template is used"),
        ("rl: gdpo", "rl: GDPO is not offered"),
        ("max_grad_norm: '-3'", "max_grad_norm: training.max_grad_norm: should be greater"),
        ("seed: x", "seed: 'x' is not a number"),
        ("plugins: [axolotl.integrations.liger.LigerPlugin, mine]", "plugins.1: plugins are"),
    ],
)
def test_axolotl_says_line_by_line_what_is_lost(line, complaint):
    found = said(drafted("axolotl", AXOLOTL + line + "\n"))
    assert [text for text in found if text.startswith(f"c.yaml:28: {complaint}")], found


@pytest.mark.parametrize(
    ("datasets", "complaints"),
    [
        ("- path: org/hub", ["path: org/hub is a dataset of a hub"]),
        ("- path: a.jsonl\n- path: b.jsonl", ["datasets.1: b.jsonl: data.train is one file"]),
        (
            "- path: /elsewhere/a.jsonl",
            ["path: data.train: /elsewhere/a.jsonl is not a path inside"],
        ),
        ("- - path: a.jsonl", ["is no dataset: a mapping", "the first dataset has no path"]),
        ("- path: a.csv", ["path: a.csv is .csv: write its rows to a .jsonl file"]),
        ("- path: json\n  data_files: [a.jsonl, b.jsonl]", ["data_files: b.jsonl: data.train is"]),
        ("- path: a.jsonl\n  roles_to_train: [user]", ["roles_to_train: the loss is on"]),
        ("- path: a.jsonl\n  type: {field_output: o}", ["type: rows of type"]),
        ("org/hub", ["datasets: org/hub is a dataset of a hub"]),
        ("[]", ["datasets: the config names no dataset"]),
    ],
)
def test_axolotl_datasets(datasets, complaints):
    text = AXOLOTL.replace("  - path: data/rows.jsonl\n    type: alpaca\n", "")
    text = text.replace("datasets:", "datasets:\n" + textwrap.indent(datasets, "  "))
    found = said(drafted("axolotl", text))
    for complaint in complaints:
        assert [one for one in found if complaint in one], found


def test_a_task_that_needs_code_is_kept_with_a_place_for_it():
    more = "rl: grpo\ntrl: {num_generations: 4, beta: 0.01, reward_funcs: [mine.right]}\n"
    draft = drafted(
        "axolotl", AXOLOTL.replace("sample_packing: true", "sample_packing: false") + more
    )
    config = draft.config()
    assert (config["task"], config["training"]["reward_fn"]) == ("grpo", "rewards.py")
    assert (config["training"]["num_generations"], config["training"]["grpo_beta"]) == (4, 0.01)
    assert [text.split(": ")[1] for text in said(draft)] == [
        "trl.reward_funcs", "training.reward_fn",
    ]  # fmt: skip


LLAMAFACTORY = """\
model_name_or_path: Qwen/Qwen3-0.6B
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: q_proj,v_proj
pissa_init: true
dataset: mine
template: qwen3
cutoff_len: 1024
max_samples: 100
per_device_train_batch_size: 2
learning_rate: 1.0e-4
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
adam_beta2: 0.99
report_to: none
plot_loss: true
"""
INFO = {
    "mine": {"file_name": "rows.json"},
    "turns": {"file_name": "t.json", "formatting": "sharegpt"},
}


def test_llamafactory_finds_the_file_of_its_dataset():
    draft = drafted("llamafactory", LLAMAFACTORY, beside=INFO)
    config = draft.config()
    assert config["data"] == {
        "train": "data/rows.json", "format": "alpaca", "val_split": 0.0, "max_length": 1024,
        "chat_template": "qwen3", "max_rows": 100,
    }  # fmt: skip
    assert config["training"]["lora"] == {
        "r": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"],
        "init_strategy": "pissa_niter_16",
    }  # fmt: skip
    assert config["training"]["trl"] == {"adam_beta2": 0.99}
    assert config["training"]["warmup_ratio"] == 0.1
    assert "warmup_steps" not in config["training"]
    assert said(draft) == []


def test_llamafactory_without_its_list_of_datasets():
    found = said(drafted("llamafactory", LLAMAFACTORY + "eval_dataset: other\n"))
    assert "c.yaml:8: dataset: mine is a name in data/dataset_info.json, which is not" in found[0]
    assert "c.yaml:20: eval_dataset: other: data.validation names a file of rows" in found[1]


def test_llamafactory_as_json_with_tabs():
    text = '{\n\t"model_name_or_path": "a/b",\n\t"stage": "sft",\n\t"finetuning_type": "full"\n}'
    found = said(drafted("llamafactory", text, name="c.json"))
    assert "c.json:4: finetuning_type: full is not offered; git-soup trains a LoRA" in found


V1 = """\
model: Qwen/Qwen3-4B
model_class: llm
peft_config: {name: lora, r: 16, lora_alpha: 32, target_modules: all}
kernel_config: {name: auto, include_kernels: auto}
quant_config: {name: bnb, quantization_bit: 4}
dist_config: {name: fsdp2, dcp_path: null}
train_dataset: data/demo.yaml
output_dir: ./outputs/x
micro_batch_size: 2
global_batch_size: 8
max_steps: 10
sample_backend: hf
max_new_tokens: 128
"""
V1_ROWS = {
    "identity": {"path": "data/identity.json", "source": "local", "converter": "alpaca"},
    "more": {"path": "org/more"},
}


def test_llamafactorys_second_schema_has_its_own_names_and_defaults():
    """The defaults as the argument classes and the trainer of llamafactory 0.9.5 have them."""
    draft = drafted("llamafactory", V1, beside=V1_ROWS)
    assert draft.config() == {
        "base": "Qwen/Qwen3-4B",
        "data": {"train": "data/identity.json", "format": "alpaca", "val_split": 0.0,
                 "max_length": 2048},
        "training": {
            "max_steps": 10, "lr": 1e-4, "scheduler": "constant", "warmup_steps": 0,
            "batch_size": 2, "gradient_accumulation_steps": 4, "optimizer": "adamw_torch",
            "weight_decay": 0.01, "max_grad_norm": 1.0, "precision": "bf16", "seed": 42,
            "gradient_checkpointing": True, "quantization": "4bit",
            "lora": {"r": 16, "alpha": 32, "dropout": 0.05, "target_modules": "all-linear"},
        },
        "output": "./outputs/x",
    }  # fmt: skip
    assert said(draft) == [
        (
            "c.yaml:7: train_dataset: more: data.train is one file or one folder: put these rows into "
            "a file of the same folder"
        )
    ]
    assert all(item.key in V1 for item in draft.lost)


@pytest.mark.parametrize(
    ("lines", "task", "key", "value"),
    [
        ("pref_beta: 0.2", "dpo", "dpo_beta", 0.2),
        ("pref_loss: orpo\npref_beta: 0.3", "orpo", "orpo_beta", 0.3),
        ("pref_loss: simpo\nsimpo_gamma: 1.5", "simpo", "simpo_gamma", 1.5),
        ("lr_scheduler_config: {name: cosine}", "sft", "scheduler", "cosine"),
        ("bf16: false", "sft", "precision", "fp32"),
    ],
)
def test_what_a_second_schemas_key_becomes(lines, task, key, value):
    config = drafted("llamafactory", f"{V1}{lines}\n", beside=V1_ROWS).config()
    assert (config.get("task", "sft"), config["training"][key]) == (task, value)


def test_pairs_are_learnt_from_and_a_class_model_scores_them():
    pairs = {"p": {"path": "data/pairs.jsonl", "source": "local", "converter": "pair"}}
    assert drafted("llamafactory", V1, beside=pairs).config()["task"] == "dpo"
    scored = drafted("llamafactory", V1.replace("llm", "cls"), beside=pairs)
    assert scored.config()["task"] == "reward_model"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("peft_config: {name: freeze}", "peft_config: freeze is not offered"),
        ("", "without one all of the base is trained"),
        ("optim_config: {name: muon}", "training.optimizer takes transformers' names"),
        ("global_batch_size: 3\nmicro_batch_size: 2", "is not a multiple of micro_batch_size"),
        ("batching_strategy: dynamic_batching", "a batch is a number of rows"),
        ("mtp_config: {name: mtp, num_layers: 1}", "no heads for further tokens"),
        ("lr_scheduler_config: {name: odd}", "training.scheduler takes transformers' names"),
        ("train_dataset: other.yaml", "lists the datasets, and is not beside the config"),
        ("train_dataset: org/rows", "is a dataset of a hub"),
        ("quant_config: {name: gptq}", "is quantised by bitsandbytes"),
        ("new_key: 1", "is not a key that git-soup knows of LLaMA-Factory (v1)"),
    ],
)
def test_what_the_second_schema_loses(lines, complaint):
    draft = drafted("llamafactory", f"model: m\nmodel_class: llm\n{lines}\n")
    assert any(complaint in text for text in said(draft))


@pytest.mark.parametrize("value", [True, -1, 1e400, "x", ["a", 1], {"name": {"b": None}}], ids=repr)
def test_odd_values_of_the_second_schema_end_in_the_list_or_in_a_valid_config(value):
    keys = {key.partition(".")[0]: value for key in V1_KEYS if not key.endswith("*")}
    drafted("llamafactory", json.dumps(keys), name="c.json", beside={"a": value, "b": 1})
    blocks: dict[str, Any] = {"model": "m", "peft_config": {}}
    blocks["peft_config"] = {
        k.partition(".")[2]: value for k in V1_KEYS if k.startswith("peft_config.")
    }
    drafted("llamafactory", json.dumps(blocks), name="c.json")


SCRIPT = """\
from unsloth import FastLanguageModel
import torch
open("ran", "w").write("this was run")
longest = 1024
rank = 8
rank = 32
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name = "unsloth/Qwen3-4B",
    max_seq_length = longest,
    load_in_4bit = False,
    token = "hf_secret",
)
model = FastLanguageModel.get_peft_model(model, r = rank, lora_alpha = 16,
    target_modules = ["q_proj", "v_proj"], use_gradient_checkpointing = "unsloth")
dataset = load_dataset("json", data_files = "data/rows.jsonl", split = "train")
trainer = SFTTrainer(model = model, train_dataset = dataset, args = SFTConfig(
    per_device_train_batch_size = 2,
    learning_rate = 2e-4,
    fp16 = not is_bfloat16_supported(),
    bf16 = is_bfloat16_supported(),
    optim = "adamw_torch",
    max_steps = int(60),
    gradient_accumulation_steps = longest // 256,
    report_to = "none",
))
trainer = train_on_responses_only(trainer, instruction_part = "a", response_part = "b")
model, tokenizer = FastLanguageModel.from_pretrained("lora_model")
"""


def test_unsloth_reads_literals_of_a_script_and_runs_nothing(in_tmp_path):
    draft = drafted("unsloth", SCRIPT, name="train.py")
    config = draft.config()
    assert config["base"] == "unsloth/Qwen3-4B"
    assert config["data"]["train"] == "data/rows.jsonl"
    assert config["data"]["max_length"] == 1024
    assert config["training"]["precision"] == "auto"
    assert config["training"]["assistant_only_loss"] is True
    assert "quantization" not in config["training"]
    assert config["training"]["gradient_accumulation_steps"] == 4
    assert said(draft) == [
        "train.py:13: get_peft_model.r: is computed by the script, which is not run: rank",
        "train.py:22: args.max_steps: is computed by the script, which is not run: int(60)",
    ]
    assert not Path("ran").exists()
    assert "hf_secret" not in target.text_of(draft, draft.lost, []) + str(draft.lost)


def test_unsloth_names_the_cell_of_a_notebook():
    lines = SCRIPT.splitlines(keepends=True)
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["%%capture\n", "!pip install unsloth\n"]},
        {"cell_type": "code", "source": lines[:14]},
        {"cell_type": "code", "source": "".join(lines[14:])},
    ]
    draft = drafted("unsloth", json.dumps({"cells": cells}), name="n.ipynb")
    assert [text.partition(": ")[0] for text in said(draft)] == [
        "n.ipynb:cell 2:13",
        "n.ipynb:cell 3:8",
    ]


def notebook(*cells: str) -> str:
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]})


LOADS = """model, tokenizer = FastLanguageModel.from_pretrained("unsloth/Qwen3-4B", max_seq_length=1024)
model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=16)
"""
TRAINS = """trainer = SFTTrainer(
    model=model,
    args=SFTConfig(learning_rate=2e-4,
      max_steps=60 # steps?
      , seed=7,
    ),
)
"""


@pytest.mark.parametrize(
    "line",
    [
        "!pip install \\\n    unsloth 'trl>=0.9' \\\n    --upgrade (",
        "%pip install unsloth \\\n  [all",
        "!!nvidia-smi | grep -c 'GPU",
        "FastLanguageModel?",
        "??FastLanguageModel.get_peft_model",
        "FastLanguageModel.get_peft_model?? # what is it?",
        "*Language*?",
        "%timeit?",
        "%env HF_HUB_ENABLE_HF_TRANSFER=1",
        "files = !ls *.jsonl | head -1",
        "a, b = %sql select * from [x",
        "if True:\n    !pip install x\nelse:\n    %cd ..",
        "for name in ['a']:\n    !wget $name \\\n      -O {name",
        'prompt = """\n!not a shell line\n%nor a magic\nwhat is this?\n"""',
        "width = (7\n  % 5)",
        "text = 'one \\\n!two'",
        "pattern = '\\d'",
        "# how?",
        "pip install unsloth",
        "cd ..",
        "ok = 'is it?'",
        "\n\n%%bash\nfor x in *; do echo $x; done",
        "%%writefile train.py\nFastLanguageModel.from_pretrained('other/model')",
        "%%capture out\n!pip install unsloth",
    ],
)
def test_a_notebook_is_read_around_what_is_ipythons(line):
    before = drafted("unsloth", notebook(LOADS, TRAINS), name="n.ipynb")
    for text in (notebook(line, LOADS, TRAINS), notebook(LOADS, line, TRAINS),
                 notebook(LOADS, line, f"%%time\n{TRAINS}")):  # fmt: skip
        draft = drafted("unsloth", text, name="n.ipynb")
        assert draft.config() == before.config()
        assert len(said(draft)) == len(said(before))
    if not line.lstrip().startswith("%%"):
        both = drafted("unsloth", notebook(f"{LOADS}{line}\n{TRAINS}"), name="n.ipynb")
        assert both.config() == before.config()


def test_a_magic_that_runs_a_statement_is_read_and_what_a_shell_answers_is_computed():
    cells = [f"%time {LOADS}", "rank = !cat rank.txt", TRAINS.replace("=7", "=rank")]
    draft = drafted("unsloth", notebook(*cells), name="n.ipynb")
    assert draft.config()["base"] == "unsloth/Qwen3-4B"
    assert draft.config()["training"]["max_steps"] == 60
    assert any("cell 3:5: args.seed: is computed by the script" in text for text in said(draft))


def test_a_script_with_a_notebooks_shell_lines_is_read():
    script = f"!pip install \\\n   unsloth\n{LOADS}{TRAINS}"
    draft = drafted("unsloth", script, name="n.py")
    assert draft.config()["training"]["seed"] == 7
    assert all("n.py:" in text for text in said(draft))


NEWER = "type Point[T] = tuple[T, T]\nx: = 1"


def test_a_cell_that_this_python_cannot_read_is_named_and_the_others_are_read():
    draft = drafted("unsloth", notebook(LOADS, NEWER, TRAINS), name="n.ipynb")
    assert draft.config()["training"]["max_steps"] == 60
    (line,) = [text for text in said(draft) if "cell 2:" in text]
    assert "what this cell sets is not carried over" in line
    assert "not Python 3." in line
    with pytest.raises(FatalError, match=r"n\.ipynb: cell 1: line \d: not Python 3\.") as failure:
        drafted("unsloth", notebook(NEWER, TRAINS), name="n.ipynb")
    assert failure.value.hint


def test_unsloth_as_a_command_lines_yaml():
    text = """\
model: unsloth/Qwen3-0.6B
data:
  local_dataset: [data/a.jsonl, data/b.jsonl]
training: {max_seq_length: 512, load_in_4bit: false, max_steps: 0, learning_rate: 1e-4}
lora: {lora_r: 16, target_modules: "q_proj,v_proj", use_dora: true}
logging: {wandb_token: hidden}
"""
    draft = drafted("unsloth", text)
    assert draft.config()["training"]["lora"]["use_dora"] is True
    assert draft.config()["training"]["lora"]["target_modules"] == ["q_proj", "v_proj"]
    assert "max_steps" not in draft.config()["training"]
    assert "hidden" not in str(said(draft))
    assert any("data/b.jsonl: data.train is one file" in text for text in said(draft))


def test_the_original_keeps_its_shape_and_gets_its_own_defaults():
    text = """\
base: org/model
task: sft
backend: unsloth
data: {train: ./data/train.jsonl, format: chatml, train_on_responses_only: false}
training:
  batch_size: 2
  lora: {r: 32, use_olora: true}
  quantization: none
  quantization_aware: fp8
  use_liger: true
  forgetting_detection: false
"""
    draft = drafted("soup", text)
    config = draft.config()
    assert config["training"]["lr"] == 2e-5  # its default, not ours
    assert config["training"]["batch_size"] == 2
    assert config["training"]["lora"] == {
        "r": 32, "init_strategy": "olora", "alpha": 16, "dropout": 0.05, "target_modules": "auto",
    }  # fmt: skip
    assert config["training"]["assistant_only_loss"] is False
    assert said(draft) == [
        "c.yaml:9: training.quantization_aware: this version of git-soup has no such option"
    ]
    assert [item.key for item in draft.lost if not item.changes_training] == [
        "backend", "training.use_liger",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "training", "size"),
    [
        ("sft", "{batch_size: auto, auto_batch_size_strategy: probe}", "auto"),
        ("sft", "{batch_size: 4}", 4),
        ("sft", "{lr: 1e-5}", "auto"),
        ("grpo", "{reward_fn: accuracy}", None),
    ],
)
def test_the_originals_batch_size_is_found_here_too(task, training, size):
    text = f"base: m\ntask: {task}\ndata: {{train: data/x.jsonl}}\ntraining: {training}\n"
    draft = drafted("soup", text)
    assert draft.config()["training"].get("batch_size") == size
    assert not any("batch_size" in text for text in said(draft))


@pytest.mark.parametrize(
    ("tool", "size"), [("axolotl", "micro_batch_size"), ("llamafactory", "per_device_train_batch_size")]
)  # fmt: skip
def test_a_batch_size_that_is_halved_until_it_fits_is_not_auto(tool, size):
    marks = {"axolotl": "base_model", "llamafactory": "model_name_or_path"}
    draft = drafted(tool, f"{marks[tool]}: m\n{size}: 16\nauto_find_batch_size: true\n")
    assert draft.config()["training"]["batch_size"] == 16
    (why,) = [text for text in said(draft) if "auto_find_batch_size" in text]
    assert "halved where memory ends; training.batch_size: auto" in why


# -- whatever a file says -----------------------------------------------------------------------

ODD = (True, -1, 1e400, "x\x1b[31m", ["a", 1], {"a": {"b": None}}, [[{"path": []}]])


@pytest.mark.parametrize("tool", list(TOOLS))
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_end_in_the_list_or_in_a_valid_config(tool, value):
    marks = {key: value for key in TOOLS[tool].keys if "." not in key and not key.endswith("*")}
    drafted(tool, json.dumps(marks | dict.fromkeys(TOOLS[tool].marks, value)), name="c.json")


@pytest.mark.parametrize(
    ("name", "text", "tool", "complaint"),
    [
        ("c.yaml", "a: [1", "axolotl", "c.yaml:1: not valid YAML"),
        ("c.yaml", "- 1\n", "axolotl", "is no config of axolotl"),
        ("c.yaml", "a: &a [x]\nb: *a\n", "axolotl", "c.yaml:1: anchors and aliases"),
        ("c.yaml", "[" * 100, "axolotl", "nested deeper than 32"),
        ("c.yaml", "base_model: a\nbase_model: b\n", "axolotl", "given twice, first on line 1"),
        ("c.yaml", "hello: world\n", "axolotl", "has none of the keys of axolotl"),
        ("c.yaml", LLAMAFACTORY, "axolotl", "looks like a config of LLaMA-Factory"),
        ("c.yaml", AXOLOTL, "llamafactory", "looks like a config of axolotl"),
        ("c.py", SCRIPT, "axolotl", "is Python, and axolotl is configured in YAML"),
        ("c.py", "x = (", "unsloth", "c.py: line 1: not Python"),
        ("c.py", "x = " + "(" * 5000, "unsloth", "not Python"),
        ("c.py", "x = " + "-" * 50_000 + "1", "unsloth", "not Python"),
        ("c.py", "print(1)", "unsloth", "calls no FastLanguageModel.from_pretrained"),
        ("n.ipynb", "[" * 100_000, "unsloth", "not a notebook"),
        ("n.ipynb", "{}", "unsloth", "it has no cells"),
    ],
)
def test_what_cannot_be_read(name, text, tool, complaint):
    with pytest.raises(FatalError, match=r".") as failure:
        drafted(tool, text, name=name)
    assert complaint in str(failure.value)
    assert failure.value.hint


def test_every_rule_leads_somewhere_or_says_why():
    rules: list[tuple[str, Rule]] = [
        (key, rule)
        for tool in (*TOOLS.values(), SCRIPTED, LLAMAFACTORY_BLOCKS)
        for key, rule in tool.keys.items()
    ]
    assert len(rules) > 600
    for key, rule in rules:
        assert rule.together or rule.why or has_key(rule.to), key


# -- the command --------------------------------------------------------------------------------


def test_the_command_writes_reports_and_replaces_nothing(in_tmp_path, git, soup):
    git("init", "-q", ".")
    Path("a.yml").write_text(AXOLOTL + "bogus\x1b[31m: 1\n".replace("\x1b", "\\x1b"))
    Path("sub").mkdir()
    done = soup("migrate", "--from", "axolotl", "../a.yml", check=False, cwd=in_tmp_path / "sub")
    assert done.returncode == 1
    assert "../a.yml:28:" in done.stdout
    assert "is not a key that git-soup knows of axolotl" in done.stdout
    text = Path("soup.yaml").read_text()
    assert text.splitlines()[0].startswith("# From ../a.yml, a config of axolotl")
    assert "#   ../a.yml:28: bogus" in text
    assert load_config(Path("soup.yaml")).training.lora.alpha == 32
    again = soup("migrate", "--from", "axolotl", "a.yml", check=False)
    assert again.returncode == 128
    assert again.stderr.startswith("fatal: soup.yaml is there already\nhint: git soup migrate")
    Path("a.yml").write_text(AXOLOTL)
    done = soup("migrate", "--from", "axolotl", "a.yml", "-o", "new.yaml", "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "soup.migrate/1"
    assert report["complete"] is True
    assert report["config"] == Path("new.yaml").read_text()
    assert {"to", "value", "key", "place"} <= set(report["carried"][0])


def test_the_command_refuses_what_is_no_config(in_tmp_path, git, soup):
    git("init", "-q", ".")
    Path("big.yaml").write_bytes(b"a: b\n" * 300_000)
    Path("bin.yaml").write_bytes(b"a: \xff\xfe\n")
    Path("dir").mkdir()
    for name, complaint in (
        ("big.yaml", "larger than 1 MiB"),
        ("bin.yaml", "bin.yaml:1: not UTF-8"),
        ("dir", "is no file"),
        ("/dev/zero", "is no file"),
        ("none.yaml", "does not exist"),
    ):
        done = soup("migrate", "--from", "axolotl", name, check=False)
        assert (done.returncode, complaint in done.stderr) == (128, True), done.stderr
    assert soup("migrate", "--from", "nemo", "big.yaml", check=False).returncode == 129
    assert not Path("soup.yaml").exists()
