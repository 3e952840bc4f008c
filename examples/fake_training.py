"""Stands in for an hour of training: makes a small LoRA adapter, or moves some of its modules.

    python fake_training.py adapters/support                        a new adapter
    python fake_training.py adapters/support --tune 'layers.0.*'    it learned something

What it writes is what PEFT's save_pretrained writes.
"""

from __future__ import annotations

import argparse
import json
import zlib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

RANK, WIDTH, LAYERS = 8, 64, 4
PROJECTIONS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
CONFIG = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "org/base",
    "r": RANK,
    "lora_alpha": 2 * RANK,
    "target_modules": sorted(name.rpartition(".")[2] for name in PROJECTIONS),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tune", metavar="GLOB", help="the modules that learn something")
    options = parser.parse_args()
    file = options.folder / "adapter_model.safetensors"
    options.folder.mkdir(parents=True, exist_ok=True)
    tensors = load_file(file) if options.tune else {}
    random = np.random.default_rng(zlib.crc32((options.tune or "").encode()))
    for layer in range(LAYERS):
        for projection in PROJECTIONS:
            module = f"layers.{layer}.{projection}"
            for factor, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK))):
                name = f"base_model.model.model.{module}.lora_{factor}.weight"
                noise = random.standard_normal(shape, np.float32)
                if options.tune is None:
                    tensors[name] = 0.1 * noise
                elif fnmatch(module, options.tune):
                    tensors[name] = tensors[name] + 0.01 * noise
    # Tracked weights are read-only, and a new version is a new file.
    file.unlink(missing_ok=True)
    save_file(tensors, file, metadata={"format": "pt"})
    (options.folder / "adapter_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main()
