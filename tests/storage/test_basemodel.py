"""A base's tensors by whatever name its files have them; the oracle is what transformers loads."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from soup_git.errors import FatalError
from soup_git.storage.basemodel import BaseModel, shapes

EMBEDDINGS = np.arange(12, dtype=np.float32).reshape(4, 3)


def base(folder, config, **tensors):
    folder.mkdir(exist_ok=True)
    save_file(
        {name.replace("__", "."): value for name, value in tensors.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config))
    return BaseModel(folder)


def test_a_tied_model_of_transformers(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    found = BaseModel(tmp_path).tensor("lm_head.weight").read(work=np.float32)
    assert np.array_equal(found, model.lm_head.weight.detach().numpy())
    module = BaseModel(tmp_path).tensor("transformer.h.0.attn.c_attn.weight").read(work=np.float32)
    assert np.array_equal(module, model.transformer.h[0].attn.c_attn.weight.detach().numpy())


@pytest.mark.parametrize(
    "config",
    [{"tie_word_embeddings": True}, {}, {"text_config": {"tie_word_embeddings": True}}],
    ids=["said", "the type's default", "of the text model"],
)
def test_embeddings_are_the_output_layer(config, tmp_path):
    found = base(tmp_path / "b", config, model__embed_tokens__weight=EMBEDDINGS)
    assert np.array_equal(found.tensor("lm_head.weight").read(work=np.float32), EMBEDDINGS)


def test_an_output_layer_that_is_missing_and_not_tied_is_said(tmp_path):
    found = base(
        tmp_path / "b", {"tie_word_embeddings": False}, model__embed_tokens__weight=EMBEDDINGS
    )
    with pytest.raises(FatalError, match="embeddings are not tied"):
        found.tensor("lm_head.weight")


def test_an_output_layer_of_its_own_is_taken_whatever_the_config_says(tmp_path):
    found = base(
        tmp_path / "b", {"tie_word_embeddings": True},
        model__embed_tokens__weight=EMBEDDINGS, lm_head__weight=EMBEDDINGS + 1,
    )  # fmt: skip
    assert np.array_equal(found.tensor("lm_head.weight").read(work=np.float32), EMBEDDINGS + 1)


@pytest.mark.parametrize(
    ("asked", "in_file"),
    [
        ("model.language_model.layers.0.q.weight", "language_model.model.layers.0.q.weight"),
        ("model.language_model.layers.0.q.weight", "model.layers.0.q.weight"),
        ("language_model.model.layers.0.q.weight", "model.language_model.layers.0.q.weight"),
        ("model.visual.blocks.0.qkv.weight", "visual.blocks.0.qkv.weight"),
        ("model.layers.0.q.weight", "layers.0.q.weight"),
        ("transformer.h.0.attn.c_attn.weight", "h.0.attn.c_attn.weight"),
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
        ("bert.embeddings.LayerNorm.bias", "bert.embeddings.LayerNorm.beta"),
        ("conv.parametrizations.weight.original0", "conv.weight_g"),
        ("conv.weight_v", "conv.parametrizations.weight.original1"),
    ],
)
def test_names_of_other_versions(asked, in_file, tmp_path):
    found = base(tmp_path / "b", {}, **{in_file: EMBEDDINGS, "model.decoy.weight": EMBEDDINGS + 1})
    assert np.array_equal(found.tensor(asked).read(work=np.float32), EMBEDDINGS)


def test_another_base_is_refused(tmp_path):
    found = base(tmp_path / "b", {}, model__layers__0__q__weight=EMBEDDINGS)
    with pytest.raises(FatalError, match="not the base of these adapters"):
        found.tensor("model.layers.1.q.weight")


def test_a_base_of_eight_bits_is_read_where_it_is_not(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch

    tensors = {
        "model.a.weight": torch.ones(2, 2),
        "model.b.weight": torch.ones(2, 2).to(torch.float8_e4m3fn),
    }
    save_torch(
        tensors | {"model.c.weight": torch.ones(2, 1, dtype=torch.uint8)},
        tmp_path / "m.safetensors",
    )
    assert BaseModel(tmp_path).tensor("model.a.weight").shape == (2, 2)
    with pytest.raises(FatalError, match="F8_E4M3"):
        BaseModel(tmp_path).tensor("model.b.weight")
    assert shapes(tmp_path).keys() == {
        "model.a.weight",
        "model.b.weight",
    }  # packed ones have no shape
