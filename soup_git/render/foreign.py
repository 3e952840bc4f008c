"""Markdown that somebody else wrote and we post under our name: readable, and nothing in it acts."""

from __future__ import annotations

import re

from soup_git.core.text import printable

_SPLIT = "\u200b"
"""A space of no width: what a forge looks for is not there any more, what a person reads is."""
_OURS = r"/?(?:details|summary|table|tr|td|th|code|em|sub|br)\b"
"""The tags of a page of ours; the server lets no script through, whatever the tag."""
_ACTS = re.compile(
    r"(?P<mention>@)(?=\w)"
    r"|(?P<reference>#)(?=\d)"
    r"|(?P<link>:)(?=//)"
    r"|(?P<bare>\bwww)(?=\.)"
    r"|(?P<picture>!)(?=\[)"
    rf"|(?P<tag><)(?=[A-Za-z/!?])(?!{_OURS})"
    r"|(?P<command>^[ \t]*)(?=/)",
    re.MULTILINE | re.IGNORECASE,
)


def defused(text: str) -> str:
    """`text` in which no name is notified, no issue linked, no picture loaded, no bot told anything.

    Whoever reads a comment of ours takes it for ours. Control characters are spelled out.
    """
    return _ACTS.sub(lambda found: f"{found[0]}{_SPLIT}", printable(text, keep_newlines=True))


def cut_at_line(text: str, most: int, note: str) -> str:
    """`text` of at most `most` characters, ended at a line and by `note` where it was longer."""
    if len(text) <= most:
        return text
    return text[: text.rfind("\n", 0, most - len(note)) + 1] + note
