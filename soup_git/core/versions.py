"""Released versions as tags: `NAME/vN`, which never moves, and labels `NAME/prod`, which do."""

from __future__ import annotations

import re

from soup_git.core.names import check_name

_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
TAGS = "refs/tags/"


def is_version(text: str) -> bool:
    """Whether `text` is `v1`, `v2`, …: what a version may be called, and a label may not."""
    return _VERSION.fullmatch(text) is not None


def tag_ref(name: str, what: str) -> str:
    """`refs/tags/NAME/WHAT`; raises `FatalError` for names that a ref cannot carry."""
    check_name(name, "adapter")
    check_name(what, "version" if is_version(what) else "label")
    return f"{TAGS}{name}/{what}"


def next_version(taken: set[str]) -> str:
    """The number after the highest, so that the version of a deleted tag is not used again."""
    numbers = [int(version[1:]) for version in taken if is_version(version)]
    return f"v{max(numbers, default=0) + 1}"
