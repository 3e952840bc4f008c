"""Sets of modules in few words: `layers.20–27.mlp.*` for 24 names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

_LAYER = re.compile(r"(?P<before>(?:.*?\.)?)(?P<layer>\d+)\.(?P<after>.+)")


def grouped(modules: Collection[str], everything: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(pattern, the modules it stands for), each module of `modules` once.

    A `*` for layers means every layer of `everything` that has such a module, one for a
    module's parts every part there; nothing else is written as `*`. In the order of
    `everything`.
    """
    order = {name: place for place, name in enumerate(everything)}
    by_kind = _by_kind(modules)
    whole = _by_kind(everything)
    alike: dict[tuple[str, frozenset[str]], list[str]] = {}
    for (before, after), layers in by_kind.items():
        all_of_it = len(layers) == len(whole[before, after]) > 1
        key = frozenset({"*"}) if all_of_it else frozenset(layers)
        alike.setdefault((before, key), []).append(after)
    found = []
    for (before, numbers), afters in alike.items():
        known = [after for other, after in whole if other == before]
        for pattern, covered in _parts(afters, known):
            names = [f"{before}{n}.{a}" for a in covered for n in by_kind[before, a]]
            found.append((f"{before}{_ranges(numbers)}.{pattern}", names))
    plain = [name for name in modules if _LAYER.fullmatch(name) is None]
    found += [(name, [name]) for name in plain]
    return sorted(found, key=lambda group: min(order[name] for name in group[1]))


def _by_kind(modules: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """(what stands before the layer's number, what after) -> the numbers."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in modules:
        match = _LAYER.fullmatch(name)
        if match:
            found.setdefault((match["before"], match["after"]), []).append(match["layer"])
    return found


def _parts(afters: Sequence[str], known: Sequence[str]) -> list[tuple[str, list[str]]]:
    """`*` for all parts of a layer, `mlp.*` for all of one block, else the parts themselves."""
    if len(afters) == len(known) > 1:
        return [("*", list(afters))]
    found = []
    for head in dict.fromkeys(after.partition(".")[0] for after in afters):
        mine, theirs = ([a for a in group if _is_of(a, head)] for group in (afters, known))
        if len(mine) == len(theirs) > 1:
            found.append((f"{head}.*", mine))
        else:
            found += [(after, [after]) for after in mine]
    return found


def _is_of(after: str, head: str) -> bool:
    return after.partition(".")[0] == head


def _ranges(layers: Collection[str]) -> str:
    """`3`, `20–27`, `0–3,8`; `*` as it is."""
    if "*" in layers:
        return "*"
    numbers = sorted(map(int, layers))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
