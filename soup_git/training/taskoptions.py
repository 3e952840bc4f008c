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


class DistillOptions(BaseModel):
    """Learning what a teacher would have said."""

    model_config = STRICT

    teacher_model: Name | None = None
    """A folder with a model, a hub id, or the folder of an adapter of this workspace."""
    teacher_revision: Name | None = None
    """Branch, tag or commit of a teacher from the hub."""
    distill_divergence: Literal["forward_kl", "reverse_kl", "js"] = "forward_kl"
    """Forward covers all that the teacher may say, reverse stays with what it would most likely
    say, js (Jensen-Shannon) is symmetric."""
    distill_temperature: Annotated[float, Field(ge=0.05, le=100)] = 2.0
    """Both models' logits are divided by it: higher shows more of the unlikely words."""
    distill_ce_weight: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of imitating the row's own answer; the rest is the teacher's."""


class StepOptions(BaseModel):
    """Judging the steps of an answer."""

    model_config = STRICT

    step_separator: Name = "\n"
    """Follows each step; its last token is where the step is judged."""


class EmbeddingOptions(BaseModel):
    """Texts to vectors."""

    model_config = STRICT

    embedding_loss: Literal["contrastive", "symmetric", "triplet", "cosine"] = "contrastive"
    """contrastive: each anchor's positive among all of the batch; symmetric: and each positive's
    anchor; triplet: nearer than the negative by a margin; cosine: 1 to positives, 0 to negatives."""
    embedding_temperature: Positive = 0.05
    """Cosines are divided by it in contrastive and symmetric: lower is stricter."""
    embedding_margin: Positive = 0.5
    """The margin of embedding_loss: triplet, in cosine distance."""
    embedding_pooling: Literal["mean", "cls", "last"] = "mean"
    """A text's vector: the mean of its tokens', its first token's, or its last token's."""
