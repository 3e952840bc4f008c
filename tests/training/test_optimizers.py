"""Every optimizer that transformers knows by name: trained with, or refused with the reason."""

from __future__ import annotations

import pytest

from soup_git.errors import FatalError
from soup_git.training import optimizers, upstream
from soup_git.training.config import load_config

NAMES = upstream.enum_values("transformers", "training_args.py", "OptimizerNames")
BASE = "base: m\ndata: {train: data/x.jsonl}\n"


def refusal(name: str) -> str:
    with pytest.raises(FatalError) as caught:
        load_config(f"{BASE}training: {{optimizer: {name}}}\n")
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("galore_adamw", "galore_adamw: GaLore saves memory on full weights"),
        ("galore_adafactor_layerwise", "an adapter's factors have a low rank already"),
        ("apollo_adamw", "apollo_adamw: APOLLO saves memory on full weights"),
        ("schedule_free_sgd", "it trains one set of weights and means another"),
        ("adam", "adam is not one of adamw_torch"),
    ],
)
def test_what_makes_no_sense_on_an_adapter_is_refused(name: str, what: str) -> None:
    assert f"soup.yaml:3: training.optimizer: {name}" in refusal(name)
    assert what in refusal(name)


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "installed", lambda package: package in {"trl", "transformers"})
    said = {name: refusal(name) for name in NAMES if list(optimizers.check(name))}
    assert "lomo needs lomo_optim, which is not installed: pip install lomo-optim" in said["lomo"]
    assert "pip install torch-optimi" in said["stable_adamw"]
    assert "pip install bitsandbytes" in said["paged_lion_32bit"]
    assert "pip install torchao" in said["adamw_torch_4bit"]
    assert {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"} == (
        set(NAMES) - set(said)
    )


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adalomo"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(name: str) -> None:
    config = load_config(f"{BASE}training: {{optimizer: {name}}}\n", check_upstream=False)
    optimizers.check_device(config, "cuda")
    with pytest.raises(FatalError, match="there is none here"):
        optimizers.check_device(config, "cpu")
