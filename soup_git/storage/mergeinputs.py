"""What is merged, and how: adapters with their weights, a recipe, and which of them do not go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soup_git.arithmetic.elementwise import Settings
from soup_git.arithmetic.strategies import Linear, Strategy
from soup_git.core.adapter import CONVERT, INIT, moves_base
from soup_git.core.groups import GroupWeights
from soup_git.core.kinds import KINDS, NO_PRODUCT
from soup_git.errors import FatalError
from soup_git.storage.updates import Module, OpenAdapter

# Keys of a LoraConfig that change what the factors mean: merged only where all agree.
_MUST_AGREE = (
    "task_type", "bias", "fan_in_fan_out", "layer_replication", "trainable_token_indices", "alora_invocation_tokens", "megatron_config", "use_qalora",
    "qalora_group_size", "velora_config",
)  # fmt: skip


@dataclass(frozen=True)
class Input:
    opened: OpenAdapter
    weight: float
    groups: GroupWeights | None = None
    """Where modules are weighed by group; `weight` is then their mean, for people."""
    kept: frozenset[str] = frozenset()
    """Modules, and tensors saved whole, that the result takes from this input alone."""
    is_partial: bool = False
    """Something of the adapter is left out."""

    def inside(self, module: str) -> Input:
        """This input as one module, or a tensor of that name, sees it."""
        if module in self.kept:
            return Input(self.opened, 1.0)
        if self.groups is None:
            return self
        return Input(self.opened, self.groups.of(module))

    @property
    def digest(self) -> str:
        return self.opened.adapter.manifest.weights_md5


@dataclass(frozen=True)
class Recipe:
    """How to merge: everything besides the inputs that the result depends on."""

    name: str
    strategy: Strategy
    settings: Settings
    space: str
    rank: int | None
    """None: exact where the strategy is, else the largest input rank of each module."""

    @property
    def is_exact(self) -> bool:
        method = self.strategy.method
        return (
            isinstance(method, Linear)
            and method.exact
            and self.rank is None
            and self.space != "factors"
        )


def is_copy(inputs: Sequence[Input], recipe: Recipe) -> bool:
    """One adapter, weight 1, nothing to approximate: the bytes are the answer, of any method."""
    linear = isinstance(recipe.strategy.method, Linear) and recipe.space == "exact"
    single = [i.weight for i in inputs] == [1.0] and inputs[0].groups is None
    if any(i.is_partial for i in inputs):
        return False
    return linear and recipe.rank is None and single


def is_plain(inputs: Sequence[Input]) -> bool:
    """Whether the adapters are factors and nothing else, one matrix to a module."""
    return all(
        not i.opened.extras
        and all(
            m.experts == 1 and not m.bias and not m.magnitude for m in i.opened.modules.values()
        )
        for i in inputs
    )


def rank_of(found: Input, module: Module) -> int:
    return found.opened.file.entries[module.right].shape[0] // module.experts


def refuse_what_cannot_merge(inputs: Sequence[Input]) -> None:
    """Raise `FatalError` for adapters whose factors are no update of the base, or not alike."""
    for found in inputs:
        opened = found.opened
        kind = KINDS.get(opened.adapter.config.peft_type)
        if kind is None or not kind.is_combined:
            raise FatalError(
                f"{opened.spec} is {opened.adapter.config.peft_type}; only LoRA adapters are merged",
                hint="git soup diff compares any two; merge_and_unload in PEFT merges one into its base",
            )
        uses = opened.adapter.config.not_summed
        if uses is not None:
            raise FatalError(
                f"{opened.spec} uses {uses} and is not merged: {NO_PRODUCT[uses]}",
                hint="merge_and_unload in PEFT merges one adapter into its base",
            )
        if not opened.modules:
            raise FatalError(
                f"{opened.spec} holds no LoRA factors", hint=f"git soup show {opened.spec}"
            )
        init = opened.settings.get(INIT)
        if moves_base(init):
            raise FatalError(
                f"{opened.spec} was initialised with {init!r}, which changes the base too: its"
                " factors are not its update of the base",
                hint=CONVERT,
            )
    _refuse_disagreement(inputs)


def _value(opened: OpenAdapter, key: str) -> object:
    if key == "target_parameters":
        return opened.adapter.config.target_parameters
    return opened.settings.get(key)


def _refuse_disagreement(inputs: Sequence[Input]) -> None:
    first = inputs[0].opened
    for found in inputs[1:]:
        unknown = {*first.adapter.config.unknown, *found.opened.adapter.config.unknown}
        for key in (*_MUST_AGREE, "target_parameters", *sorted(unknown)):
            one, two = _value(first, key), _value(found.opened, key)
            if (one or None) != (two or None):
                raise FatalError(
                    f"{first.spec} and {found.opened.spec} differ in {key}: {one!r} and {two!r}",
                    hint="adapters of one kind can be merged: git soup show SPEC",
                )
    if len(inputs) > 1 and not set.intersection(*[set(i.opened.modules) for i in inputs]):
        raise FatalError(
            "the adapters have no module in common: their merge would only stack them",
            hint="git soup diff A B lists the modules of each",
        )
