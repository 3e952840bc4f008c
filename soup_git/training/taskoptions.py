"""Options of `training` that belong to some tasks only: one block per family of tasks.

The names are the original tool's. Which task honours which is said by its row in tasks.py;
given to another task, an option is an error. None means that upstream's default holds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from soup_git.training.tasks import MIXED_LOSSES, PREFERENCE_LOSSES

# What every block of `soup.yaml` has in common: nothing unknown, nothing converted.
STRICT = ConfigDict(
    extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
)
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]


class PreferenceOptions(BaseModel):
    """Learning from answers that were compared or judged."""

    model_config = STRICT

    dpo_beta: Positive | None = None
    """How hard DPO holds on to the base: higher moves less (TRL: 0.1)."""
    dpo_beta_schedule: Literal["linear", "cosine", "exponential"] | None = None
    """How beta goes from its value at the start to dpo_beta_end."""
    dpo_beta_end: Positive | None = None
    """Beta at the last step, for dpo_beta_schedule."""
    ipo_tau: Positive | None = None
    """IPO's regularisation (TRL: 0.1)."""
    bco_beta: Positive | None = None
    """BCO's beta (TRL: 0.1)."""
    kto_beta: Positive | None = None
    """KTO's beta (TRL: 0.1)."""
    orpo_beta: Positive | None = None
    """Weight of ORPO's odds ratio beside imitation of the chosen answer (TRL: 0.1)."""
    simpo_gamma: NotNegative | None = None
    """The margin that SimPO wants between chosen and rejected (TRL: 0.5)."""
    cpo_alpha: NotNegative | None = None
    """Weight of imitation beside CPO's comparison (TRL: 1.0), and beside SimPO's (0)."""
    preference_loss: Literal[tuple(PREFERENCE_LOSSES)] | None = None  # type: ignore[valid-type]
    """The loss of task preference: a task's name (dpo, ipo, bco, orpo, cpo, simpo), or TRL's."""
    preference_loss_weights: (
        Annotated[
            dict[Literal[tuple(MIXED_LOSSES)], Positive],  # type: ignore[valid-type]
            Field(min_length=2, max_length=5),
        ]
        | None
    ) = None
    """Several losses at once, each with its weight; dpo_beta is the beta of all."""


class LabelOptions(BaseModel):
    """Labelling and scoring texts."""

    model_config = STRICT

    num_labels: Annotated[int, Field(ge=1, le=1024)] | None = None
    """How many labels there are; what label_names has, where that is given."""
    classifier_kind: Literal["single_label", "multi_label", "regression"] | None = None
    """One label per text, several, or numbers to predict."""
    label_names: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(min_length=1, max_length=1024),
        ]
        | None
    ) = None
    """The labels by name, in the order of the model's outputs."""


class RewardOptions(BaseModel):
    """Learning from rewards for answers that the model gives by itself."""

    model_config = STRICT

    reward_fn: Name | Annotated[list[Name], Field(min_length=1, max_length=8)] | None = None
    """accuracy, format, verifiable, or a Python file of the workspace; several are added up."""
    reward_model: Name | None = None
    """Folder of an adapter of this workspace that task reward_model trained on the same base."""
    verifiable_domain: Literal["math", "code", "json_schema"] | None = None
    """What reward_fn: verifiable verifies."""
    reward_timeout: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """Seconds that a Python file may take for the answers of one batch."""
    num_generations: Annotated[int, Field(ge=2)] | None = None
    """Answers to each prompt that are compared (TRL: 8 for grpo, 2 for rloo)."""
    grpo_beta: NotNegative | None = None
    """How hard GRPO holds on to the base (TRL: 0, not at all)."""
    grpo_variant: (
        Literal[
            "standard", "dapo", "dr_grpo", "bnpo", "gspo", "two_sided", "cispo", "sapo", "luspo",
            "vespo",
        ]
        | None
    ) = None  # fmt: skip
    """GRPO as in its paper (standard), or a later one (TRL: dapo)."""
    grpo_delta: Positive | None = None
    """The upper bound of grpo_variant: two_sided."""
