"""Completion for zsh: `_git-soup`, which zsh's own completion of git calls for `git soup`."""

from __future__ import annotations

from soup_git.manual.commandtree import HELP, Option, Value, Verb
from soup_git.manual.words import PURPOSE

_NAMES = r"""
__git_soup_refs () {
	local -a names
	names=(${(f)"$(_call_program refs git for-each-ref "$@" 2>/dev/null)"})
	compadd -a names
}
__git_soup_branches () { __git_soup_refs "--format='%(refname:lstrip=2)'" refs/heads }
__git_soup_revisions () { __git_soup_refs "--format='%(refname:lstrip=2)'" refs/heads refs/tags refs/remotes }
__git_soup_specs () {
	__git_soup_revisions
	__git_soup_refs "--format='run/%(refname:lstrip=3)'" refs/soup/runs
	_files -/
}
__git_soup_remotes () {
	local -a names
	names=(${(f)"$(_call_program remotes git remote 2>/dev/null)"})
	compadd -a names
}
"""

_ACTIONS = {
    "folders": "_files -/",
    "files": "_files",
    "branches": "__git_soup_branches",
    "revisions": "__git_soup_revisions",
    "specs": "__git_soup_specs",
    "remotes": "__git_soup_remotes",
}


def zsh_completion(tree: Verb) -> str:
    lines = [
        "#compdef git-soup",
        f"#description {PURPOSE}",
        "# Written by `make docs`; edit soup_git/manual/.",
        _NAMES,
    ]
    for verb in reversed(list(tree.walk())):
        lines += [*_group(verb)] if verb.verbs else [*_leaf(verb)]
    lines.append('_git-soup "$@"')
    return "\n".join(lines) + "\n"


def _function(verb: Verb) -> str:
    return "-".join(("_git-soup", *verb.path))


def _leaf(verb: Verb) -> list[str]:
    specs = [spec for option in (*verb.options, HELP) for spec in _option(option)]
    for number, argument in enumerate(verb.arguments, start=1):
        place = "*" if argument.is_repeatable else str(number)
        specs.append(_quoted(f"{place}:{argument.value.metavar}:{_action(argument.value)}"))
    return [f"{_function(verb)} () {{", "\t_arguments -s \\", *_continued(specs), "}", ""]


def _group(verb: Verb) -> list[str]:
    specs = [spec for option in (*verb.options, HELP) for spec in _option(option)]
    specs += ["'1: :->verb'", "'*:: :->rest'"]
    lines = [
        f"{_function(verb)} () {{",
        '\tlocal curcontext="$curcontext" state line ret=1',
        "\ttypeset -A opt_args",
        "\tlocal -a verbs",
        "\tverbs=(",
    ]
    lines += ["\t\t" + _quoted(f"{below.path[-1]}:{below.summary}") for below in verb.verbs]
    lines += ["\t)", "\t_arguments -C \\", *_continued(specs, " && ret=0")]
    lines += [
        "\tcase $state in",
        f"\tverb) _describe -t commands '{verb.name} command' verbs && ret=0 ;;",
        "\trest)",
        '\t\tcurcontext="${curcontext%:*}-$line[1]:"',
        "\t\tcase $line[1] in",
    ]
    lines += [f"\t\t{below.path[-1]}) {_function(below)} && ret=0 ;;" for below in verb.verbs]
    return [*lines, "\t\tesac ;;", "\tesac", "\treturn ret", "}", ""]


def _continued(specs: list[str], after: str = "") -> list[str]:
    return [f"\t\t{spec} \\" for spec in specs[:-1]] + [f"\t\t{specs[-1]}{after}"]


def _option(option: Option) -> list[str]:
    """One spec a name; the names of one option exclude each other."""
    excluded = "*" if option.is_repeatable else f"({' '.join(option.names)})"
    text = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    specs = []
    for name in option.names:
        spec = f"{excluded}{name}"
        if option.value:
            # A long option takes its value after = or as the next word.
            spec += "=" if name.startswith("--") else "+"
        spec += f"[{text}]"
        if option.value:
            spec += f":{option.value.metavar.replace(':', '')}:{_action(option.value)}"
        specs.append(_quoted(spec))
    return specs


def _action(value: Value) -> str:
    if value.choices:
        return f"({' '.join(value.choices)})"
    return _ACTIONS.get(value.kind, " ")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
