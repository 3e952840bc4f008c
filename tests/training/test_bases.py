"""What a base has to be: complete, what its config.json says, and able to answer as the task asks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training import architecture, material, prepared, upstream
from soup_git.training.config import load_config
from tests.training import tiny_model as tiny
from tests.training.methods import prepare, run

Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
LABELLED = [{"text": f"{n} words", "label": ("ham", "spam")[n % 2]} for n in range(8)]
TWO_LABELS = "training.label_names=[ham, spam]"


@pytest.fixture
def base(workspace: Path, base_folder: Path) -> Path:
    """A base of the test's own, to be broken."""
    (workspace / "base").unlink()
    shutil.copytree(base_folder, workspace / "base")
    return workspace / "base"


def tensors(base: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(base / "model.safetensors")
    change(held)
    save_file(held, base / "model.safetensors", metadata={"format": "pt"})


def described(base: Path, **changed: Any) -> None:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def remade(base: Path, model_class: str, **options: Any) -> None:
    """Another architecture in the place of the base, with the same tokenizer."""
    import torch
    import transformers

    cls = getattr(transformers, model_class)
    sizes = {"vocab_size": 400, "pad_token_id": 3, "bos_token_id": None, "eos_token_id": 2}
    torch.manual_seed(3)
    cls(cls.config_class(**sizes, **options)).save_pretrained(base)


SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}


def refused(workspace: Path, *overrides: str) -> str:
    with pytest.raises(FatalError) as caught:
        run(workspace, *overrides)
    return f"{caught.value} | {caught.value.hint}"


def test_a_base_that_lacks_a_tensor_is_not_filled_up_with_random_numbers(
    workspace: Path, base: Path
) -> None:
    tensors(base, lambda held: held.pop(Q_PROJ))
    said = refused(workspace)
    assert f"base is incomplete: no {Q_PROJ} in its files, so it would be random" in said
    assert "hub" not in said
    tensors(base, lambda held: held.pop("model.norm.weight"))
    prepare(workspace, "classifier", LABELLED)
    assert f"no {Q_PROJ} (nor 1 others)" in refused(workspace, TWO_LABELS)


def test_a_tensor_of_another_shape_is_named_with_both(workspace: Path, base: Path) -> None:
    import torch

    tensors(base, lambda held: held.update({Q_PROJ: torch.zeros(60, 64)}))
    assert f"{Q_PROJ} is 60x64 in its files, and 64x64 by config.json" in refused(workspace)


def test_a_head_of_another_size_is_not_thrown_away(workspace: Path, base: Path) -> None:
    sizes = {**SMALL, "num_key_value_heads": 2, "num_labels": 3}
    remade(base, "LlamaForSequenceClassification", **sizes)
    prepare(workspace, "classifier", LABELLED)
    said = refused(workspace, TWO_LABELS)
    assert "a head of its own: score.weight is 3x32, this task's is 2x32 | training.num_la" in said
    names = "training.label_names=[ham, spam, neither]"
    assert run(workspace, names, "training.max_steps=1").rows == 8


def test_what_is_new_beside_the_head_trains_and_is_saved_or_is_refused(
    workspace: Path, base: Path
) -> None:
    """A random layer below the head would be another for everyone who loads the adapter."""
    remade(base, "DistilBertModel", **DISTILBERT)
    prepare(workspace, "classifier", LABELLED)
    said = refused(workspace, TWO_LABELS)
    assert "base has no pre_classifier.bias (nor 1 others): it is as new as the head" in said
    option = "training.lora.modules_to_save=[pre_classifier]"
    assert "training.lora.modules_to_save: [pre_classifier]" in said
    run(workspace, TWO_LABELS, option, "training.max_steps=1")
    saved = json.loads((workspace / "output" / "adapter_config.json").read_text())
    assert {"pre_classifier", "classifier"} <= set(saved["modules_to_save"])


@pytest.mark.parametrize(
    ("model_class", "options", "task", "what"),
    [
        ("T5ForConditionalGeneration", T5, "sft", "base (t5) is an encoder with a decoder"),
        ("T5ForConditionalGeneration", T5, "classifier", "base (t5) is an encoder with a decoder"),
        ("BertForMaskedLM", SMALL, "sft", "(bert) cannot answer with words: reads in both directi"),
        ("DistilBertModel", DISTILBERT, "sft", "transformers has no AutoModelForCausalLM of it"),
    ],
)
def test_a_base_that_cannot_answer_as_the_task_asks(
    workspace: Path, base: Path, model_class: str, options: dict[str, Any], task: str, what: str
) -> None:
    remade(base, model_class, **options)
    if task == "classifier":
        prepare(workspace, task, LABELLED)
    said = refused(workspace, *([TWO_LABELS] if task == "classifier" else ()))
    assert what in said
    assert "Qwen/Qwen3-0.6B" in said


