"""The verbs, arguments and options as frozen values, read from what the command line parses with.

Nothing here is written twice: a verb that `cli` gains is in the manual page, the
reference and every shell's completion after `make docs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from soup_git.core.templates import TEMPLATES

PROGRAM = "git soup"
AS_IT_STANDS = "\b"
"""What click wants above a paragraph whose lines are to stay lines."""


@dataclass(frozen=True)
class Value:
    """What a person types for an option or argument."""

    metavar: str
    """`FILE`, `REV`; for a closed set its words joined by `|`: `table|json`, `K|full`."""
    is_argument: bool = False

    @property
    def choices(self) -> tuple[str, ...]:
        """The words to be typed as they are; one in capitals stands for another."""
        if self.metavar in SETS:
            return SETS[self.metavar]
        words = self.metavar.split("|")
        return tuple(w for w in words if not w.isupper()) if len(words) > 1 else ()

    @property
    def kind(self) -> str:
        """What can stand here: `choices`, one of `KINDS`' values, or `` for free text."""
        if self.choices:
            return "choices"
        word = self.metavar.partition(" ")[0]
        # The name that a verb is about is a branch's; what an option names is its own affair.
        return "branches" if word == "NAME" and self.is_argument else KINDS.get(word, "")


KINDS = {
    "DIR": "folders",
    "FOLDER": "folders",
    "MODEL": "folders",
    "FILE": "files",
    "PATH": "files",
    "SUITE": "files",
    "BRANCH": "branches",
    "REV": "revisions",
    "SPEC": "specs",
    "A": "specs",
    "B": "specs",
    "REMOTE": "remotes",
}
"""Metavar -> what a shell offers there. A metavar that is not here is free text."""


SETS = {"TEMPLATE": tuple(TEMPLATES)}
"""Metavar -> its words, where they are too many for a line."""


@dataclass(frozen=True)
class Option:
    names: tuple[str, ...]
    value: Value | None
    """None for a switch."""
    help: str
    default: str
    """As it is typed; empty when there is none to show."""
    is_repeatable: bool

    @property
    def form(self) -> str:
        return ", ".join(self.names) + (f" {self.value.metavar}" if self.value else "")


@dataclass(frozen=True)
class Argument:
    value: Value
    help: str
    is_required: bool
    is_repeatable: bool

    @property
    def form(self) -> str:
        form = self.value.metavar + ("..." if self.is_repeatable else "")
        return form if self.is_required else f"[{form}]"


@dataclass(frozen=True)
class Verb:
    path: tuple[str, ...]
    """`("lock", "check")`; empty for the program itself."""
    help: str
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    verbs: tuple[Verb, ...]

    @property
    def name(self) -> str:
        return " ".join((PROGRAM, *self.path))

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.help.partition("\n\n")[0].split())

    @property
    def more(self) -> list[str]:
        """The paragraphs after the summary, each on one line; the lines of a list by themselves."""
        parts = self.help.split("\n\n")[1:]
        listed = [p.splitlines()[1:] if p.startswith(AS_IT_STANDS) else [p] for p in parts]
        return [" ".join(line.split()) for lines in listed for line in lines]

    @property
    def synopsis(self) -> str:
        """One line: what must be typed, and what may be."""
        if self.verbs:
            return f"{self.name} VERB ..."
        options = [f"[{_short_form(option)}]" for option in self.options]
        return " ".join([self.name, *options, *(argument.form for argument in self.arguments)])

    def walk(self) -> Iterator[Verb]:
        """This one and all below it, in the order in which they are defined."""
        yield self
        for verb in self.verbs:
            yield from verb.walk()

    @property
    def leaves(self) -> list[Verb]:
        return [verb for verb in self.walk() if not verb.verbs]


HELP = Option(("-h", "--help"), None, "Show this message and exit.", "", is_repeatable=False)


def _short_form(option: Option) -> str:
    form = f"{option.names[0]} {option.value.metavar}" if option.value else option.names[0]
    return f"{form}]..." if option.is_repeatable else form


def read_tree(command: Any, path: tuple[str, ...] = ()) -> Verb:
    """Read click's command (or typer's copy of click's) and all that are below it."""
    context = command.context_class(command, info_name=" ".join((PROGRAM, *path)))
    parameters = [p for p in command.params if not getattr(p, "hidden", False)]
    verbs = tuple(
        read_tree(below, (*path, name))
        for name, below in getattr(command, "commands", {}).items()
        if not below.hidden
    )
    options = tuple(_option(p, context) for p in parameters if p.param_type_name == "option")
    if verbs and any(option.value for option in options):
        # Completion finds the verb as the first word that is no option.
        raise ValueError(f"{PROGRAM} {' '.join(path)}: only a last verb's options may take values")
    return Verb(
        path,
        inspect.cleandoc(command.help or ""),
        tuple(_argument(p, context) for p in parameters if p.param_type_name == "argument"),
        options,
        verbs,
    )


def _option(parameter: Any, context: Any) -> Option:
    value = None if parameter.is_flag else _value(parameter, context)
    default = parameter.default
    shown = ""
    if value is not None and default not in (None, "", (), []) and not callable(default):
        shown = str(default.value if isinstance(default, Enum) else default)
    return Option(
        (*parameter.opts, *parameter.secondary_opts),
        value,
        _sentence(parameter.help),
        shown,
        is_repeatable=bool(parameter.multiple),
    )


def _argument(parameter: Any, context: Any) -> Argument:
    return Argument(
        _value(parameter, context),
        _sentence(getattr(parameter, "help", None)),
        is_required=bool(parameter.required),
        is_repeatable=parameter.nargs == -1,
    )


def _value(parameter: Any, context: Any) -> Value:
    form: str = parameter.metavar or parameter.make_metavar(context)
    is_argument = parameter.param_type_name == "argument"
    form = form.strip("<>[]{}")
    return Value(form.removesuffix("...") if is_argument else form, is_argument)


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())
