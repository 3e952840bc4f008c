"""`docs/reference/commands.md`: every verb and option, in Markdown."""

from __future__ import annotations

import re

from soup_git.manual.commandtree import Option, Verb
from soup_git.manual.words import EXIT_STATUS

GENERATED = "<!-- Written by `make docs` from {source} itself; edit soup_git. -->"


def reference(tree: Verb) -> str:
    parts = [
        "# Commands",
        GENERATED.format(source="the command line"),
        "`git soup VERB -h` prints the same; `git soup --help` opens the manual page.",
    ]
    listed = [verb for verb in tree.walk() if verb is not tree]
    parts.append(
        "\n".join(
            ["| command | does |", "|---|---|"]
            + [f"| [`{v.name}`](#{_anchor(v.name)}) | {_cell(v.summary)} |" for v in tree.leaves]
        )
    )
    for verb in listed:
        parts += _section(verb)
    parts += ["## Exit status", "| code | means |\n|---|---|\n" + "\n".join(
        f"| {int(code)} | {_cell(meaning)} |" for code, meaning in EXIT_STATUS.items()
    )]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _section(verb: Verb) -> list[str]:
    parts = [f"## {verb.name}"]
    if not verb.verbs:
        parts.append(f"```\n{verb.synopsis}\n```")
    parts += [_plain(text) for text in (verb.summary, *verb.more)]
    listed = [f"- `{a.form}`: {_plain(a.help)}" for a in verb.arguments if a.help]
    listed += [_option(option) for option in verb.options]
    return parts + (["\n".join(listed)] if listed else [])


def _option(option: Option) -> str:
    default = f" Default: `{option.default}`." if option.default else ""
    return f"- `{option.form}`: {_plain(option.help)}{default}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


def _plain(text: str) -> str:
    """Prose in which no character is Markdown's."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
