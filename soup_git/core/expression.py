"""`a + 0.5*b - c`: a linear expression over adapters, read without evaluating any code."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([a-zA-Z]\w*)|(.))")
_MAX_LENGTH = 1024
# A value is Σ c·name; the constant part has the name "".
_Value = dict[str, float]


def coefficients(text: str) -> dict[str, float]:
    """Name -> coefficient of a linear expression with + − * / and parentheses.

    Raises ValueError with the place where it is no such expression.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"is longer than {_MAX_LENGTH} characters")
    value = _Parser(text).whole()
    if value.pop("", 0.0) != 0.0:
        raise ValueError("adds a number to adapters; every term needs a name")
    return value


class _Parser:
    def __init__(self, text: str) -> None:
        found = _TOKEN.findall(text.rstrip())
        self._tokens = [number or name or sign for number, name, sign in found]
        self._at = 0

    def whole(self) -> _Value:
        value = self._sum()
        if self._at < len(self._tokens):
            raise ValueError(f"has an unexpected {self._tokens[self._at]!r}")
        return value

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._next()
        self._at += 1
        return token

    def _sum(self) -> _Value:
        value = self._product()
        while self._next() in {"+", "-"}:
            sign = 1.0 if self._take() == "+" else -1.0
            for name, c in self._product().items():
                value[name] = value.get(name, 0.0) + sign * c
        return value

    def _product(self) -> _Value:
        value = self._signed()
        while self._next() in {"*", "/"}:
            divide = self._take() == "/"
            value = _quotient(value, self._signed()) if divide else _times(value, self._signed())
        return value

    def _signed(self) -> _Value:
        word = self._take()
        if word in {"+", "-"}:
            return {n: c if word == "+" else -c for n, c in self._signed().items()}
        if word == "(":
            value = self._sum()
            if self._take() != ")":
                raise ValueError("has a ( that is never closed")
            return value
        if word[:1].isalpha():
            return {word: 1.0}
        try:
            return {"": float(word)}
        except ValueError:
            raise ValueError(f"has an unexpected {word!r}" if word else "ends too early") from None


def _times(a: _Value, b: _Value) -> _Value:
    number, value = (a, b) if set(a) <= {""} else (b, a)
    if not set(number) <= {""}:
        raise ValueError("multiplies an adapter by an adapter; only numbers scale an update")
    return {name: c * number.get("", 0.0) for name, c in value.items()}


def _quotient(a: _Value, b: _Value) -> _Value:
    if not set(b) <= {""} or b.get("", 0.0) == 0.0:
        raise ValueError("divides by something that is no number, or by zero")
    return {name: c / b[""] for name, c in a.items()}
