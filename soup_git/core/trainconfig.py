"""The few keys of `soup.yaml` that pins are taken from, read at git speed.

The full schema belongs to `training/`; a lock, a hook or `git soup branches` needs only
where the base, the data and the result are.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from soup_git.core.lock import is_repository_path
from soup_git.errors import FatalError

CONFIG_FILE = "soup.yaml"
MAX_CONFIG_BYTES = 1 << 20
TEMPLATE_SUFFIXES = (".jinja", ".j2")


@dataclass(frozen=True)
class NamedInput:
    """A file or folder that decides what is learnt, beside the base and the dataset."""

    key: str
    """Where the config names it, as DVC's templates spell it: `training.reward_fn[1]`."""
    name: str
    """As it is written there."""
    may_be_elsewhere: bool = False
    """It may be a hub's id, or a model that neither git nor DVC holds, as a base may be."""

    @property
    def path(self) -> str | None:
        """As git writes it; None where it leads out of the repository."""
        path = posixpath.normpath(self.name)
        return path if is_repository_path(path) else None


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
    inputs: tuple[NamedInput, ...] = ()
    """Whatever else decides what is learnt: templates, rows to validate on, rewards, a teacher."""


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
        inputs=tuple(_inputs(_section(raw, "data"), _section(raw, "training"))),
    )


def _inputs(data: dict[str, Any], training: dict[str, Any]) -> Iterator[NamedInput]:
    template = _text(data, "chat_template")
    # A name without either is one of the templates that come with us, or with TRL.
    if template is not None and ("/" in template or template.endswith(TEMPLATE_SUFFIXES)):
        yield NamedInput("data.chat_template", template)
    validation = _text(data, "validation")
    if validation is not None:
        yield NamedInput("data.validation", validation)
    rewards = training.get("reward_fn")
    named = [("", rewards)]
    if isinstance(rewards, list):
        named = [(f"[{place}]", reward) for place, reward in enumerate(rewards)]
    for place, reward in named:
        if isinstance(reward, str) and reward.endswith(".py"):
            yield NamedInput(f"training.reward_fn{place}", reward)
    model = _text(training, "reward_model")
    if model is not None:
        yield NamedInput("training.reward_model", model)
    teacher = _text(training, "teacher_model")
    if teacher is not None:
        yield NamedInput("training.teacher_model", teacher, may_be_elsewhere=True)


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
