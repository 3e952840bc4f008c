"""Synthetic adapters of the size of an 8B model, the same values on every machine.

32 layers x 7 modules, hidden 4096, intermediate 14336, key-value width 1024. `a` and `b` are
independent, `c` continues the training of `a` (2 % noise on A, 10 % on B). numpy only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HIDDEN, INTERMEDIATE, KEY_VALUE = 32, 4096, 14336, 1024
MODULES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEY_VALUE, HIDDEN),
    "self_attn.v_proj": (KEY_VALUE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
SEEDS = {"a": 101, "b": 202, "c": 101}


def write_adapter(folder: Path, name: str, rank: int, dtype: str, layers: int = LAYERS) -> Path:
    """Write `folder` as a PEFT adapter; `dtype` is F32 or BF16. Kept when it is there already."""
    if (folder / "adapter_config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    header, at = {}, 0
    for key, shape in _shapes(rank, layers):
        size = shape[0] * shape[1] * (4 if dtype == "F32" else 2)
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in _tensors(name, rank, layers):
            file.write(values.tobytes() if dtype == "F32" else _bfloat16(values).tobytes())
    (folder / "adapter_config.json").write_text(json.dumps(_config(rank), indent=2))
    return folder


def _shapes(rank: int, layers: int) -> Iterator[tuple[str, list[int]]]:
    for layer in range(layers):
        for module, (rows, columns) in MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            yield f"{prefix}.lora_A.weight", [rank, columns]
            yield f"{prefix}.lora_B.weight", [rows, rank]


def _tensors(name: str, rank: int, layers: int) -> Iterator[np.ndarray]:
    draws = np.random.default_rng(SEEDS[name])
    noise = np.random.default_rng(303)
    decay = np.exp(-np.arange(rank) / (rank / 3)).astype(np.float32)
    for layer in range(layers):
        for rows, columns in MODULES.values():
            a = draws.random((rank, columns), np.float32) * 2 - 1
            a /= np.float32(columns**0.5)
            turn = np.linalg.qr(draws.standard_normal((rank, rank)))[0].astype(np.float32)
            scale = 4e-3 * np.exp(0.4 * draws.standard_normal()) * (0.5 + layer / layers)
            b = (draws.standard_normal((rows, rank), np.float32) * decay) @ turn
            b *= np.float32(scale / rank**0.5)
            for values, size in ((a, 0.02), (b, 0.10)):
                if name == "c":
                    step = np.float32(size * np.sqrt(np.mean(np.square(values))))
                    np.add(
                        values, step * noise.standard_normal(values.shape, np.float32), out=values
                    )
                yield values


def _bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _config(rank: int) -> dict[str, Any]:
    return {
        "base_model_name_or_path": "meta-llama/Llama-3.1-8B", "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "lora_alpha": 2 * rank, "lora_dropout": 0.0, "peft_type": "LORA", "r": rank,
        "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False, "use_dora": False,
        "target_modules": sorted(m.split(".")[1] for m in MODULES), "task_type": "CAUSAL_LM",
    }  # fmt: skip


if __name__ == "__main__":
    for tag in sys.argv[2:]:  # r16-F32, r64-BF16, …
        rank, dtype = tag[1:].split("-")
        for which in SEEDS:
            write_adapter(Path(sys.argv[1]) / f"{tag}-{which}", which, int(rank), dtype)
