"""Completion for fish: for `git-soup`; fish's own completion of git asks it for `git soup`."""

from __future__ import annotations

from soup_git.manual.commandtree import HELP, Option, Value, Verb

_TOP = """\
# fish completion for git soup and git-soup. Written by `make docs`; edit soup_git/manual/.

# The verbs typed so far are exactly those given: options stand after their verb.
function __git_soup_at
    set -l typed (commandline -opc)
    set -e typed[1]
    set -l verbs (string match -v -- '-*' $typed)
    set -l depth (count $argv)
    test (count $verbs) -ge $depth
    and test "$verbs[1..$depth]" = "$argv"
end

# The verb still to come is the next word.
function __git_soup_needs_verb
    set -l typed (commandline -opc)
    set -e typed[1]
    set -l verbs (string match -v -- '-*' $typed)
    test "$verbs" = "$argv"
end

function __git_soup_refs
    git for-each-ref --format='%(refname:lstrip=2)' $argv 2>/dev/null
end

function __git_soup_specs
    __git_soup_refs refs/heads refs/tags refs/remotes
    git for-each-ref --format='run/%(refname:lstrip=3)' refs/soup/runs 2>/dev/null
    __fish_complete_directories
end

complete -c git-soup -f

# fish's completion of git asks that of git-soup since fish 4; here for the ones before.
# Prints what is typed after `git soup`, and fails where that is not what is typed.
function __git_soup_through_git
    set -l typed (commandline -opc)
    set -e typed[1]
    while string match -q -- '-*' $typed[1]
        contains -- $typed[1] -C -c --git-dir --work-tree --namespace
        and set -e typed[1]
        set -e typed[1]
    end
    test "$typed[1]" = soup
    or return 1
    set -e typed[1]
    string escape -- $typed
    return 0
end
function __git_soup_ask
    complete -C "git-soup $(__git_soup_through_git | string join ' ') $(commandline -ct)"
end
complete -c git -f -n '__git_soup_through_git >/dev/null' -a '(__git_soup_ask)'
"""

_CANDIDATES = {
    "folders": "(__fish_complete_directories)",
    "branches": "(__git_soup_refs refs/heads)",
    "revisions": "(__git_soup_refs refs/heads refs/tags refs/remotes)",
    "specs": "(__git_soup_specs)",
    "remotes": "(git remote 2>/dev/null)",
}


def fish_completion(tree: Verb) -> str:
    lines = []
    for verb in tree.walk():
        at = f"-n {_quoted(' '.join(('__git_soup_at', *verb.path)))}" if verb.path else ""
        if verb.verbs:
            needs = f"-n {_quoted(' '.join(('__git_soup_needs_verb', *verb.path)))}"
            lines += [
                f"complete -c git-soup {needs} -a {below.path[-1]} -d {_quoted(below.summary)}"
                for below in verb.verbs
            ]
        here = at or f"-n {_quoted('__git_soup_needs_verb')}"
        lines += [_option(here, option) for option in (*verb.options, HELP)]
        lines += [
            f"complete -c git-soup {here} {_value(argument.value)}".rstrip()
            for argument in verb.arguments[-1:]
            if _value(argument.value)
        ]
    return _TOP + "\n".join(lines) + "\n"


def _option(here: str, option: Option) -> str:
    words = ["complete -c git-soup", here]
    words += [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names]
    if option.value:
        words += ["-r" if option.value.kind == "files" else "-x", _value(option.value)]
    words.append(f"-d {_quoted(option.help)}")
    return " ".join(word for word in words if word)


def _value(value: Value) -> str:
    if value.choices:
        return f"-a {_quoted(' '.join(value.choices))}"
    if value.kind == "files":
        return "-F"
    candidates = _CANDIDATES.get(value.kind)
    return f"-a {_quoted(candidates)}" if candidates else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
