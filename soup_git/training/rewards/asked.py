"""What a reward is given: a row, and what the model answered to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Asked:
    """One completion. `row` is the converted row, its prompt and every column beside it."""

    place: str
    row: Mapping[str, Any]
    text: str

    @property
    def completion(self) -> Any:
        """As the prompt is written: text, or a list with the assistant's turn."""
        if isinstance(self.row["prompt"], str):
            return self.text
        return [{"role": "assistant", "content": self.text}]


class Reward(Protocol):
    """Gives each completion a finite number; more is better."""

    @property
    def name(self) -> str: ...

    def __call__(self, asked: Sequence[Asked]) -> list[float]: ...
