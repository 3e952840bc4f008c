"""Names of branches, adapters and runs: what the contract allows, before git is asked."""

from __future__ import annotations

import re

from soup_git.errors import FatalError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}")


def check_name(name: str, what: str = "branch") -> str:
    """Return `name`, or raise when it is not one that every place it goes to can carry.

    The rules of `git check-ref-format` that the pattern leaves open are spelled here,
    so that a bad name is refused with its reason before anything is written.
    """
    reason = ""
    if not NAME.fullmatch(name):
        reason = (
            "use letters, digits, '.', '_' and '-', at most 128, starting with a letter or digit"
        )
    elif ".." in name:
        reason = "'..' is git's range operator"
    elif name.endswith(".lock"):
        reason = "git keeps names that end in '.lock' for itself"
    elif name.endswith("."):
        reason = "git allows no '.' at the end"
    elif name == "HEAD":
        reason = "HEAD is git's own"
    if reason:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:128]
        raise FatalError(
            f"{name!r} is not a valid {what} name: {reason}",
            hint=f"{plain or 'support'} is one; of a folder, its last part is the name",
        )
    return name
