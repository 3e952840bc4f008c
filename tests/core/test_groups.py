"""Groups of modules, by the names that models in use give them."""

from __future__ import annotations

import pytest

from soup_git.core.groups import Grouping, GroupWeights, grouping, parse_weights


@pytest.mark.parametrize(
    ("module", "group"),
    [
        ("model.layers.0.self_attn.q_proj", "attention"),
        ("model.layers.0.mlp.down_proj", "mlp"),
        ("model.layers.3.linear_attn.in_proj_qkvz", "attention"),
        ("model.layers.0.block_sparse_moe.experts.2.w1", "mlp"),
        ("transformer.h.7.attn.c_attn", "attention"),
        ("transformer.h.7.mlp.c_proj", "mlp"),
        ("gpt_neox.layers.1.attention.query_key_value", "attention"),
        ("model.decoder.layers.2.fc1", "mlp"),
        ("model.decoder.layers.2.encoder_attn.k_proj", "attention"),
        ("model.embed_tokens", "rest"),
        ("lm_head", "rest"),
    ],
)
def test_modules_are_attention_mlp_or_the_rest(module, group):
    assert Grouping("blocks", 8).of(module) == group


def test_thirds_are_of_the_models_own_layers():
    modules = [f"model.layers.{n}.mlp.up_proj" for n in range(7)] + ["lm_head"]
    found = grouping("thirds", modules)
    assert found == Grouping("thirds", 7)
    thirds = ["early"] * 3 + ["middle"] * 2 + ["late"] * 2 + ["rest"]
    assert [found.of(m) for m in modules] == thirds
    assert found.present(modules) == ("early", "middle", "late", "rest")
    assert grouping("thirds", ["h.0.attn"]).present(["h.0.attn"]) == ("early",)


def test_an_unknown_scheme_is_an_error():
    with pytest.raises(KeyError):
        grouping("heads", [])


def test_weights_are_read_back_exactly():
    weights = {"attention": 0.1 + 0.2, "mlp": 1 / 3}
    assert parse_weights(GroupWeights(Grouping("blocks", 2), weights).text()) == weights
    assert parse_weights("0.25") == 0.25


@pytest.mark.parametrize("text", ["", "a=", "a=1=2", "a=1,b"])
def test_what_is_no_weight_is_refused(text):
    with pytest.raises(ValueError, match=r"convert|a=1"):
        parse_weights(text)
