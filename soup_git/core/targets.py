"""What each pair of LoRA factors adapts: a module's weight, or parameters that PEFT wraps by name.

With `target_parameters` PEFT adapts raw parameters, such as the fused experts of a mixture:
one pair of factors holds a matrix for each expert, along the rank's axis. Several parameters
of one module are nested, the first in the class innermost: `M.base_layer.lora_A`, `M.lora_A`.
Ranks and alphas are then those that `rank_pattern` and `alpha_pattern` give `M.PARAMETER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

from soup_git.core.adapter import AdapterConfig, module_of
from soup_git.errors import FatalError

RANK_AXIS = {"lora_A": 0, "lora_B": 1, "lora_embedding_A": 0, "lora_embedding_B": 1}
_WRAPPED = ".base_layer"
# The order in which transformers' classes of experts define their parameters.
_DEFINED = (
    "gate_proj", "up_proj", "gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias",
    "weight", "bias",
)  # fmt: skip
_MOST_NESTED = 6


class Shaped(Protocol):
    """A tensor, as far as its name and shape go."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Target:
    """What one pair of factors adapts."""

    key: str
    """The name that patterns are matched against: the module's, or MODULE.PARAMETER."""
    rank: int
    alpha: float
    matrices: int = 1
    """That one pair of factors holds: the experts of a fused parameter."""
    parameter: str | None = None
    """None where the whole module is adapted, as by `target_modules`."""


class NoTargetError(FatalError):
    """The config does not say what a module's factors adapt, or contradicts their rank."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the adapter's config says {reason}",
            hint="correct r or rank_pattern in its adapter_config.json, or save it again with PEFT",
        )
        self.reason = reason
        """Goes on after "the config says"."""


def rank_axis(name: str) -> int | None:
    """The axis along which a tensor of this name has the rank; None where it has none."""
    return RANK_AXIS.get(name.removesuffix(".weight").rpartition(".")[2])


def targets_of(config: AdapterConfig, tensors: Iterable[Shaped]) -> dict[str, Target]:
    """Module -> what its factors adapt, for every module that has some.

    Raises `NoTargetError` where rank and pattern of the config do not fit the tensors.
    """
    found: dict[str, int] = {}
    # Block-diagonal factors are stored without what is zero: B has the rank of one block.
    is_blocked = "use_bdlora" in config.options
    for tensor in tensors:
        axis = rank_axis(tensor.name)
        if axis is None or len(tensor.shape) <= axis or (axis == 1 and is_blocked):
            continue
        module, rank = module_of(tensor.name), tensor.shape[axis]
        if found.setdefault(module, rank) != rank:
            ranks = f"{found[module]} and {rank}"
            raise NoTargetError(f"one rank for {module}, but its factors have rank {ranks}")
    return dict(_targets(config, found))


def _targets(config: AdapterConfig, ranks: Mapping[str, int]) -> Iterator[tuple[str, Target]]:
    nests: dict[str, list[str]] = {}
    for module in ranks:
        nests.setdefault(_unwrapped(module), []).append(module)
    for outer, modules in nests.items():
        names = _parameters(config, outer)
        plain = _plain(config, outer)
        dotted = any("." in name for name in config.target_parameters if _names(name, outer))
        if not names or (len(modules) == 1 and not dotted and ranks[outer] == plain.rank):
            # `down_proj` alone, as PEFT writes it for all-linear, says of no module that it is meant.
            for module in modules:
                yield module, _checked(_plain(config, module), module, ranks[module])
            continue
        # The innermost has the most wrappers in its name.
        inwards = sorted(modules, key=lambda name: -name.count(_WRAPPED))
        yield from zip(inwards, _nested(config, outer, inwards, names, ranks), strict=True)


def _plain(config: AdapterConfig, module: str) -> Target:
    rank, alpha = config.rank_of(module), config.alpha_of(module)
    return Target(module, rank or 0, alpha or 0.0)


def _checked(target: Target, module: str, found: int) -> Target:
    if target.rank != found:
        reason = f"rank {target.rank} for {module}, but its weights have rank {found}"
        raise NoTargetError(reason)
    return target


def _unwrapped(module: str) -> str:
    return module.replace(_WRAPPED, "")


def _names(target: str, module: str) -> bool:
    """Whether an entry of `target_parameters` can mean a parameter of `module`."""
    key = f"{module}.{target.rpartition('.')[2]}"
    return key == target or key.endswith(f".{target}")


def _parameters(config: AdapterConfig, module: str) -> list[str]:
    found = {t.rpartition(".")[2] for t in config.target_parameters if _names(t, module)}
    return sorted(found, key=lambda name: (_place(name), name))


def _place(name: str) -> int:
    return _DEFINED.index(name) if name in _DEFINED else len(_DEFINED)


def _nested(
    config: AdapterConfig,
    outer: str,
    modules: Sequence[str],
    names: Sequence[str],
    ranks: Mapping[str, int],
) -> list[Target]:
    """The parameters of one module, innermost first: the order that their ranks allow."""
    found = [
        made
        for order in permutations(names[:_MOST_NESTED], len(modules))
        if (made := _in_order(config, outer, order, [ranks[m] for m in modules]))
    ]
    if not found:
        said = ", ".join(
            f"{config.rank_of(f'{outer}.{name}')} for {outer}.{name}" for name in names
        )
        have = " and ".join(str(ranks[m]) for m in modules)
        raise NoTargetError(f"rank {said}, but its weights have rank {have} in all")
    usual = [made for made in found if _is_usual(made)] or found
    if len({tuple((t.rank, t.alpha) for t in made) for made in usual}) > 1:
        listed = " and ".join(names)
        reason = f"not which of {listed} comes first in {outer}, and their ranks do not tell"
        raise NoTargetError(reason)
    return usual[0]


def _in_order(
    config: AdapterConfig, outer: str, order: Sequence[str], ranks: Sequence[int]
) -> list[Target] | None:
    made = []
    for name, found in zip(order, ranks, strict=True):
        key = f"{outer}.{name}"
        rank, alpha = config.rank_of(key) or 0, config.alpha_of(key) or 0.0
        if rank <= 0 or found <= 0 or found % rank:
            return None
        made.append(Target(key, rank, alpha, found // rank, name))
    # Parameters of one module are of its experts, all of them; a router has its own module.
    return made if len({t.matrices for t in made}) == 1 else None


def _is_usual(made: Sequence[Target]) -> bool:
    places = [_place(t.parameter or "") for t in made]
    return places == sorted(places)
