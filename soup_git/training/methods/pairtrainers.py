"""TRL's trainers of compared answers, given tokens and the base as the reference.

Imported late: it loads TRL.
"""

from __future__ import annotations

from typing import Any

import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from soup_git.training.loop import Run
from soup_git.training.methods import pairs


class Tokenized:
    """Goes in front of a trainer that would tokenize its dataset: it is tokens already."""

    def _prepare_dataset(self, dataset: Any, *_args: Any, **_kwargs: Any) -> Any:
        return dataset


class FromBase:
    """Goes in front of a trainer that compares with a reference: it is the untouched base.

    TRL takes the adapter as it is at the start for the reference and keeps a copy of it,
    which computes nothing but the base: an init that moves the base is refused at load.
    """

    def __init__(self, *args: Any, model: Any, **kwargs: Any) -> None:
        super().__init__(*args, model=model, **kwargs)  # type: ignore[call-arg]
        if "ref" in model.peft_config:
            model.delete_adapter("ref")


class DPO(FromBase, Tokenized, trl.DPOTrainer):  # type: ignore[misc]
    """With a beta that can change as training goes."""

    soup: Run
    beta: float
    _first_beta: float | None = None

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if self._first_beta is None:
            self._first_beta = self.beta
        self.beta = pairs.scheduled(
            self.soup.config, self._first_beta, self.state.global_step, self.state.max_steps
        )
        return super().training_step(*args, **kwargs)


class KTO(FromBase, Tokenized, trl.KTOTrainer):  # type: ignore[misc]
    """Answers judged one by one."""


class TokenizedRows:
    """Goes in front of a trainer that tokenizes row by row."""

    def __init__(self, *args: Any, processing_class: Any, **kwargs: Any) -> None:
        if processing_class.pad_token is None:
            processing_class.pad_token = processing_class.eos_token
        super().__init__(*args, processing_class=processing_class, **kwargs)  # type: ignore[call-arg]

    def tokenize_row(self, feature: dict[str, Any]) -> dict[str, Any]:
        return feature


class ORPO(TokenizedRows, ORPOTrainer):  # type: ignore[misc]
    """Imitation and odds ratio in one."""


class CPO(TokenizedRows, CPOTrainer):  # type: ignore[misc]
    """CPO and SimPO."""
