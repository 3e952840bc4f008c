"""What `training.lora` names in vain is refused, with the key that names it."""

from __future__ import annotations

from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training import adapter
from tests.training.lora.test_surgery import config, experts

# PEFT asks transformers under an old name; a run filters that out (train._quiet_libraries).
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SIZES = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}


def llama(*, tied: bool = False) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=tied))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    )


def refusal(base: Any, lora: str) -> str:
    with pytest.raises(FatalError) as caught:
        adapter.attach(base, config(f"r: 2, {lora}"))
    assert caught.value.hint
    return f"{caught.value}; {caught.value.hint}"


@pytest.mark.parametrize(
    ("lora", "what"),
    [
        ("exclude_modules: q_proj", "exclude_modules: q_proj is a regular expression for whole"),
        ("exclude_modules: q_proj", "as a list, [q_proj], it means the ends of names"),
        ("target_modules: q_proj", "target_modules: q_proj is a regular expression for whole"),
        ("exclude_modules: '(q'", "exclude_modules: not a regular expression: missing )"),
        ("exclude_modules: [nope]", "exclude_modules: nope matches no module of m"),
        ("rank_pattern: {nope: 3}", "rank_pattern.nope: matches no module of m"),
        (
            "target_modules: [v_proj], rank_pattern: {q_proj: 8}",
            "rank_pattern.q_proj: no module that it matches gets an adapter",
        ),
        ("alpha_pattern: {lm_head: 8}", "alpha_pattern.lm_head: no module that it matches gets"),
        (
            "rank_pattern: {q_proj: 1, layers.0.self_attn.q_proj: 4}",
            "layers.0.self_attn.q_proj: an earlier pattern means the same modules",
        ),
        (
            "target_modules: [q_proj], layers_to_transform: [0, 99]",
            "layers_to_transform: m has no layer 99 with such modules; the first is 0",
        ),
        ("target_modules: [q_proj], layers_to_transform: []", "names no layer; leave it out"),
        (
            "target_modules: [q_proj, lm_head], modules_to_save: [lm_head]",
            "target_modules: lm_head gets no adapter: modules_to_save means it too, and trains",
        ),
    ],
)
def test_a_name_that_reaches_nothing_is_refused(lora: str, what: str) -> None:
    assert what in refusal(llama(), lora)


@pytest.mark.parametrize(
    ("lora", "count"),
    [
        ("exclude_modules: '.*q_proj'", 12),
        ("exclude_modules: [q_proj]", 12),
        ("exclude_modules: [lm_head]", 14),  # gets no adapter, which is what was asked for
        ("target_modules: [q_proj], layers_to_transform: 1", 1),
        ("rank_pattern: {layers.0.self_attn.q_proj: 4, q_proj: 1}", 14),
        ("target_modules: auto", 4),
    ],
)
def test_a_name_that_means_something_is_taken(lora: str, count: int) -> None:
    assert len(adapter.modules(adapter.attach(llama(), config(f"r: 2, {lora}")))) == count


@pytest.mark.parametrize(
    ("lora", "what"),
    [
        (
            "target_modules: [q_proj], target_parameters: [mlp.experts.nope]",
            "target_parameters: mlp.experts.nope matches no parameter of m",
        ),
        (
            "target_modules: [q_proj], target_parameters: [experts.down_proj], rank_pattern: {mlp.experts: 1}",
            "rank_pattern.mlp.experts: no module that it matches gets an adapter",
        ),
        ("exclude_modules: [experts]", "exclude_modules: PEFT adapts model.layers.0.mlp.experts"),
        (
            "target_modules: [q_proj], layers_to_transform: [1], target_parameters: [experts.down_proj]",
            "layers_to_transform: PEFT adapts model.layers.0.mlp.experts.down_proj in every layer",
        ),
        ("init_strategy: pissa", "init_strategy: pissa knows linear layers only, and target_mod"),
        ("init_strategy: eva", "init_strategy: eva knows linear layers only"),
        ("use_olora: true", "use_olora: olora knows linear layers only"),
        ("use_dora: true", "training.lora: PEFT refuses this: lora.ParamWrapper does not work"),
    ],
)
def test_what_experts_cannot_have_is_refused(lora: str, what: str) -> None:
    assert what in refusal(experts(), lora)


def test_a_rank_of_its_own_reaches_the_experts() -> None:
    lora = "target_modules: [q_proj], target_parameters: [mlp.experts.down_proj], r: 4, rank_pattern: {mlp.experts.down_proj: 1}"
    tensors = adapter.factors(adapter.attach(experts(), config(lora)))
    a = tensors["base_model.model.model.layers.0.mlp.experts.lora_A.weight"]
    assert a.shape[0] == 4  # one rank for each of the four experts


def test_an_init_that_does_not_know_the_layers_is_refused() -> None:
    said = refusal(gpt2(), "init_strategy: olora")
    assert "init_strategy: m keeps its weights transposed (Conv1D)" in said
    assert adapter.modules(adapter.attach(gpt2(), config("r: 2, init_strategy: pissa")))


def test_trained_tokens_of_tied_embeddings_are_refused() -> None:
    lora = "peft: {trainable_token_indices: [5, 6]}"
    assert "peft.trainable_token_indices: m answers with its input" in refusal(
        llama(tied=True), lora
    )
    assert adapter.attach(llama(), config(f"r: 2, {lora}"))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_init_from_weights_has_no_more_ranks_than_they_have(init: str) -> None:
    wide = f"init_strategy: {init}, target_modules: [q_proj]"
    with pytest.raises(FatalError) as caught:
        adapter.attach(llama(), config(f"r: 24, {wide}"))
    found = f"training.lora.r: 24 is more than {init} finds in model.layers.0.self_attn.q_proj: 16"
    assert found in str(caught.value)
    assert "rank_pattern: {q_proj: 16}" in caught.value.hint
    adapter.attach(llama(), config(f"r: 24, {wide}, rank_pattern: {{q_proj: 16}}"))
    adapter.attach(llama(), config("r: 24, target_modules: [q_proj]"))