def test_a_decoder_that_is_told_to_look_both_ways_is_none(workspace: Path, base: Path) -> None:
    described(base, is_causal=False)
    assert "reads in both directions" in refused(workspace)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"quantization_config": "x"}, "a quantization_config that does not say what"),
        ({"quantization_config": [1]}, "a quantization_config that does not say what"),
        ({"quantization_config": {"bits": 4}}, "a quantization_config that does not say what"),
        ({"model_type": "zzz"}, "the config.json of base base cannot be loaded: The checkpoint"),
        ({"num_attention_heads": "x"}, "Field 'num_attention_heads' expected int, got str"),
        ({"num_attention_heads": 0}, "the config.json of base base cannot be loaded: integer mod"),
        ({"dtype": "float99"}, "module 'torch' has no attribute 'float99'"),
        ({"model_type": None}, "names no model_type"),
    ],
)
def test_a_config_json_that_describes_no_model(
    workspace: Path, base: Path, changed: dict[str, Any], what: str
) -> None:
    described(base, **changed)
    said = refused(workspace)
    assert what in said
    assert "hub" not in said.partition("|")[2]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_plain_weights_that_are_said_to_be_in_few_bits(
    workspace: Path, base: Path, bits: str
) -> None:
    pytest.importorskip("bitsandbytes")
    described(base, quantization_config={"quant_method": "bitsandbytes", f"load_in_{bits}": True})
    said = refused(workspace)
    assert "in bitsandbytes by its config.json, and model.layers.0.self_attn.q_proj.weight" in said
    assert "take quantization_config out" in said


def test_the_folder_that_is_there_is_not_looked_for_on_the_hub(workspace: Path, base: Path) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "| a download or copy that broke off: get the file again" in refused(workspace)


LONG = [{**row, "text": row["text"] * 40} for row in LABELLED[:2]] + LABELLED[2:]
GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}


def by_default(workspace: Path, task: str, rows: list[dict[str, Any]]) -> None:
    prepare(workspace, task, rows)
    config = workspace / "soup.yaml"
    config.write_text(config.read_text().replace("  max_length: 96\n", ""))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize(
    ("model_class", "options", "room"),
    [
        ("BertModel", SMALL, 64),
        ("RobertaModel", SMALL, 60),
        ("GPT2LMHeadModel", GPT2, 64),
        ("OPTForCausalLM", {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32}, 64),
    ],
)
def test_rows_are_cut_where_the_positions_of_the_base_end(
    workspace: Path, base: Path, model_class: str, options: dict[str, Any], room: int
) -> None:
    remade(base, model_class, **options)
    by_default(workspace, "classifier", LONG)
    report = run(workspace, TWO_LABELS, "training.max_steps=2")
    assert (report.truncated_rows, report.rows) == (2, 8)
    config = load_config(workspace / "soup.yaml", [TWO_LABELS])
    note = f"2 rows cut at {room} tokens (base has no positions for more)"
    assert note in material.read(config, workspace).notes()
    assert len(prepared.view(config, workspace_root=workspace).tokens) == room
    said = refused(workspace, TWO_LABELS, "data.max_length=500")
    assert (
        f"data.max_length: is 500, and base has {room} positions | data.max_length: {room}" in said
    )


def test_answers_that_are_generated_have_to_find_room_too(workspace: Path, base: Path) -> None:
    remade(base, "GPT2LMHeadModel", **GPT2)
    by_default(workspace, "grpo", [{"prompt": f"{n}"} for n in range(4)])
    options = ("training.reward_fn=format", "training.num_generations=4")
    said = refused(workspace, *options)
    assert "max_completion_length: is 512, and base has 64 positions, for prompt and ans" in said
    room = "training.trl={max_completion_length: 16}"
    assert load_config(workspace / "soup.yaml", [*options, room])
    said = refused(workspace, *options, room, "data.max_length=60")
    assert "data.max_length: is 60, and base has 64 positions, 16 of them for the answer" in said


def test_a_row_beyond_what_a_base_was_made_for_is_said(workspace: Path) -> None:
    row = tiny.conversation(1)
    row["messages"][1]["content"] = "a b c " * 100  # type: ignore[index]
    tiny.write_rows(workspace / "data" / "train.jsonl", [row])
    options = ["data.max_length=500", "data.val_split=0"]
    notes = material.read(load_config(workspace / "soup.yaml", options), workspace).notes()
    assert "the longest row has " in notes[-1]
    assert "base was made for 256" in notes[-1]


def test_every_table_that_starts_with_padding_is_known() -> None:
    """By how transformers counts positions there; of models that are loaded with a head of ours."""
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification

    counts = set()
    taken = {
        *AutoModelForMaskedLM._model_mapping,
        *AutoModelForSequenceClassification._model_mapping,
    }
    for name in {cls.model_type for cls in taken}:
        module = type(AutoConfig.for_model(name)).__module__.split(".")[-2]
        folder = upstream.source("transformers", f"models/{module}")
        sources = [file.read_text(encoding="utf-8") for file in folder.glob("modeling_*.py")]
        if any("create_position_ids_from_input_ids" in source for source in sources):
            counts.add(name)
    assert counts <= set(architecture.COUNTED_FROM_PADDING)
