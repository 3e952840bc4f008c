"""Chat templates: the tokenizer's own, one by name, or a Jinja file of the workspace.

A template is a program that comes with data or a model. transformers renders it in
Jinja's immutable sandbox without a loader; what is checked here makes a template that
tries to read files, or is missing, an error before the base loads.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from pathlib import Path

from soup_git.errors import FatalError
from soup_git.training import upstream
from soup_git.training.schema import TEMPLATE_DATE, SoupConfig

LARGEST = 1 << 20
_CLOCK = "strftime_now"  # transformers gives it to every template
_DIRECTIVES = (
    *(f"%-{letter}" for letter in "dejmyHIMS"),
    *(f"%{letter}" for letter in "aAbBcCdDeFgGhHIjmMnpPrRSTuUVwWxXyYzZ%"),
)
Refuse = Callable[..., FatalError]
"""`refuse(what, hint="")`: the error that blames whoever chose the template."""

# ChatML as most models spell it, with the marks that tell what the assistant says.
CHATML = r"""
{%- if tools %}{{ raise_exception('chatml has no place for tools') }}{% endif -%}
{%- for message in messages -%}
    {%- if message['tool_calls'] -%}
        {{- raise_exception('chatml has no form for tool calls') -}}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\n' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- message['content'] + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Template:
    """A chat template's text, where it is from, and whether it marks the assistant's part."""

    text: str
    origin: str
    marked: bool
    date: str | None = None
    """The day that it is to take for today, YYYY-MM-DD; TEMPLATE_DATE where nobody said."""

    @property
    def prints_date(self) -> bool:
        return _CLOCK in self.text or "date_string" in self.text

    @property
    def described(self) -> str:
        """Where it is from, for a person; and the day, where it prints one."""
        day = self.date or (TEMPLATE_DATE if _CLOCK in self.text else None)
        return f"{self.origin}, dated {day} (data.template_date)" if day else self.origin

    @property
    def program(self) -> str:
        """The text, with a clock that has stopped where it reads one: else equal rows would be
        other tokens tomorrow."""
        if _CLOCK not in self.text:
            return self.text
        now = datetime.combine(date.fromisoformat(self.date or TEMPLATE_DATE), time())
        replaced = "".join(f"|replace({d!r},{now.strftime(d)!r})" for d in _DIRECTIVES)
        # A variable of that name would not reach the template: transformers turns functions
        # that it is given into text. A macro goes before the global one, and the line break
        # after its end is not part of what is rendered.
        return f"{{%- macro {_CLOCK}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n{self.text}"

    @property
    def variables(self) -> dict[str, str]:
        """What the template is told: the day, as Llama's reads it, where somebody chose one."""
        if self.date is None:
            return {}
        return {"date_string": date.fromisoformat(self.date).strftime("%d %b %Y")}


def resolve(config: SoupConfig, workspace_root: Path, own: str | None) -> Template | None:
    """The template that `data.chat_template` asks for; `own` is the tokenizer's.

    None when nothing was asked for and the tokenizer has none: plain text needs none. When
    the loss is on the assistant's turns only and the template has no marks for them, TRL's
    training variant of the very same template is taken, where TRL has one.
    """
    only_answers = config.training.assistant_only_loss
    found = find(
        config.data.chat_template,
        workspace_root,
        own,
        lambda what, hint="": config.refuse("data.chat_template", what, hint=hint),
        wants_marks=only_answers,
    )
    chosen = config.data.template_date
    if chosen is None or found is None:
        return found
    if not found.prints_date:
        raise config.refuse(
            "data.template_date",
            f"the chat template ({found.origin}) prints no date",
            hint="leave it out",
        )
    return replace(found, date=chosen)


def find(
    choice: str | None, root: Path, own: str | None, refuse: Refuse, *, wants_marks: bool
) -> Template | None:
    """The template called `choice`, a file below `root`, or `own` where `choice` is None."""
    if choice is None:
        if own is None:
            return None
        text, origin = own, "the tokenizer's"
    elif "/" in choice or choice.endswith((".jinja", ".j2")):
        text, origin = _from_file(refuse, root, choice), choice
    else:
        text, origin = _by_name(refuse, choice), choice
    _refuse_what_is_outside(refuse, text, origin)
    if wants_marks and not _is_marked(text):
        variant = _training_variant(text)
        if variant is not None:
            return Template(variant, f"{origin}, with TRL's marks for training", marked=True)
    return Template(text, origin, marked=_is_marked(text))


def _from_file(refuse: Refuse, root: Path, choice: str) -> str:
    path = root / choice
    if not path.resolve().is_relative_to(root.resolve()):
        raise refuse(f"{choice} is outside the workspace")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        text = data.decode()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise refuse(f"{choice} is not a file") from None
    except UnicodeDecodeError:
        raise refuse(f"{choice} is not UTF-8") from None
    if len(data) > LARGEST:
        raise refuse(f"{choice} is larger than 1 MiB")
    return text


def _by_name(refuse: Refuse, name: str) -> str:
    if name == "chatml":
        return CHATML
    folder = upstream.source("trl", "chat_templates")
    shipped = {path.stem: path for path in sorted(folder.glob("*.jinja"))}
    path = shipped.get(f"{name}_training", shipped.get(name))
    if path is None:
        names = ["chatml", *sorted(n for n in shipped if not n.endswith("_training"))]
        close = difflib.get_close_matches(name, names, 1)
        mean = f"; did you mean {close[0]}?" if close else ""
        raise refuse(
            f"{name} is no template git-soup knows{mean}",
            hint=f"a .jinja file of the workspace, or one of {', '.join(names)}",
        )
    return path.read_text(encoding="utf-8")


def _training_variant(text: str) -> str | None:
    folder = upstream.source("trl", "chat_templates")
    for variant in sorted(folder.glob("*_training.jinja")):
        plain = variant.with_name(variant.name.replace("_training.jinja", ".jinja"))
        if plain.exists() and plain.read_text(encoding="utf-8") == text:
            return variant.read_text(encoding="utf-8")
    return None


def _blocks(text: str) -> list[str]:
    """The first word of every `{% … %}`: lexed, so that text that looks like one is not."""
    from jinja2 import Environment

    tokens = [t for t in Environment(autoescape=False).lex(text) if t[1] != "whitespace"]  # noqa: S701
    return [
        word for (_, kind, _), (_, _, word) in itertools.pairwise(tokens) if kind == "block_begin"
    ]


def _draws(text: str) -> bool:
    """Does it draw at random, by Jinja's filter or its function for filler text?"""
    from jinja2 import Environment

    tokens = [t[1:] for t in Environment(autoescape=False).lex(text) if t[1] != "whitespace"]  # noqa: S701
    piped = {right for left, right in itertools.pairwise(tokens) if left == ("operator", "|")}
    return ("name", "random") in piped or ("name", "lipsum") in tokens


def _is_marked(text: str) -> bool:
    return "generation" in _blocks(text)


def _refuse_what_is_outside(refuse: Refuse, text: str, origin: str) -> None:
    from jinja2 import TemplateSyntaxError

    try:
        words = _blocks(text)
    except TemplateSyntaxError as error:
        raise refuse(f"{origin} is not a Jinja template: {error} (line {error.lineno})") from None
    reads = [w for w in words if w in {"include", "import", "from", "extends"}]
    if reads:
        raise refuse(f"{origin} reads files ({{% {reads[0]} %}}), which is refused")
    if _draws(text):
        raise refuse(f"{origin} draws at random: equal rows would be other tokens each time")
