"""The teacher of task distill: found, read, and compared with the student."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup_git.core.yamllines import Where
from soup_git.errors import FatalError
from soup_git.training import adapter, model
from soup_git.training.methods.files import inside, sha256
from soup_git.training.methods.ready import for_batches
from soup_git.training.prepared import Example, Reading
from soup_git.training.schema import SoupConfig
from soup_git.training.tasks import HEADS

_KEY = "training.teacher_model"


@dataclass(frozen=True)
class Teacher:
    """What `model.locate` and its neighbours are told: they blame keys of a base."""

    config: SoupConfig
    base: str
    revision: str | None
    adapter: Path | None
    """The folder of an adapter on that base."""

    @property
    def trust_remote_code(self) -> bool:
        return self.config.trust_remote_code

    def refuse(self, key: str, what: str, *, hint: str = "") -> FatalError:
        ours = "training.teacher_revision" if key == "revision" else _KEY
        return self.config.refuse(ours, what, hint=hint)


def named(config: SoupConfig, root: Path) -> Teacher:
    """Whom `teacher_model` names. Raises FatalError for an adapter that says nothing."""
    name, revision = str(config.training.teacher_model), config.training.teacher_revision
    settings_of = root / name / adapter.CONFIG
    if not settings_of.is_file() or (root / name / "config.json").is_file():
        return Teacher(config, name, revision, None)
    folder = inside(config, _KEY, root, name)
    if revision is not None:
        key = "training.teacher_revision"
        raise config.refuse(key, f"{name} is an adapter, which says its base's revision itself")
    try:
        settings = json.loads(settings_of.read_bytes())
        base, kind = settings["base_model_name_or_path"], settings["task_type"]
    except (ValueError, KeyError, TypeError, RecursionError):
        what = f"{name}/{adapter.CONFIG} does not say its base and its task"
        raise config.refuse(_KEY, what) from None
    if kind != HEADS["words"].task_type or not isinstance(base, str):
        raise config.refuse(_KEY, f"{name} was not trained to answer in words")
    if not (folder / adapter.WEIGHTS).is_file():
        what = f"{name} has no {adapter.WEIGHTS}"
        raise config.refuse(_KEY, what, hint="git soup checkout restores it")
    return Teacher(config, base, settings.get("revision"), folder)


def check(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """What a teacher that is none of the workspace's can be."""
    where: Where = ("training", "teacher_revision")
    if where in given and config.training.teacher_model is None:
        yield where, "is for teacher_model"


def inputs(config: SoupConfig, root: Path) -> dict[str, str]:
    """sha256 of the teacher's weights, where they are files here."""
    teacher = named(config, root)
    base = model.locate(teacher, root)
    files = sorted(Path(base.source).glob("*.safetensors")) if base.local else []
    found = {f"{teacher.base}/{file.name}": sha256(file) for file in files}
    if teacher.adapter is not None:
        found[str(config.training.teacher_model)] = sha256(teacher.adapter / adapter.WEIGHTS)
    return found


def equip(student: Any, reading: Reading, _examples: Sequence[Example]) -> dict[str, Any]:
    """The teacher, frozen, in the student's precision; and what batches rows.

    Raises FatalError when it does not read the student's tokens.
    """
    from soup_git.training.methods.batches import TokenBatches

    teacher = named(reading.config, reading.root)
    base = model.locate(teacher, reading.root)
    if model.load_tokenizer(base, teacher).get_vocab() != reading.tokenizer.get_vocab():
        raise teacher.refuse(
            "base",
            f"{teacher.base} reads other tokens than {reading.config.base}",
            hint="a teacher of the same family: its probabilities are for its own tokens",
        )
    dtype = str(student.dtype).removeprefix("torch.")
    weights = model.load_weights(base, teacher, dtype=dtype)
    if teacher.adapter is not None:
        from peft import PeftModel

        weights = PeftModel.from_pretrained(weights, str(teacher.adapter))
    weights.config.use_cache = False
    return {
        "teacher": weights.eval().requires_grad_(False),
        "data_collator": TokenBatches(for_batches(student, reading)),
    }
