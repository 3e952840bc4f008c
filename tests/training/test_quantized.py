"""Bases in few bits: loaded so, or come so; refused where they cannot train, with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from soup_git.errors import FatalError
from soup_git.training import quantized, upstream
from soup_git.training.config import load_config
from soup_git.training.model import Base, locate
from soup_git.training.train import train
from tests.training.methods import prepare, run

BASE = "base: b\ndata: {train: data/x.jsonl}\n"


def refusal(tmp_path: Path, described: Any, options: str = "", device: str = "cpu") -> str:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": described}))
    config = load_config(f"{BASE}training: {{{options}}}\n", check_upstream=False)
    base = Base("b", str(tmp_path), None, local=True)
    with pytest.raises(FatalError) as caught:
        quantized.check_device(base, config, quantized.check(base, config), device)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize(
    ("method", "options", "what"),
    [
        ("gptq", "", "soup.yaml:1: base: b is in gptq, which needs optimum: not installed"),
        ("awq", "quantization: awq", "b is in awq, which needs gptqmodel: not installed"),
        ("hqq", "", "b is in hqq, which needs hqq: not installed"),
        ("quanto", "", "b is in quanto, which needs optimum.quanto: not installed"),
        ("mxfp4", "", "sends no gradients through it"),
        ("auto-round", "", "sends no gradients through it"),
        ("fp8", "", "b is in fp8, which needs a GPU"),
        ("mine", "", "b is in mine, a format unknown to git-soup"),
        ("awq", "quantization: gptq", "soup.yaml:3: training.quantization: b is in awq, not in gp"),
        ("fp8", "quantization: 4bit", "b is quantized already (fp8), 4bit would do it again"),
        ("fp8", "lora: {init_strategy: pissa}", "pissa needs an unquantized base, and b is in fp8"),
        ("fp8", "relora_steps: 2, relora_mode: merge", "merge adds to the base's weights, and fp8"),
    ],
)
def test_a_format_that_cannot_train_here_is_refused_with_the_reason(
    tmp_path: Path, method: str, options: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "installed", lambda package: False)
    assert what in refusal(tmp_path, {"quant_method": method, "bits": 4}, options)


def test_a_format_that_the_base_is_not_in(tmp_path: Path) -> None:
    said = refusal(tmp_path, None, "quantization: gptq")
    assert "b is not in gptq: its config.json has no quantization_config" in said


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, "nf4")
    assert said == "soup.yaml:1: base: b/config.json: quantization_config is no block of options"


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_base_that_only_says_it_is_quantized_is_refused(workspace: Path, bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    plain = (workspace / "base").resolve()
    (workspace / "base").unlink()
    shutil.copytree(plain, workspace / "base")
    path = workspace / "base" / "config.json"
    said = json.loads(path.read_text())
    said["quantization_config"] = {"quant_method": "bitsandbytes", bits: True}
    path.write_text(json.dumps(said))
    with pytest.raises(
        FatalError,
        match=r"base: base is in bitsandbytes by its config.json, and \S+weight is plain",
    ):
        train(
            load_config(workspace / "soup.yaml"),
            workspace_root=workspace,
            output=workspace / "output",
            state_dir=workspace / "state",
        )


def test_every_format_of_transformers_is_in_the_table() -> None:
    """One that is missing is refused as unknown, which is safe; one too many would be a typo."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    known = {name.replace("_4bit", "").replace("_8bit", "") for name in AUTO_QUANTIZER_MAPPING}
    assert set(quantized.FORMATS) <= known
    assert known - set(quantized.FORMATS) == {"fouroversix", "gemma", "metal", "sinq"}


def test_dora_on_eight_bits_is_refused_on_a_cpu_only() -> None:
    config = load_config(
        f"{BASE}training: {{quantization: 8bit, lora: {{use_dora: true}}}}\n", check_upstream=False
    )
    base = Base("b", "b", None, local=True)
    quantized.check_device(base, config, None, "cuda")
    with pytest.raises(FatalError, match="use_dora: excludes quantization: 8bit on a CPU"):
        quantized.check_device(base, config, None, "cpu")


