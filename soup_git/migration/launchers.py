"""How many GPUs another trainer's config splits a model among: axolotl's, LLaMA-Factory's and the
Trainer's own words, as training.launcher and what goes with it."""

from __future__ import annotations

import re
from typing import Any

from soup_git.migration.draft import Draft, Reading
from soup_git.migration.rules import TOGETHER, Rule

KEYS: dict[str, Rule] = dict.fromkeys(
    ("deepspeed", "fsdp", "fsdp_config", "fsdp_version"), TOGETHER
)
"""What `carry` reads."""
BATCH = "training.launcher: accelerate starts a process for each GPU; the batch is that of each, as there"
_STAGE = re.compile(r"z(?:ero)?_?([123])")
_FSDP = {"full_shard": "full_shard", "shard_grad_op": "shard_grad"}


def carry(reading: Reading, draft: Draft, *at: str) -> None:
    """DeepSpeed by the name of its file, FSDP by its words."""
    deepspeed, fsdp = reading.get(*at, "deepspeed"), reading.get(*at, "fsdp")
    config = reading.get(*at, "fsdp_config")
    if deepspeed:
        _deepspeed(draft, deepspeed, *at, "deepspeed")
    elif fsdp or config:
        _fsdp(draft, fsdp, config if isinstance(config, dict) else {}, *at)


def _deepspeed(draft: Draft, value: Any, *where: str) -> None:
    name = value.rpartition("/")[2] if isinstance(value, str) else ""
    stage = _STAGE.search(name)
    if stage is None:
        draft.lose("training.deepspeed is zero1, zero2 or zero3, with _offload or without", *where)
        return
    offload = "_offload" if "offload" in name and stage[1] != "1" else ""
    draft.carry("training.launcher", "accelerate", *where)
    draft.carry("training.deepspeed", f"zero{stage[1]}{offload}", *where)


def _fsdp(draft: Draft, value: Any, config: dict[str, Any], *at: str) -> None:
    words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    where = (*at, "fsdp" if words else "fsdp_config")
    plain = {str(key).removeprefix("fsdp_"): item for key, item in config.items()}
    kinds = [_FSDP[word] for word in map(str, words) if word in _FSDP]
    if not kinds and plain.get("reshard_after_forward") is False:
        kinds = ["shard_grad"]
    kind = kinds[0] if kinds else "full_shard"
    if "offload" in words or plain.get("offload_params") is True:
        kind = "full_offload"
    draft.carry("training.launcher", "accelerate", *where)
    draft.carry("training.fsdp", kind, *where)
    layers = plain.get("transformer_layer_cls_to_wrap")
    if layers:
        names = layers.split(",") if isinstance(layers, str) else list(map(str, layers))
        draft.carry("training.fsdp_layers", names, *at, "fsdp_config")
