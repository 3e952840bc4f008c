"""Text from outside, made safe to show: no control characters reach a terminal."""

from __future__ import annotations

import json
from typing import Any


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """`text` with every control, format and surrogate character spelled out.

    Escape sequences, carriage returns and right-to-left marks in an adapter's name or
    a config can rewrite what a reader sees; spelled as `\\x1b` or `\\u202e` they cannot.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or (keep_newlines and c == "\n") else _spelled(c) for c in text
    )


def _spelled(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def with_odd_bytes(text: str) -> str:
    """JSON that UTF-8 can hold: bytes of a path that are no text, as the escapes that JSON has."""
    if text.isascii():
        return text
    return "".join(c if not 0xD800 <= ord(c) < 0xE000 else f"\\u{ord(c):04x}" for c in text)


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value that digests are taken over."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def shortened(digest: str) -> str:
    """`sha256:7c92…1d04` for `sha256:7c92…(56 more)…1d04`: enough to compare by eye."""
    algorithm, _, value = digest.rpartition(":")
    short = f"{value[:4]}…{value[-4:]}" if len(value) > 12 else value
    return f"{algorithm}:{short}" if algorithm else short


def counted(number: int, noun: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
