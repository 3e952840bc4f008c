"""The few keys of `soup.yaml` that pins are taken from, read at git speed.

The full schema belongs to `training/`; a lock, a hook or `git soup branches` needs only
where the base, the data and the result are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from soup_git.errors import FatalError

CONFIG_FILE = "soup.yaml"
MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ConfigPins:
    base: str | None = None
    dataset: str | None = None
    seed: int | None = None
    output: str | None = None
    revision: str | None = None
    chat_template: str | None = None
    template_date: str | None = None
    trust_remote_code: bool = False
    validation: str | None = None
    reward_model: str | None = None
    """The adapter that rewards, for tasks that learn from one: an input, as the dataset is."""


def parse_config_pins(data: bytes, where: str) -> ConfigPins:
    """What a training config says of its base, its data, its seed and its output."""
    from soup_git.core.yamltext import load_yaml

    if len(data) > MAX_CONFIG_BYTES:
        raise FatalError(
            f"{where} is {len(data):,} bytes; a config has at most 1 MiB", hint=f"ls -l {where}"
        )
    try:
        raw = load_yaml(data)
    except ValueError as error:
        raise FatalError(f"{where} is not YAML: {error}", hint=f"git diff -- {where}") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise FatalError(f"{where} is not a mapping of options", hint=f"git diff -- {where}")
    seed = _section(raw, "training").get("seed")
    return ConfigPins(
        base=_text(raw, "base"),
        dataset=_text(_section(raw, "data"), "train"),
        seed=seed if type(seed) is int else None,
        output=_text(raw, "output"),
        revision=_text(raw, "revision"),
        chat_template=_text(_section(raw, "data"), "chat_template"),
        template_date=_day(_section(raw, "data").get("template_date")),
        trust_remote_code=raw.get("trust_remote_code") is True,
        reward_model=_text(_section(raw, "training"), "reward_model"),
        validation=_text(_section(raw, "data"), "validation"),
    )


def _section(raw: dict[str, Any], key: str) -> dict[str, Any]:
    section = raw.get(key)
    return section if isinstance(section, dict) else {}


def _day(value: Any) -> str | None:
    """A date, which YAML has as one unless it is quoted."""
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        return None


def _text(raw: dict[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) and value else None
