"""Long text from outside, cut to what a table has room for, and safe to show."""

from __future__ import annotations

from soup_git.core.text import printable

_BLOCK = 4096


def excerpt(text: str, width: int, start: int = 0) -> str:
    """At most `width` characters of `text` from `start`, `…` where it was cut; then `printable`."""
    before = "…" if start else ""
    after = "…" if len(text) > start + width else ""
    return before + printable(text[start : start + width]) + after


def excerpts(old: str, new: str, width: int) -> tuple[str, str]:
    """Both texts cut alike, so that the first place where they differ is in view."""
    if max(len(old), len(new)) <= width:
        return excerpt(old, width), excerpt(new, width)
    start = max(0, _common_start(old, new) - width // 3)
    return excerpt(old, width, start), excerpt(new, width, start)


def _common_start(old: str, new: str) -> int:
    at, end = 0, min(len(old), len(new))
    while at < end and old[at : at + _BLOCK] == new[at : at + _BLOCK]:
        at += _BLOCK
    while at < end and old[at] == new[at]:
        at += 1
    return min(at, end)
