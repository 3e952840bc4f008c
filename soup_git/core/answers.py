"""What a model's answer says in the end, once the words around it are taken away."""

from __future__ import annotations

import re

_FENCED = re.compile(r"\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


def without_fence(text: str) -> str:
    """The inside of an answer that is one fenced block, else the answer."""
    found = _FENCED.fullmatch(text)
    return found[1] if found else text


_FINAL = (
    re.compile(r"####\s*(\S[^\n]*)"),
    re.compile(r"\\boxed\{([^{}]*)\}"),
    re.compile(r"(?:answer|result) (?:is|:|=)\s*:?\s*([^\n]+?)(?:\.\s|\.?$|\n)", re.IGNORECASE),
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str:
    """The answer that a text ends with: after `####`, in \\boxed{}, after "the answer is", else its last number."""
    for pattern in _FINAL:
        found = pattern.findall(text)
        if found:
            return _plain_number(found[-1].strip())
    numbers = _NUMBER.findall(text)
    return _plain_number(numbers[-1] if numbers else text.strip())


def _plain_number(text: str) -> str:
    """`1,234.50` and `$1234.5` are the same answer."""
    bare = text.strip().strip("$%.").replace(",", "")
    try:
        return f"{float(bare):.12g}"
    except ValueError:
        return text.strip().lower()
