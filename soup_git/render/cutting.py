"""A page that fits: parts are shortened by importance until it does, and what went is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of a page, from its whole text to the shortest that will do.

    `weight`: the lighter goes first. `name`: what was cut, for the note; in the page's language.
    """

    name: str
    weight: int
    versions: Sequence[str]


def fitted(parts: Sequence[Part], limit: int, note: Callable[[Sequence[str]], str]) -> str:
    """The parts in order and a note of what was cut, at most `limit` bytes of UTF-8.

    The lightest part is shortened, version by version, before the next one is touched. What
    has one version only stays, so the limit holds as long as those alone keep to it.
    """
    chosen = [0] * len(parts)
    sizes = [[len(version.encode()) for version in part.versions] for part in parts]

    def cut() -> list[str]:
        return list(dict.fromkeys(p.name for p, at in zip(parts, chosen, strict=True) if at))

    def fits() -> bool:
        total = sum(size[at] for size, at in zip(sizes, chosen, strict=True))
        return total + len(note(cut()).encode()) <= limit

    for number in sorted(range(len(parts)), key=lambda n: (parts[n].weight, -n)):
        while not fits() and chosen[number] + 1 < len(parts[number].versions):
            chosen[number] += 1
    texts = [part.versions[at] for part, at in zip(parts, chosen, strict=True)]
    return "".join(texts) + note(cut())
