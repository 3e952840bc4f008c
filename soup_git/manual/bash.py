"""Completion for bash: `git soup` through git's own completion, `git-soup` by itself.

git's completion calls `_git_soup` with `words`, `cword`, `cur` and `prev` set and with
`-o nospace` in force, so every word that is complete ends in a space here. Names come
from repositories that strangers wrote: they are compared and quoted, never expanded
(`compgen -W` would run a branch called `$(command)`).
"""

from __future__ import annotations

import shlex

from soup_git.manual.commandtree import HELP, Verb

_TOP = """\
# bash completion for git soup and git-soup. Written by `make docs`; edit soup_git/manual/.
# shellcheck shell=bash disable=SC2034

"""

_BODY = r"""
__git_soup_git () {
	if declare -F __git >/dev/null; then __git "$@" 2>/dev/null; else git "$@" 2>/dev/null; fi
}

# Candidates, one a line, for a kind of value.
__git_soup_names () {
	case $1 in
	branches) __git_soup_git for-each-ref --format='%(refname:lstrip=2)' refs/heads ;;
	remotes) __git_soup_git remote ;;
	revisions | specs)
		__git_soup_git for-each-ref --format='%(refname:lstrip=2)' refs/heads refs/tags refs/remotes
		if [[ $1 == specs ]]; then
			__git_soup_git for-each-ref --format='run/%(refname:lstrip=3)' refs/soup/runs
		fi ;;
	choices) printf '%s\n' ${2//|/ } ;;
	esac
}

# Offer what fits the kind $1 and begins with $2; $3 stands before it in the same word.
__git_soup_offer () {
	local kind=$1 begin=$2 before=$3 choices=$4 name quoted
	case $kind in
	files | folders)
		local how=-f; [[ $kind == folders ]] && how=-d
		compopt -o filenames 2>/dev/null
		while IFS= read -r name; do COMPREPLY+=("$before$name"); done < <(compgen "$how" -- "$begin")
		return ;;
	esac
	while IFS= read -r name; do
		[[ -n $name && $name == "$begin"* ]] || continue
		printf -v quoted '%q' "$name"
		COMPREPLY+=("$before$quoted ")
	done < <(__git_soup_names "$kind" "$choices")
	if [[ $kind == specs ]]; then
		while IFS= read -r name; do
			printf -v quoted '%q' "$name"
			COMPREPLY+=("$before$quoted/")
		done < <(compgen -d -- "$begin")
	fi
}

# Complete words[cword], where words[$1] is the program or the word soup.
__git_soup_complete () {
	local at path='' before='' word verbs options argument values value
	for ((at = $1 + 1; at < cword; at++)); do
		[[ ${words[at]} == -* ]] && continue
		__git_soup_tree "$path"
		[[ " $verbs " == *" ${words[at]} "* ]] || break
		path=${path:+$path }${words[at]}
	done
	__git_soup_tree "$path"
	COMPREPLY=()
	word=$prev
	if [[ $cur == --*=* ]]; then
		word=${cur%%=*}
		# Where = ends a word for readline, only what follows it is replaced.
		[[ $COMP_WORDBREAKS == *=* ]] || before=$word=
		cur=${cur#*=}
	elif [[ $prev == = ]]; then
		word=${words[cword - 2]}
	elif [[ $cur == = ]]; then
		word=$prev cur=''
	fi
	for value in $values; do
		if [[ ${value%%:*} == "$word" ]]; then
			value=${value#*:}
			__git_soup_offer "${value%%:*}" "$cur" "$before" "${value#*:}"
			return
		fi
	done
	if [[ $cur == -* ]]; then
		for value in $options; do
			[[ $value == "$cur"* ]] && COMPREPLY+=("$value ")
		done
	elif [[ -n $verbs ]]; then
		for value in $verbs; do
			[[ $value == "$cur"* ]] && COMPREPLY+=("$value ")
		done
	else
		__git_soup_offer "${argument%%:*}" "$cur" '' "${argument#*:}"
	fi
}

# Called by git's completion for `git soup`; `git -C DIR soup` moves the word.
_git_soup () {
	local at
	for ((at = 1; at < cword; at++)); do
		[[ ${words[at]} == soup ]] && break
	done
	__git_soup_complete "$at"
}

__git_soup_main () {
	local words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur prev
	cur=${words[cword]} prev=${words[cword - 1]}
	__git_soup_complete 0
}

complete -o nospace -F __git_soup_main git-soup
"""


def bash_completion(tree: Verb) -> str:
    lines = [
        "# Sets what may follow the verbs in $1: verbs, options, values (option:kind:choices)",
        "# and the argument (kind:choices).",
        "__git_soup_tree () {",
        "\tverbs='' options='' values='' argument=''",
        "\tcase $1 in",
    ]
    for verb in tree.walk():
        options = [*verb.options, HELP]
        names = [name for option in options for name in option.names]
        values = [
            f"{name}:{option.value.kind or 'text'}:{'|'.join(option.value.choices)}"
            for option in options
            if option.value
            for name in option.names
        ]
        lines.append(f"\t{shlex.quote(' '.join(verb.path))})")
        if verb.verbs:
            lines.append(f"\t\tverbs={shlex.quote(' '.join(v.path[-1] for v in verb.verbs))}")
        lines.append(f"\t\toptions={shlex.quote(' '.join(names))}")
        if values:
            lines.append(f"\t\tvalues={shlex.quote(' '.join(values))}")
        if verb.arguments:
            value = verb.arguments[-1].value
            argument = f"{value.kind or 'text'}:{'|'.join(value.choices)}"
            lines.append(f"\t\targument={shlex.quote(argument)}")
        lines[-1] += " ;;"
    lines += ["\tesac", "}"]
    return _TOP + "\n".join(lines) + "\n" + _BODY
