"""A random Llama of any depth, and LoRAs for it that matter: no training, one seed each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.training import tiny_model as tiny

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(folder: Path, layers: int, width: int = 32, spread: float = 0.15) -> Path:
    """The tiny model's tokenizer, and a Llama of `layers` layers with weights larger than usual.

    At the usual spread of a random init (0.02) no module matters to the loss beyond rounding.
    """
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    tiny.make_base(folder)
    config = AutoConfig.from_pretrained(folder)
    config.num_hidden_layers, config.hidden_size = layers, width
    config.intermediate_size, config.head_dim = 2 * width, width // 4
    config.initializer_range = spread
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_lora(
    folder: Path,
    base: Path,
    seed: int,
    *,
    scale: float = 0.1,
    targets: list[str] | None = None,
    name: str | None = None,
    **options: Any,
) -> Path:
    """A LoRA with both factors random: normal, B times `scale`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(base)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": targets or TARGETS, **options}
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(peft.named_parameters()):
            if "lora_A" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if "lora_B" in key:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if "lora_magnitude" in key:
                parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=generator))
    peft.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = name or str(base)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