def test_bits_without_bitsandbytes_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "installed", lambda package: package != "bitsandbytes")
    with pytest.raises(FatalError, match=r"bitsandbytes.*pip install 'git-soup\[quantized\]'"):
        load_config(f"{BASE}training: {{quantization: 4bit}}\n")


def digest(workspace: Path, *overrides: str) -> tuple[str, Any]:
    shutil.rmtree(workspace / "state", ignore_errors=True)
    report = train(
        load_config(workspace / "soup.yaml", ["training.max_steps=4", *overrides]),
        workspace_root=workspace,
        output=workspace / "output",
        state_dir=workspace / "state",
    )
    return report.weights_sha256, report


def packed(workspace: Path, bits: str, name: str) -> None:
    """The base of the workspace as somebody puts it on the hub in few bits."""
    from transformers import AutoModelForCausalLM

    config = load_config(workspace / "soup.yaml", ["task=sft", f"training.quantization={bits}"])
    how = quantized.load_options(locate(config, workspace), config, "float32", "cpu", None)
    base, folder = workspace / "base", workspace / name
    AutoModelForCausalLM.from_pretrained(base, **how).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / file, folder / file)


def test_a_base_that_comes_in_four_bits_trains_to_the_bytes_of_one_loaded_so(
    workspace: Path,
) -> None:
    pytest.importorskip("bitsandbytes")
    packed(workspace, "4bit", "four")
    loaded, _ = digest(workspace, "training.quantization=4bit", "training.eval_steps=1")
    # A validation loss after each step, or none in between: the weights are not repacked.
    assert digest(workspace, "training.quantization=4bit", "training.eval_steps=9")[0] == loaded
    comes, report = digest(workspace, "base=four")
    assert comes == loaded
    assert report.base == "four"
    assert report.run["bitsandbytes"]
    assert digest(workspace, "base=four", "training.quantization=bitsandbytes")[0] == loaded


def test_the_adapter_on_a_quantized_base_trains_in_the_precision_asked_for(
    workspace: Path,
) -> None:
    """TRL rounds it to bf16, which swallows updates that are small against the weights."""
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file

    digest(workspace, "training.quantization=4bit", "training.lr=1e-6")
    tensors = load_file(workspace / "output" / "adapter_model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {"torch.float32"}
    assert any((t.bfloat16().float() != t).any() for t in tensors.values())


STEPS = [
    {"prompt": f"{n}: ", "completions": ["one", "two"], "labels": [True, False]} for n in range(8)
]


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_new_head_is_left_in_full_precision(workspace: Path, bits: str) -> None:
    """It is trained whole, which takes gradients; also on a base that comes in few bits."""
    pytest.importorskip("bitsandbytes")
    from safetensors.torch import load_file

    prepare(workspace, "prm", STEPS)
    run(workspace, f"training.quantization={bits}")
    head = "base_model.model.score.weight"
    assert load_file(workspace / "output" / "adapter_model.safetensors")[head].shape == (2, 64)

    packed(workspace, bits, "few")
    run(workspace, "base=few")
    saved = load_file(workspace / "output" / "adapter_model.safetensors")
    assert str(saved[head].dtype) == "torch.float32"


def test_what_trains_in_full_is_not_quantized_or_is_refused(workspace: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = (
        "training.lora.modules_to_save=[k_proj]",
        "training.lora.target_modules=[q_proj]",
        "training.max_steps=2",
    )
    loaded, _ = digest(workspace, "training.quantization=4bit", *options)
    assert loaded
    packed(workspace, "4bit", "few")
    with pytest.raises(FatalError, match=r"k_proj is in few bits in few, and cannot train in full"):
        digest(workspace, "base=few", *options)
