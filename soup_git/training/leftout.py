"""What a chat template leaves out of a conversation: refused, or said.

A template writes what its author thought of. One without a form for tool calls writes nothing
in their place, and the model would learn to stop where it should call. Each conversation is
rendered once more with a word of its own for every text in it: the words that do not come out
were left out. Those of one shape are asked once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from soup_git.data.rows import Row
from soup_git.errors import FatalError

Render = Callable[[list[Row], list[Row] | None], str | None]
"""Turns and tools, as the template writes them; None where it refuses to."""

_CALLS = "data.chat_template: qwen3 or llama3_1 have a form for tools, or a .jinja file that has"
_HINTS = {
    "content": "data.chat_template: chatml writes every turn, or a .jinja file that does",
    "thinking": "data.chat_template: qwen3 keeps it, or a .jinja file that does",
    "call": _CALLS,
    "tool": f"{_CALLS}; or no tools in the row, where its system turn names them",
}
_THINKING = ("reasoning_content", "thinking")


@dataclass(frozen=True)
class _Piece:
    """A text of a conversation, and the words that stand for it."""

    kind: str
    turn: int
    words: tuple[str, ...]


@dataclass
class LeftOut:
    """Of the conversations that were read so far."""

    earlier_thinking: int = 0
    """Turns, before the last answer, whose thinking the template does not repeat. Many are made
    so: what was thought of earlier questions is not shown to the model later either."""
    _asked: dict[str, list[_Piece]] = field(default_factory=dict)

    def check(
        self, place: str, turns: list[Row], tools: list[Row] | None, origin: str, render: Render
    ) -> None:
        """Raises FatalError, naming the row and the turn, for what would be learnt as silence."""
        last = max((i for i, t in enumerate(turns) if t["role"] == "assistant"), default=-1)
        for piece in self._missing(turns, tools, render):
            if piece.kind == "thinking" and piece.turn < last:
                self.earlier_thinking += 1
                continue
            if piece.kind == "quoted":
                raise FatalError(
                    f"{place}: the chat template ({origin}) writes the arguments of a tool call in "
                    f"turn {piece.turn + 1} as a text in quotes, not as JSON",
                    hint='arguments as an object, {"city": "Rome"}, where the row has a text, '
                    r'"{\"city\": \"Rome\"}"',
                )
            raise FatalError(
                f"{place}: the chat template ({origin}) leaves out {_in_words(piece, turns)}",
                hint=_hint(piece, turns),
            )

    def _missing(self, turns: list[Row], tools: list[Row] | None, render: Render) -> list[_Piece]:
        worded = _Worded()
        copies = [worded.turn(i, turn) for i, turn in enumerate(turns)]
        tool_copies = None if tools is None else [worded.tool(tool) for tool in tools]
        shape = json.dumps([copies, tool_copies], sort_keys=True)
        if shape not in self._asked:
            text = render(copies, tool_copies)
            # A template that takes the row and not the words looks into texts: no verdict.
            self._asked[shape] = [
                piece for piece in worded.pieces if text is not None and _is_missing(piece, text)
            ]
        return self._asked[shape]


def _is_missing(piece: _Piece, text: str) -> bool:
    if piece.kind == "quoted":  # wrong where it is there
        return any(word in text for word in piece.words)
    return not all(word in text for word in piece.words)


def _hint(piece: _Piece, turns: list[Row]) -> str:
    turn = turns[piece.turn]
    if piece.kind == "content" and turn["role"] == "developer":
        return f"role: system, which more templates know; {_HINTS['content']}"
    if piece.kind == "content" and turn.get("tool_calls"):
        return "data.chat_template: qwen3 writes what is said beside a call; or the call alone"
    return _HINTS[piece.kind]


def _in_words(piece: _Piece, turns: list[Row]) -> str:
    if piece.kind == "tool":
        return "the tools of this row"
    role = turns[piece.turn]["role"]
    what = {
        "content": "what is said",
        "thinking": "the thinking (reasoning_content, or <think> in content)",
        "call": "a tool call",
    }
    return f"{what[piece.kind]} in turn {piece.turn + 1}, the {role}'s"


class _Worded:
    """Copies turns and tools with words in the place of texts, and remembers which."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []
        self._numbers = itertools.count()

    def turn(self, i: int, turn: Row) -> Row:
        copy = dict(turn)
        content = turn.get("content")
        if isinstance(content, str) and content.strip():
            copy["content"] = self._content(i, turn["role"], content)
        thought = {turn[key] for key in _THINKING if (turn.get(key) or "").strip()}
        for text in thought:
            word = self._piece("thinking", i)
            copy |= {key: word for key in _THINKING if turn.get(key) == text}
        if turn.get("tool_calls"):
            copy["tool_calls"] = [self._call(i, call) for call in turn["tool_calls"]]
        return copy

    def tool(self, tool: Row) -> Row:
        inner = tool.get("function")
        named = inner if isinstance(inner, dict) else tool
        if not isinstance(named.get("name"), str):
            return tool
        named = {**named, "name": self._piece("tool", 0)}
        return {**tool, "function": named} if isinstance(inner, dict) else named

    def _content(self, i: int, role: str, content: str) -> str:
        thought, end, said = content.rpartition("</think>")
        if role != "assistant" or not end:
            return self._piece("content", i)
        opened, begin, inner = thought.rpartition("<think>")
        if inner.strip():
            inner = f"\n{self._piece('thinking', i)}\n"
        if said.strip():
            said = f"\n\n{self._piece('content', i)}"
        return f"{opened}{begin}{inner}{end}{said}"

    def _call(self, i: int, call: Any) -> Any:
        inner = call.get("function") if isinstance(call, dict) else None
        called = inner if isinstance(inner, dict) else call
        if not isinstance(called, dict) or not isinstance(called.get("name"), str):
            return call
        words = [self._word()]
        copy = {**called, "name": words[0]}
        arguments = called.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = None
            if isinstance(arguments, dict) and arguments:
                copy["arguments"] = json.dumps(self._value(arguments, words))
                self.pieces.append(_Piece("quoted", i, (rf"\"{words[1]}\"",)))
        elif isinstance(arguments, dict):
            copy["arguments"] = self._value(arguments, words)
        self.pieces.append(_Piece("call", i, tuple(words)))
        return {**call, "function": copy} if isinstance(inner, dict) else copy

    def _value(self, value: Any, words: list[str]) -> Any:
        """An argument: names and texts are words, numbers stay what a template may tell apart."""
        if isinstance(value, dict):
            return {self._noted(words): self._value(item, words) for item in value.values()}
        if isinstance(value, list):
            return [self._value(item, words) for item in value]
        return self._noted(words) if isinstance(value, str) else value

    def _noted(self, words: list[str]) -> str:
        words.append(self._word())
        return words[-1]

    def _piece(self, kind: str, turn: int) -> str:
        word = self._word()
        self.pieces.append(_Piece(kind, turn, (word,)))
        return word

    def _word(self) -> str:
        return f"zq{next(self._numbers)}zq"
