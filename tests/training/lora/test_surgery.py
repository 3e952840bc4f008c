"""The two places where PEFT and an architecture do not fit; every other model is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from soup_git.errors import FatalError
from soup_git.training import adapter
from soup_git.training.config import SoupConfig, load_config
from soup_git.training.lora import kinds, surgery

# PEFT asks transformers under an old name; a run filters that out (train._quiet_libraries).
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ATTENTION = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "num_hidden_layers": 2}
TEXT = ATTENTION | {"vocab_size": 100, "intermediate_size": 64, "num_key_value_heads": 2}


def gemma() -> Any:
    from transformers import AutoModelForCausalLM, Gemma4Config

    text = TEXT | {
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 0,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
    }
    vision = ATTENTION | {
        "intermediate_size": 64,
        "num_key_value_heads": 4,
        "use_clipped_linears": True,
    }
    torch.manual_seed(0)
    config = Gemma4Config(text_config=text, vision_config=vision, audio_config=None)
    return AutoModelForCausalLM.from_config(config)


def experts() -> Any:
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        Qwen3MoeConfig(**TEXT, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    )


def config(lora: str) -> SoupConfig:
    text = f"base: m\ndata: {{train: x.jsonl}}\ntraining: {{lora: {{{lora}}}}}\n"
    return load_config(text)


def stirred(peft_model: Any) -> Any:
    """Every trainable tensor random: an update that a test can see."""
    with torch.no_grad():
        for parameter in peft_model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    return peft_model.eval()


def reloaded(base: Any, peft_model: Any, settings: SoupConfig, folder: Path) -> Any:
    from peft import PeftModel

    adapter.save(adapter.factors(peft_model), adapter.settings(peft_model, settings), folder)
    return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize(
    "exclude", ["", "exclude_modules: [k_proj]", "exclude_modules: '.*k_proj'"]
)
def test_an_adapter_on_gemma_sits_inside_the_clipping(exclude: str, tmp_path: Path) -> None:
    base = gemma()
    untouched = copy.deepcopy(base)
    settings = config(f"target_modules: [q_proj, k_proj], r: 2, {exclude}")
    model = stirred(adapter.attach(base, settings))
    modules = adapter.modules(model)
    tower = "model.vision_tower.encoder.layers.0.self_attn"
    assert f"{tower}.q_proj.linear" in modules
    assert "model.language_model.layers.1.self_attn.q_proj" in modules
    assert any(".k_proj" in name for name in modules) == (not exclude)
    wrapper = model.base_model.model.get_submodule(f"{tower}.q_proj")
    wrapper.input_max.fill_(0.1)
    inputs = torch.ones(1, 32)
    assert torch.equal(wrapper(inputs), wrapper(inputs * 9))  # what goes in is clipped as before
    wrapper.input_max.fill_(float("inf"))
    again = reloaded(untouched, model, settings, tmp_path)
    ids = torch.tensor([[5, 9, 20]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
        layer = again.base_model.model.get_submodule(f"{tower}.q_proj")
        assert torch.equal(wrapper(inputs), layer(inputs))


def test_experts_train_without_dropout_and_attention_with(tmp_path: Path) -> None:
    base = experts()
    untouched = copy.deepcopy(base)
    settings = config(
        "target_modules: [q_proj], target_parameters: [mlp.experts.down_proj, "
        "mlp.experts.gate_up_proj], r: 2, dropout: 0.25"
    )
    model = stirred(adapter.attach(base, settings))
    from peft.tuners.lora import Linear, LoraLayer

    layers = [m for m in model.modules() if isinstance(m, LoraLayer)]
    rates = {type(m).__name__: getattr(m.lora_dropout["default"], "p", 0.0) for m in layers}
    assert rates == {"Linear": 0.25, "ParamWrapper": 0.0}
    assert sum(isinstance(m, Linear) for m in layers) == 2
    again = reloaded(untouched, model, settings, tmp_path)
    ids = torch.tensor([[5, 9, 20, 33]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@pytest.mark.filterwarnings("ignore:.*_pattern keys did not match any targeted:RuntimeWarning")
def test_all_linear_means_the_experts_and_keeps_the_dropout_of_the_rest(tmp_path: Path) -> None:
    base = experts()
    untouched = copy.deepcopy(base)
    settings = config("r: 2, dropout: 0.25, rank_pattern: {experts.down_proj: 1}")
    model = stirred(adapter.attach(base, settings))
    rates = {
        type(m).__name__: getattr(m.lora_dropout["default"], "p", 0.0)
        for m in model.modules()
        if hasattr(m, "lora_dropout")
    }
    assert rates == {"Linear": 0.25, "ParamWrapper": 0.0}
    tensors = adapter.factors(model)
    experts_of = "base_model.model.model.layers.0.mlp.experts"
    # Four experts share the parameter: down_proj by the pattern, gate and up by twice r.
    assert tensors[f"{experts_of}.lora_A.weight"].shape[0] == 4 * 1
    assert tensors[f"{experts_of}.base_layer.lora_A.weight"].shape[0] == 4 * 2 * 2
    targets = adapter.modules(model)
    assert len(targets) == len(tensors) // 2 == 14
    again = reloaded(untouched, model, settings, tmp_path)
    ids = torch.tensor([[5, 9, 20, 33]])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    del tensors[f"{experts_of}.lora_A.weight"], tensors[f"{experts_of}.lora_B.weight"]
    with pytest.raises(FatalError, match=r"1 of 14 modules were not saved: .*0\.mlp\.experts$"):
        adapter.check_alive(tensors, {}, targets, settings.training.lora)


def test_other_models_are_left_alone() -> None:
    model = experts()
    targets = kinds.Targets(["q_proj"], ["k_proj"], 0.1)
    assert surgery.inside_wrappers(model, targets) == targets
    peft_config = kinds.peft_config(config("r: 2"), targets, task_type="CAUSAL_LM")
    surgery.take_dropout(model, peft_config)
    assert peft_config.lora_dropout == 0.1
    # The name alone is not enough: the class has to be there too, and the other way round.
    model.config.model_type = "gemma4"
    assert surgery.clippable(model) == []
    model = gemma()
    model.config.model_type = "llama"
    assert surgery.clippable(model) == []
