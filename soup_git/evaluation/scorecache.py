"""Scores that were paid for once: one small file per question, named by all that decides it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.core.prfiles import MAX_SAMPLES, cut_sample
from soup_git.core.text import canonical_json
from soup_git.evaluation.results import TaskResult, result_of
from soup_git.storage.files import bytes_of, write_atomically

DECIDING = (
    "core/answers",
    "core/baseload",
    "data/conversations",
    "data/formats",
    "data/schemas",
    "data/turns",
    "evaluation/attaching",
    "evaluation/harness",
    "evaluation/judge",
    "evaluation/lossrows",
    "evaluation/model",
    "evaluation/ownfiles",
    "evaluation/pyscorer",
    "evaluation/results",
    "evaluation/rows",
    "evaluation/runner",
    "evaluation/scorers",
    "evaluation/statistics",
    "evaluation/toolcalls",
    "training/baseload",
    "training/leftout",
    "training/model",
    "training/prepared",
    "training/quantized",
    "training/templates",
    "training/tokens",
    "training/turnends",
)
"""The modules whose text decides a score: how rows become tokens, how the model is loaded and asked,
how answers are scored. What they are given (a suite's task, base, adapter) is in the question."""
LIBRARIES = ("torch", "transformers", "peft", "trl")
"""Whose versions decide as well; of trl come chat templates."""


@cache
def implementation(package: Path = Path(__file__).parents[1]) -> str:
    """sha256 over the sources that decide a score: another scorer asks another question."""
    sources = (f"{name}.py\0".encode() + (package / f"{name}.py").read_bytes() for name in DECIDING)
    return sha256_hex("".join(map(sha256_hex, sources)).encode())


def versions(*, few_bits: bool = False) -> dict[str, str | None]:
    """What is installed of each, without an import of it; None for nothing.

    With `few_bits` also of what quantizes a base that is loaded in few bits.
    """
    names = (*LIBRARIES, "bitsandbytes") if few_bits else LIBRARIES
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclass(frozen=True)
class ScoreCache:
    """Results by the digest of their question, in `folder`. Losing it costs time, never truth."""

    folder: Path

    def get(self, question: Mapping[str, Any]) -> list[TaskResult] | None:
        data = bytes_of(self._place(question))
        if data is None:
            return None
        try:
            body = json.loads(data)
            # The whole question is in the file: a name alone proves nothing.
            if body["question"] != json.loads(canonical_json(question)):
                return None
            return [result_of(item) for item in body["results"]]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None

    def put(self, question: Mapping[str, Any], results: Sequence[TaskResult]) -> None:
        """Keep results; those with rows that failed are asked for again next time."""
        if any(result.failures for result in results):
            return
        body = {"question": question, "results": [result.body() for result in results]}
        write_atomically(self._place(question), canonical_json(body).encode())

    def keep_answers(self, question: Mapping[str, Any] | None, answers: Sequence[str]) -> None:
        """Keep what was answered, for whoever wants to read it: the first rows, each cut."""
        if question is not None:
            asked = {**question, "answers": True}
            body = {"question": asked, "answers": [cut_sample(a) for a in answers[:MAX_SAMPLES]]}
            write_atomically(self._place(asked), canonical_json(body).encode())

    def answers(self, question: Mapping[str, Any]) -> list[str] | None:
        """What was answered to the first rows; None where nobody asked."""
        asked = {**question, "answers": True}
        data = bytes_of(self._place(asked))
        try:
            body = json.loads(data) if data is not None else {}
            found = (
                body["answers"] if body["question"] == json.loads(canonical_json(asked)) else None
            )
        except (ValueError, LookupError, TypeError, RecursionError):
            return None
        is_sound = isinstance(found, list) and all(isinstance(text, str) for text in found)
        return found if is_sound else None

    def _place(self, question: Mapping[str, Any]) -> Path:
        digest = sha256_hex(canonical_json(question).encode())
        return self.folder / digest[:2] / f"{digest[2:]}.json"
