"""Whether every name in `training.lora` reaches something: PEFT is content when any does.

`before` looks at the base, which says what is a typing error; `after` at the attached adapter,
which says what was named in vain.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from soup_git.training.lora import surgery
from soup_git.training.schema import SoupConfig

# PEFT's own way to find a layer's number in a module's name: the first number, not an expert's.
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")


def before(model: Any, config: SoupConfig) -> None:
    """Every name and pattern means a module, or a parameter, of the base."""
    lora = config.training.lora
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for key in ("target_modules", "exclude_modules", "modules_to_save", "target_parameters"):
        given, kind = getattr(lora, key), "module"
        names = modules
        if key == "target_parameters":
            names, kind = parameters, "parameter"
        for wanted in given if isinstance(given, list) else ():
            if not any(name == wanted or name.endswith(f".{wanted}") for name in names):
                raise config.refuse(
                    f"training.lora.{key}", f"{wanted} matches no {kind} of {config.base}"
                )
        if isinstance(given, str) and given.lower() not in {"all-linear", "auto"}:
            _check_expression(key, given, modules, config)
    _check_patterns([*modules, *parameters], config)
    if lora.init == "olora" and any(type(m).__name__ == "Conv1D" for m in model.modules()):
        key = "use_olora" if lora.use_olora else "init_strategy"
        raise config.refuse(
            f"training.lora.{key}",
            f"{config.base} keeps its weights transposed (Conv1D), which PEFT's olora does not "
            "know; pissa and corda do",
        )


def _check_patterns(names: list[str], config: SoupConfig) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config.training.lora, key):
            where = f"training.lora.{key}.{pattern}"
            try:
                matched = _won([pattern], names)
            except re.error as error:
                raise config.refuse(where, f"not a regular expression: {error}") from None
            if not matched:
                raise config.refuse(where, f"matches no module of {config.base}")


def _check_expression(key: str, given: str, modules: list[str], config: SoupConfig) -> None:
    where = f"training.lora.{key}"
    try:
        found = any(re.fullmatch(given, name) for name in modules)
    except re.error as error:
        raise config.refuse(where, f"not a regular expression: {error}") from None
    if not found:
        raise config.refuse(
            where,
            f"{given} is a regular expression for whole names (model.layers.0.…), and matches no "
            f"module of {config.base}",
            hint=rf"as a list, [{given}], it means the ends of names; so does '.*\.{given}'",
        )


@contextlib.contextmanager
def instead_of_peft() -> Iterator[None]:
    """Without PEFT's warnings of what is no problem: patterns that match none of its modules
    (it forgets that experts are parameters; `after` refuses those that match neither), and
    transposed weights, which it sees by itself. Its warning that nothing is tied is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*_pattern keys did not match any targeted mod")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        warnings.filterwarnings("error", message="You have requested `ensure_weight_tying`")
        yield


def after(peft_model: Any, config: SoupConfig) -> None:
    """Every name and pattern has a say in the adapter that PEFT made."""
    lora, tuner = config.training.lora, peft_model.base_model
    parameters = list(tuner.targeted_parameter_names)
    adapted = [*tuner.targeted_module_names, *parameters]
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = list(getattr(lora, key))
        won = _won(patterns, adapted)
        for pattern in (p for p in patterns if p not in won):
            why = (
                "an earlier pattern means the same modules, and the first one counts"
                if _won([pattern], adapted)
                else "no module that it matches gets an adapter"
            )
            raise config.refuse(f"training.lora.{key}.{pattern}", why)
    _check_targets(adapted, config)
    _check_layers(adapted, parameters, config)
    _check_ranks(peft_model, config)
    for name in parameters:
        # What PEFT makes of the experts' old names, all-linear among them, knows no exceptions.
        if surgery.named(name.rpartition(".")[0], lora.exclude_modules):
            raise config.refuse(
                "training.lora.exclude_modules",
                f"PEFT adapts {name} whatever is excluded",
                hint="name the other modules in lora.target_modules",
            )
    head = peft_model.get_base_model().get_output_embeddings()
    if "trainable_token_indices" in lora.peft and type(head).__name__ == "TrainableTokensWrapper":
        raise config.refuse(
            "training.lora.peft.trainable_token_indices",
            f"{config.base} answers with its input embeddings (tied), and TRL multiplies with "
            "these weights itself, so the trained tokens would be ignored",
            hint="lora.modules_to_save: [embed_tokens] trains them all",
        )


def _check_targets(adapted: list[str], config: SoupConfig) -> None:
    lora = config.training.lora
    # Without an adapter is what exclude_modules says.
    targets = lora.target_modules if lora.exclude_modules is None else None
    # q_proj may be q_proj.linear (a layer inside a wrapper), or gate.weight (a raw parameter).
    reached = [*adapted, *(name.rpartition(".")[0] for name in adapted)]
    for wanted in targets if isinstance(targets, list) else ():
        if not any(surgery.named(name, [wanted]) for name in reached):
            raise config.refuse(
                "training.lora.target_modules",
                f"{wanted} gets no adapter: modules_to_save means it too, and trains all of it",
            )


def _check_ranks(peft_model: Any, config: SoupConfig) -> None:
    """An init that takes its factors from W has no more of them than W's smaller side: what is
    saved would have another rank there than adapter_config.json says."""
    if not config.training.lora.mutates_base:
        return
    for name, module in peft_model.named_modules():
        for factor in getattr(module, "lora_A", {}).values():
            rank, asked = int(factor.weight.shape[0]), int(module.r["default"])
            if rank < asked:
                plain = name.removeprefix("base_model.model.")
                raise config.refuse(
                    "training.lora.r",
                    f"{asked} is more than {config.training.lora.init} finds in {plain}: {rank}",
                    hint=f"r: {rank}, or rank_pattern: {{{plain.rpartition('.')[2]}: {rank}}}",
                )


def _check_layers(adapted: list[str], parameters: list[str], config: SoupConfig) -> None:
    wanted = config.training.lora.layers_to_transform
    if wanted is None:
        return
    where, layers = "training.lora.layers_to_transform", set(_layers(adapted))
    indices = {wanted} if isinstance(wanted, int) else set(wanted)
    if not indices:
        raise config.refuse(where, "names no layer; leave it out for all of them")
    if missing := indices - layers:
        raise config.refuse(
            where, f"{config.base} has no layer {min(missing)} with such modules; the first is 0"
        )
    if others := set(_layers(parameters)) - indices:
        raise config.refuse(
            where, f"PEFT adapts {parameters[0]} in every layer, {min(others)} among them"
        )


def _layers(names: Iterable[str]) -> Iterator[int]:
    for name in names:
        if found := _LAYER.match(name):
            yield int(found[1])


def _won(patterns: list[str], names: Iterable[str]) -> set[str]:
    """The patterns that are the first to match a name: PEFT's rule for which one counts."""
    firsts = (
        next((p for p in patterns if re.match(rf"(.*\.)?({p})$", name)), None) for name in names
    )
    return {pattern for pattern in firsts if pattern is not None}
