"""The manual page, in man(7) macros: what `git soup --help` shows."""

from __future__ import annotations

from collections.abc import Iterable

import soup_git
from soup_git.manual.commandtree import HELP, Option, Verb
from soup_git.manual.words import (
    DESCRIPTION,
    EXAMPLES,
    EXIT_STATUS,
    FILES,
    PURPOSE,
    SEE_ALSO,
)


def manual_page(tree: Verb) -> str:
    # No date: the page is made again by anyone, any day, with the same bytes.
    lines = [f'.TH GIT\\-SOUP 1 "" "git\\-soup {roff(soup_git.__version__)}" "git\\-soup manual"']
    lines += [".nh", ".ad l"]
    lines += [".SH NAME", f"git\\-soup \\- {roff(PURPOSE)}"]
    lines += [".SH SYNOPSIS", ".nf"]
    lines += [f"{_bold(tree.name)} [\\-\\-version] [\\-h]"]
    lines += [f"{_bold(verb.name)}{roff(_rest(verb))}" for verb in tree.leaves]
    lines += [".fi", ".SH DESCRIPTION", *_paragraphs(DESCRIPTION.split("\n\n"))]
    lines += [".SH OPTIONS", *_options((*tree.options, HELP))]
    lines += [".SH COMMANDS"]
    for verb in tree.walk():
        if verb is not tree:
            lines += _verb(verb)
    lines += [".SH EXIT STATUS"]
    for code, meaning in EXIT_STATUS.items():
        lines += [".TP", _bold(str(int(code))), _text(meaning)]
    lines += [".SH FILES"]
    for path, meaning in FILES.items():
        lines += [".TP", _text_in("I", path), _text(meaning)]
    lines += [".SH EXAMPLES"]
    for what, commands in EXAMPLES:
        lines += [".PP", _text(f"{what}:"), ".PP", ".RS 4", ".nf", *map(_text, commands)]
        lines += [".fi", ".RE"]
    names = [page.removesuffix(")").split("(") for page in SEE_ALSO]
    lines += [".SH SEE ALSO", ",\n".join(f"\\fB{roff(name)}\\fR({section})" for name, section in names)]  # fmt: skip
    return "\n".join(lines) + "\n"


def _rest(verb: Verb) -> str:
    """Options are named with their verb below; here only what must be typed, to stay readable."""
    words = [" [OPTION]..."] if verb.options else [""]
    return " ".join(words + [argument.form for argument in verb.arguments])


def _verb(verb: Verb) -> list[str]:
    lines = [f".SS {roff(_quoted(verb.name))}"]
    if not verb.verbs:
        lines += [".PP", _bold(verb.name) + roff(verb.synopsis.removeprefix(verb.name))]
    lines += _paragraphs([verb.summary, *verb.more])
    for argument in verb.arguments:
        if argument.help:
            lines += [".TP", _text_in("I", argument.form), _text(argument.help)]
    return lines + _options(verb.options)


def _quoted(text: str) -> str:
    return f'"{text}"'


def _options(options: Iterable[Option]) -> list[str]:
    lines = []
    for option in options:
        names = ", ".join(_bold(name) for name in option.names)
        value = f" \\fI{roff(option.value.metavar)}\\fR" if option.value else ""
        shown = f" Default: {option.default}." if option.default else ""
        lines += [".TP", names + value, _text(option.help + shown)]
    return lines


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for text in texts if text for line in (".PP", _text(" ".join(text.split())))]


def _bold(text: str) -> str:
    return _text_in("B", text)


def _text_in(font: str, text: str) -> str:
    return f"\\f{font}{roff(text)}\\fR"


def _text(text: str) -> str:
    """A line of text, which a first `.` or `'` would turn into a request."""
    return ("\\&" if text.startswith((".", "'")) else "") + roff(text)


def roff(text: str) -> str:
    """`text` so that every character stands for itself, dashes to be typed as dashes too."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
