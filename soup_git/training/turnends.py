"""Does what is learnt of a conversation end in a token that stops the model?

A model whose answers never end in the loss goes on after them for ever. TRL asks a template about
that once, with marks only; here every row's own tokens are asked, whatever made their mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from soup_git.data.rows import Row

if TYPE_CHECKING:
    from soup_git.training.schema import SoupConfig
    from soup_git.training.templates import Template

End = Literal["", "token", "text", "none", "cut"]
"""How the learnt part of a text ends: in a token that stops a model; in a text that does not; in
the answer itself; in the middle, at data.max_length. Empty where nobody asked: it is no turn."""

Render = Callable[[list[Row], bool], str | None]
"""Turns as the template writes them, with the prompt to speak or without; None where it refuses."""

_SAID, _ASKED = "zqsaidzq", "zqaskedzq"


@dataclass
class TurnEnds:
    """What ends a turn, by one tokenizer and template; found when first asked for."""

    written: str = ""
    """The end that the template itself writes after what the assistant says, if it is a token."""
    spaced: bool = False
    """Does the template's prompt to speak end in a space?"""
    _stops: frozenset[int] = frozenset()
    _added: frozenset[int] = frozenset()
    _asked: bool = False

    def ask(self, tokenizer: Any, render: Render) -> None:
        """Learn from two turns of our own what the template writes around an answer."""
        if self._asked:
            return
        self._asked = True
        self._added = frozenset(tokenizer.get_added_vocab().values())
        turns: list[Row] = [
            {"role": "user", "content": _ASKED},
            {"role": "assistant", "content": _SAID},
        ]
        self.spaced = (render(turns[:1], True) or "").endswith((" ", "\t"))
        found: list[int] = []
        # Some templates end a turn only where another one follows, or then in another way.
        for asked in (turns, [*turns, turns[0]]):
            after = (render(asked, False) or "").rpartition(_SAID)[2].partition(_ASKED)[0]
            ids = tokenizer(text=after, add_special_tokens=False)["input_ids"]
            found += [int(i) for i in ids if i in self._added][:1]
        self.written = tokenizer.convert_ids_to_tokens(found[0]) if found else ""
        self._stops = frozenset({tokenizer.eos_token_id, *found} - {None})

    def of(self, ids: Sequence[int], turns: Sequence[Row], tokenizer: Any) -> End:
        """How `ids`, the learnt tokens of the conversation `turns`, end."""
        for token in reversed(ids):
            if token in self._stops:
                return "token"
            if token not in self._added and tokenizer.decode([token]).strip():
                break
        last: Row = next((t for t in reversed(turns) if t["role"] == "assistant"), {})
        said = last.get("content")
        if last.get("tool_calls") or not isinstance(said, str):
            return "text"
        tail = tokenizer.decode(list(ids[-64:])).rstrip()
        return "none" if tail.endswith(said.rstrip()[-16:]) else "text"


def refuse_none(
    ends: Sequence[End], turn_ends: TurnEnds, template: Template | None, config: SoupConfig
) -> None:
    """Raises FatalError where the turns that are learnt never end, with `ends` of all of them."""
    if template is None or "none" not in ends or {"token", "cut"} & set(ends):
        return
    never = "so the model would never learn to stop"
    whole = "training.assistant_only_loss: false learns whole rows"
    if turn_ends.written and config.training.assistant_only_loss:
        raise config.refuse(
            "data.chat_template",
            f"the end of the turn, {turn_ends.written}, is not in the loss ({template.origin} "
            f"writes it outside of {{% generation %}}), {never}",
            hint=f"{{% endgeneration %}} behind {turn_ends.written} in the template; or {whole}",
        )
    raise config.refuse(
        "data.chat_template",
        f"{template.origin} writes no end of the assistant's turn, {never}",
        hint="{{ eos_token }} behind the assistant's content in the template, or chatml, which has one",
    )


def notes(ends: Sequence[End], joined: int) -> Iterator[str]:
    """What a person should know of how the learnt parts of all texts begin and end."""
    count = Counter(ends)
    if count["none"]:
        yield (
            f"turns whose end is not learnt: {count['none']} of {len(ends)} (the chat template "
            "writes none, or none in the loss), so they do not teach the model to stop"
        )
    if count["text"]:
        yield (
            f"turns that end in no token that stops the model: {count['text']} of {len(ends)} "
            "(git soup data show 1 --tokens shows how): what answers with it needs that as a stop text"
        )
    if joined:
        yield (
            f"answers whose first token begins in the prompt: {joined} (a space at the prompt's "
            "end joins the first word); that token is learnt, but who asks with the space at the "
            "end asks for another one: end prompts before the space"
        )
