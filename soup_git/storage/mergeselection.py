"""Which modules a merge leaves out, and which it takes from one input whole.

Heads for other numbers of classes and embeddings of other vocabularies have no sum. They are
left out (`--without GLOB`) or come from one side as they are (`--keep A:GLOB`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from soup_git.core.adapter import module_of
from soup_git.errors import ExitCode, FatalError
from soup_git.storage.mergeinputs import Input
from soup_git.storage.updates import OpenAdapter

_MOST_LISTED = 3


@dataclass(frozen=True)
class Selection:
    """A glob is matched against names of modules, and of tensors that are saved whole."""

    without: tuple[str, ...] = ()
    keep: tuple[tuple[str, str], ...] = ()
    """(md5 of the input's weights, glob)."""

    def __bool__(self) -> bool:
        return bool(self.without or self.keep)


def select(inputs: Sequence[Input], selection: Selection) -> tuple[list[Input], list[str]]:
    """The inputs with what is left of each, and notes that say what is not.

    Raises `FatalError` where a glob matches nothing, two inputs keep one module, or no module
    is left.
    """
    if not selection:
        return list(inputs), []
    names = [_names(i.opened) for i in inputs]
    everything = list(dict.fromkeys(name for of in names for name in of))
    left_out = {n for glob in selection.without for n in _matched(everything, glob, "--without")}
    keeper: dict[str, int] = {}
    for md5, glob in selection.keep:
        at = next(n for n, found in enumerate(inputs) if found.digest == md5)
        option = f"--keep {inputs[at].opened.spec}:"
        for name in _matched(names[at], glob, option):
            if keeper.setdefault(name, at) != at or name in left_out:
                raise _usage(f"{_short(name)} is named by two of --keep and --without")
    found = [_narrowed(one, number, left_out, keeper) for number, one in enumerate(inputs)]
    if not any(one.opened.modules for one in found):
        raise _usage("--without leaves no module to merge")
    notes = [f"left out: {_listed(left_out)}"] if left_out else []
    for number, one in enumerate(inputs):
        mine = [name for name, at in keeper.items() if at == number]
        notes += [f"kept from {one.opened.spec}: {_listed(mine)}"] if mine else []
    return found, notes


def _narrowed(found: Input, number: int, left_out: set[str], keeper: dict[str, int]) -> Input:
    def stays(name: str) -> bool:
        return name not in left_out and keeper.get(name, number) == number

    opened = found.opened
    modules = {name: module for name, module in opened.modules.items() if stays(name)}
    extras = [name for name in opened.extras if stays(name)]
    is_less = len(modules) + len(extras) < len(opened.modules) + len(opened.extras)
    kept = frozenset(name for name, at in keeper.items() if at == number)
    return replace(
        found,
        opened=replace(opened, modules=modules, extras=extras),
        kept=kept,
        is_partial=is_less,
    )


def refuse_other_shapes(inputs: Sequence[Input]) -> None:
    """Raise `FatalError` where modules of one name have other shapes, naming all of them."""
    forms: dict[str, dict[tuple[object, ...], list[Input]]] = {}
    for found in inputs:
        for name in _names(found.opened):
            forms.setdefault(name, {}).setdefault(_form(found.opened, name), []).append(found)
    unfit = [name for name, by_form in forms.items() if len(by_form) > 1]
    if not unfit:
        return
    first, second, *_ = forms[unfit[0]].values()
    one, two = first[0].opened, second[0].opened
    more = f", and {len(unfit) - 1} more like it" if len(unfit) > 1 else ""
    shared = [name for name, by_form in forms.items() if sum(map(len, by_form.values())) > 1]
    globs = _globs(unfit, set(forms) - set(unfit))
    left = " ".join(f"--without {shlex.quote(glob)}" for glob in globs)
    kept = " ".join(f"--keep {shlex.quote(f'{two.spec}:{glob}')}" for glob in globs)
    hint = f"{left} leaves it out; {kept} takes that of {two.spec}"
    if len(unfit) == len(shared):
        hint = "adapters of one base model have the same shapes: git soup show SPEC"
    raise FatalError(
        f"{_short(unfit[0])} is {_shape(one, unfit[0])} in {one.spec} and"
        f" {_shape(two, unfit[0])} in {two.spec}{more}: there is no sum of the two",
        hint=hint,
    )


def _form(opened: OpenAdapter, name: str) -> tuple[object, ...]:
    """The shape without the rank, and the names of the factors."""
    entries = opened.file.entries
    module = opened.modules.get(name)
    if module is None:
        return entries[name].shape
    left, right = entries[module.left].shape, entries[module.right].shape
    return left[0], left[2:], right[1:], module.experts, module.left, module.right


def _shape(opened: OpenAdapter, name: str) -> str:
    entries, module = opened.file.entries, opened.modules.get(name)
    if module is None:
        return "x".join(map(str, entries[name].shape)) or "scalar"
    sizes = (entries[module.left].shape[0], *entries[module.right].shape[1:])
    return "x".join(map(str, sizes)) + (f" times {module.experts}" if module.experts > 1 else "")


def _names(opened: OpenAdapter) -> list[str]:
    """Modules by their names, and what is no factor by its tensor's name."""
    return [*opened.modules, *opened.extras]


def _matched(names: Iterable[str], glob: str, option: str) -> list[str]:
    names = list(names)
    found = [name for name in names if _fits(name, glob)]
    if not found:
        some = _listed(names)
        raise _usage(
            f"{option}{'' if option.endswith(':') else ' '}{glob} matches nothing of {some}"
        )
    return found


def _fits(name: str, glob: str) -> bool:
    return fnmatchcase(module_of(name), glob) or fnmatchcase(_short(name), glob)


def _globs(unfit: Sequence[str], others: Iterable[str]) -> list[str]:
    """Globs that match these names and none of the others."""
    modules = list(dict.fromkeys(module_of(name) for name in unfit))
    leaves = dict.fromkeys(module.rpartition(".")[2] for module in modules)
    short = [f"*.{leaf}" for leaf in leaves]
    others = list(others)
    if len(modules) > len(short) and not any(_fits(o, glob) for o in others for glob in short):
        return short
    return modules


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(map(_short, names))
    more = f" and {len(ordered) - _MOST_LISTED} more" if len(ordered) > _MOST_LISTED else ""
    return ", ".join(ordered[:_MOST_LISTED]) + more


def _usage(what: str) -> FatalError:
    return FatalError(what, hint="git soup show SPEC lists the modules", code=ExitCode.USAGE)
