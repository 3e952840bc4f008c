"""Sample outputs in Markdown: two columns of code blocks, and all of them below each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from soup_git.core.excerpt import excerpt
from soup_git.core.pullrequest import AdapterChange, PullRequest, SamplePair
from soup_git.render import prwords as words
from soup_git.render.cutting import Part
from soup_git.render.markdown import code, fenced

_COLUMN = 42
"""Characters of a line in one of two columns."""
_FIRST = ((900, 16), (360, 8), (120, 3))
"""(characters, lines) of a text, in the order in which it is cut."""
_ALL = ((32 << 10, 4096), (2000, 40), (600, 12), (200, 4))


def side_by_side(adapter: AdapterChange, pr: PullRequest) -> Part:
    """Three samples in two columns; the command that makes some where there are none."""
    if not adapter.samples:
        made = code(adapter.samples_command, 600)
        return Part(
            "", 70, [f"**samples** none yet: {made}, then `--samples samples.json` here\n\n"]
        )
    head = f"**samples** {words.samples_words(adapter.samples)}\n\n"
    chosen = words.first_samples(adapter.samples)
    versions = [head + _table(chosen, pr, *size) for size in _FIRST]
    return Part("sample outputs", 70, [*versions, head])


def _table(samples: Sequence[SamplePair], pr: PullRequest, characters: int, lines: int) -> str:
    def cell(text: str) -> str:
        return fenced(words.wrapped(words.shortened_text(text, characters, lines), _COLUMN))

    # GitHub reads Markdown again after the blank line that ends a block of HTML.
    names = "".join(f'<th width="50%">{_name(n)}</th>' for n in (pr.base.name, pr.head.name))
    text = f"<table>\n<tr>{names}</tr>\n"
    for sample in samples:
        text += f'<tr><td colspan="2">\n\n{_prompt(sample.prompt, cell)}\n</td></tr>\n'
        answer = (
            "\n<em>the same</em>\n" if sample.same else f"\n\n{cell(sample.candidate_output)}\n"
        )
        text += f'<tr><td valign="top">\n\n{cell(sample.baseline_output)}\n</td>'
        text += f'<td valign="top">{answer}</td></tr>\n'
    return f"{text}</table>\n\n"


def _prompt(prompt: str, cell: Callable[[str], str]) -> str:
    """On one line where it fits there."""
    if "\n" not in prompt and len(prompt) <= 2 * _COLUMN:
        return f"prompt: {code(prompt)}\n"
    return f"prompt:\n\n{cell(prompt)}"


def _name(name: str) -> str:
    return f"<code>{escape(excerpt(name, 80), quote=True)}</code>"


def all_samples(adapter: AdapterChange, pr: PullRequest) -> list[str]:
    """Every sample, the longest texts first, then shorter and shorter, then none."""
    return [
        "\n".join(
            _one(number, sample, pr, *size) for number, sample in enumerate(adapter.samples, 1)
        )
        for size in _ALL
    ]


def _one(number: int, sample: SamplePair, pr: PullRequest, characters: int, lines: int) -> str:
    def block(text: str) -> str:
        return fenced(words.shortened_text(text, characters, lines))

    text = f"**{number}** prompt\n\n{block(sample.prompt)}\n"
    if sample.same:
        return f"{text}both\n\n{block(sample.candidate_output)}"
    return (
        f"{text}{code(pr.base.name)}\n\n{block(sample.baseline_output)}\n"
        f"{code(pr.head.name)}\n\n{block(sample.candidate_output)}"
    )
