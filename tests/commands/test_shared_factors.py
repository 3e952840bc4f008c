"""Adapters whose modules share their factors, VeRA and VB-LoRA: what diff and merge make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from soup_git.storage import vectorbank
from tests.conftest import MakeAdapter, Run

PREFIX = "base_model.model.model.layers.0"


def bank(make_adapter: MakeAdapter, folder: str, seed: int) -> dict[str, np.ndarray]:
    """VB-LoRA of rank 3 on two modules of 8 inputs and 16 outputs: vectors of 4, 6 of them."""
    generator = np.random.default_rng(seed)
    shapes = {"base_model.vblora_vector_bank": (6, 4)}
    for module in ("q_proj", "v_proj"):
        shapes[f"{PREFIX}.self_attn.{module}.vblora_logits_A"] = (3, 2, 6)
        shapes[f"{PREFIX}.self_attn.{module}.vblora_logits_B"] = (4, 3, 6)
    tensors = {k: generator.standard_normal(s).astype("f4") for k, s in shapes.items()}
    make_adapter(folder, layers=0, extra_tensors=tensors, peft_type="VBLORA", rank=3, topk=2)
    return tensors


def update(tensors: dict[str, np.ndarray], module: str) -> np.ndarray:
    """B·A, tile by tile, as the paper writes it."""

    def tile(logits: np.ndarray) -> np.ndarray:
        best = sorted(range(6), key=lambda i: -logits[i])[:2]
        weights = np.exp(logits[best]) / np.exp(logits[best]).sum()
        return weights @ tensors["base_model.vblora_vector_bank"][best].astype("f8")

    a, b = (tensors[f"{PREFIX}.self_attn.{module}.vblora_logits_{x}"].astype("f8") for x in "AB")
    right = np.stack([np.concatenate([tile(t) for t in row]) for row in a])
    left = np.stack([np.concatenate([tile(b[o, k]) for o in range(4)]) for k in range(3)]).T
    return left @ right


def test_vblora_is_compared_by_the_updates_that_its_bank_makes(
    repo: object, make_adapter: MakeAdapter, soup: Run
) -> None:
    tensors = [bank(make_adapter, name, seed) for name, seed in (("a", 1), ("b", 2))]
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    assert {layer["module"] for layer in report["layers"]} == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    }
    for layer in report["layers"]:
        old, new = (update(t, layer["module"].rpartition(".")[2]) for t in tensors)
        assert layer["frobenius"] == pytest.approx(np.linalg.norm(new - old))
        assert layer["relative_drift"] == pytest.approx(
            np.linalg.norm(new - old) / np.linalg.norm(old)
        )
        assert layer["rank_a"] == 3


def test_logits_that_only_shift_are_no_difference(
    repo: object, make_adapter: MakeAdapter, soup: Run
) -> None:
    tensors = bank(make_adapter, "a", 1)
    shifted = {k: v + 1 if "logits" in k else v for k, v in tensors.items()}
    make_adapter("b", layers=0, extra_tensors=shifted, peft_type="VBLORA", rank=3, topk=2)
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    assert max(layer["relative_drift"] for layer in report["layers"]) < 1e-6


def test_vera_is_compared_tensor_by_tensor(
    repo: object, make_adapter: MakeAdapter, soup: Run
) -> None:
    """Its update takes as many columns of the shared matrix as the base's layer has inputs."""
    for name, step in (("a", 0.0), ("b", 0.5)):
        tensors = {
            "base_model.vera_A": np.ones((4, 8)),
            "base_model.vera_B": np.ones((16, 4)),
            f"{PREFIX}.self_attn.q_proj.vera_lambda_d": np.full(4, 0.1),
            f"{PREFIX}.self_attn.q_proj.vera_lambda_b": np.ones(16) + step,
        }
        make_adapter(name, layers=0, extra_tensors=tensors, peft_type="VERA", rank=4)
    report = json.loads(soup("diff", "./a", "./b", "--json").stdout)
    changed = [layer for layer in report["layers"] if layer["status"] == "changed"]
    assert [layer["module"] for layer in changed] == [
        "model.layers.0.self_attn.q_proj.vera_lambda_b"
    ]
    assert changed[0]["relative_drift"] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["VERA", "VBLORA"])
def test_they_are_not_merged(repo: object, make_adapter: MakeAdapter, soup: Run, kind: str) -> None:
    tensors = {f"{PREFIX}.self_attn.q_proj.vera_lambda_b": np.ones(16)}
    for name in "ab":
        make_adapter(name, layers=0, extra_tensors=tensors, peft_type=kind)
    done = soup("merge", "./a", "./b", "-o", "m", check=False)
    assert done.returncode == 128
    assert f"fatal: ./a is {kind}; only LoRA adapters are merged" in done.stderr
    assert not Path("m").exists()


def test_half_a_module_is_shown_tensor_by_tensor() -> None:
    assert vectorbank.modules(["x.vblora_logits_A", "y.vblora_logits_A", "y.vblora_logits_B"]) == {
        "y": ("y.vblora_logits_A", "y.vblora_logits_B")
    }
