"""What becomes of a key of another trainer's config, as data: the kinds of rule."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soup_git.migration.draft import Draft, Reading

OFF: tuple[Any, ...] = (None, False, "", [], {})
"""Values that switch an option off: nothing is lost with them. 0 is one too (0 == False)."""


class CannotCarryError(ValueError):
    """A value has no counterpart: the sentence that says why, and what to do instead."""


class _Unset:
    """What a conversion returns for a value that means the option was not given."""


UNSET = _Unset()


class Code(str):
    """An expression of a script where a value should be: its text, never run."""

    __slots__ = ()


@dataclass(frozen=True)
class Rule:
    """One key: where it goes, or why it goes nowhere.

    `matters` says whether training would be another one without it. `together` marks keys
    that a tool's `decide` reads: the walk over the file leaves them alone.
    """

    to: str = ""
    how: Callable[[Any], Any] | None = None
    why: str = ""
    matters: bool = True
    off: tuple[Any, ...] = OFF
    together: bool = False


def to(key: str, how: Callable[[Any], Any] | None = None, *, matters: bool = True) -> Rule:
    """The value is `key` of soup.yaml, after `how` where the two write it differently."""
    return Rule(to=key, how=how, matters=matters)


def lost(why: str, *off: Any) -> Rule:
    """No counterpart, and it changes training unless its value switches it off."""
    return Rule(why=why, off=(*OFF, *off))


def cosmetic(why: str) -> Rule:
    """No counterpart, and training is the same without it."""
    return Rule(why=why, matters=False)


TOGETHER = Rule(together=True)


@dataclass(frozen=True)
class Tool:
    """A trainer whose configs are read: its keys, its defaults, how its files are recognised."""

    name: str
    title: str
    documentation: str
    """Where the keys are described; the tables follow what stood there in August 2026."""
    keys: Mapping[str, Rule]
    """Dotted key -> rule; a key that ends in * stands for all that start so."""
    marks: frozenset[str]
    """Top-level keys that only this tool's configs have."""
    defaults: Callable[[str], Mapping[str, Any]]
    """Task -> key of soup.yaml -> what the tool does where its config says nothing."""
    decide: Callable[[Reading, Draft], None]
    """Carries what several keys say together; runs before the walk, so that the task is known."""
    fallback: Callable[[str], Rule | None] = lambda _key: None
    """A rule for keys that no table has: options that the tool hands on by their own names."""
    notes: tuple[str, ...] = ()
    """Standing differences that no key of a config names."""

    def rule(self, key: str) -> Rule | None:
        found = self.keys.get(key)
        if found is None:
            stars = [k for k in self.keys if k.endswith("*") and key.startswith(k[:-1])]
            found = self.keys[max(stars, key=len)] if stars else self.fallback(key)
        return found

    def has_below(self, key: str) -> bool:
        return any(known.startswith(f"{key}.") for known in self.keys)


def under(section: str, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """The same rules for keys inside a block."""
    return {f"{section}.{key}": replace(rule) for key, rule in rules.items()}


# -- conversions that several tools need ------------------------------------------------------


def number(value: Any) -> Any:
    """`"1e-4"`, which YAML 1.1 and JSON may hold as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise CannotCarryError(f"{value!r} is not a number") from None
    return value


def positive(value: Any) -> Any:
    """Counts for which 0 and -1 mean "not set"."""
    value = number(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value <= 0:
        return UNSET
    return value


def above_zero(value: Any) -> Any:
    """Numbers for which 0 means "off"."""
    value = number(value)
    return UNSET if isinstance(value, int | float) and not value else value


def whole(value: Any) -> Any:
    """`16.0` for 16."""
    value = number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def steps(value: Any) -> Any:
    """Steps between two things; a share of the run, or none, is left to the default."""
    value = positive(value)
    return UNSET if isinstance(value, float) and value < 1 else value


def opposite(value: Any) -> Any:
    return not value if isinstance(value, bool) else value


def names(value: Any) -> Any:
    """Module names; `a,b` as text for a list, and the words for every linear layer."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if parts in (["all"], ["all-linear"], ["all_linear"]):
            return "all-linear"
        return parts if len(parts) > 1 or value.strip().isidentifier() else value
    if isinstance(value, list | tuple):
        return list(value)
    return value


def split_share(value: Any) -> Any:
    """The share of rows held out."""
    value = number(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1:
        raise CannotCarryError(
            f"{value:g} rows are held out there, a share here: data.val_split, or the rows in a"
            " file of their own under data.validation"
        )
    return value


def table(choices: Mapping[Any, Any], why: str) -> Callable[[Any], Any]:
    """A conversion by a table; `why` says what to do about a value that is not in it."""

    def convert(value: Any) -> Any:
        if isinstance(value, str | int | float | bool) and value in choices:
            return choices[value]
        raise CannotCarryError(why)

    return convert


def merged(*tables: Mapping[str, Rule]) -> dict[str, Rule]:
    return {key: rule for rules in tables for key, rule in copy.copy(rules).items()}


@dataclass(frozen=True)
class Lost:
    """One line of the list of what was not carried over."""

    place: str
    """`FILE:LINE`."""
    key: str
    why: str
    changes_training: bool


@dataclass(frozen=True)
class Carried:
    """One line of the soup.yaml that comes out; `key` and `place` are empty for a default."""

    to: str
    value: Any
    key: str = ""
    place: str = ""
    matters: bool = field(default=True, repr=False)
