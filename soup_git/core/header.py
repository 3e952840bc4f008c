"""What a manifest's header says of its adapter's config: what a driver has instead of the file.

git shows a driver one path's versions and nothing beside them, so everything that turns
factors into an update stands in the header, and comes back out of it here.
"""

from __future__ import annotations

import json
import re
from typing import Any

from soup_git.core.adapter import AdapterConfig, parse_adapter_config
from soup_git.core.manifest import Manifest
from soup_git.errors import FatalError

_KEYS = {
    "peft": "peft_type", "base": "base_model_name_or_path", "rank": "r", "alpha": "lora_alpha",
    "rslora": "use_rslora", "dora": "use_dora",
}  # fmt: skip
_TEXT = {"peft", "base"}
_NUMBER = re.compile(r"-?[0-9][0-9.e+-]*")


def config_data(manifest: Manifest, where: str) -> bytes:
    """The bytes of an `adapter_config.json` that gives the header of a LoRA's `manifest`.

    Other methods keep settings in their config that the header does not repeat (LoHa's and
    AdaLoRA's alpha): for these, and for a value that no config can hold, raises `FatalError`.
    """
    if manifest.get("peft") != "lora":
        raise FatalError(
            f"{where}: its header alone does not say what {manifest.get('peft') or 'its'} weights mean",
            hint="git soup diff REV REV reads adapter_config.json too",
        )
    raw: dict[str, Any] = {}
    for key, value in manifest.header:
        if key != "module":
            raw[_KEYS.get(key, key)] = _value(key, value, where)
    raw["peft_type"] = str(raw["peft_type"]).upper()
    if raw.get("base_model_name_or_path") == "-":
        del raw["base_model_name_or_path"]
    return json.dumps(raw).encode()


def config_of(manifest: Manifest, where: str) -> AdapterConfig:
    """The config as far as the arithmetic needs it; raises `FatalError` as `config_data` does."""
    return parse_adapter_config(config_data(manifest, where), where)


def _value(key: str, text: str, where: str) -> Any:
    if key in _TEXT and not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
        if isinstance(value, float) and not _NUMBER.fullmatch(text):
            raise ValueError(text)
    except (ValueError, RecursionError):
        raise FatalError(
            f"{where}: {key} {text!r} is not a value that a config can hold",
            hint=f"git log -p -- {where} tells who wrote it",
        ) from None
    return value
