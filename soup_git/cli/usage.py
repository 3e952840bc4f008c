"""What a mistyped command line is answered with: the word that was meant, or nothing.

A wrong suggestion is worse than none: only a near spelling is one, or a word that other tools have
for the same thing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

ELSEWHERE = {
    "adapters": "git soup -h lists the verbs; each takes adapters",
    "ls": "git soup branches, git soup status",
    "list": "git soup branches, git soup status",
    "info": "git soup show",
    "switch": "git soup checkout NAME",
    "restore": "git soup checkout",
    "registry": "git soup tag",
    "promote": "git soup tag NAME --as prod",
    "promotions": "git soup tag",
    "test": "git soup eval SPEC --suite FILE",
    "evaluate": "git soup eval SPEC --suite FILE",
    "validate": "git soup config check",
    "repro": "git soup train, or dvc repro",
    "run": "git soup train, or dvc repro",
    "version": "git soup --version",
    "help": "git soup -h",
}
"""A word that is no verb -> what is typed for it."""
_GITS_OWN = (
    "cherry-pick", "clean", "clone", "commit", "describe", "fetch", "mv", "notes", "rebase", "remote",
    "reset", "revert", "rm", "stash", "worktree",
)  # fmt: skip


def hint(command: str, message: str, known: Iterable[str]) -> tuple[str, str]:
    """The parser's message without its own guesses, and what to type instead.

    `command` is what was understood (`git soup`, `git soup log`), `known` its verbs or options.
    """
    said = re.sub(r"\s*(\(Possible options: .*\)|Did you mean .*)$", "", message)
    word = re.search(r"No such (?:command '(.*)'|option: (\S+))", said)
    if word is None:
        return said, f"{command} -h"
    tried = word[1] or word[2]
    if word[1] in _GITS_OWN:
        return said, f"git {tried}: git's own understands adapters here"
    if word[1] in ELSEWHERE:
        return said, ELSEWHERE[tried]
    close = nearest(tried, [*known, *(_GITS_OWN if word[1] else ())])
    if close in _GITS_OWN:
        return said, f"git {close}: git's own understands adapters here"
    return said, f"{command} {close}" if close else f"{command} -h"


def without_the_originals_group(arguments: list[str], verbs: Iterable[str]) -> str:
    """`git soup diff a b`, where `git soup adapters diff a b` was typed, as soup-cli groups it."""
    if arguments[:1] != ["adapters"] or not set(arguments[1:2]) & set(verbs):
        return ""
    return shlex.join(["git", "soup", *arguments[1:]])


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` is a slip of the keyboard from; None where none is."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 1, 0.75)
    return close[0] if close else None
