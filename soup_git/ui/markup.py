"""HTML that is built, never glued: a text becomes markup in one place, and is escaped there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from urllib.parse import quote, urlencode

from soup_git.render import html


class Html(str):
    """Markup. Every other string is text, whatever it looks like."""

    __slots__ = ()


Content = str | None
"""Text, markup, or nothing."""

_VOID = {"br", "hr", "img", "input", "link", "meta"}


def tag(element: str, /, *content: Content, **attributes: str | int | bool | None) -> Html:
    """An element. `class_` is `class`, `aria_label` is `aria-label`; None and False are left out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{_attribute(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in _VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{together(content)}</{element}>")


def together(content: Iterable[Content]) -> Html:
    return Html("".join(markup(part) for part in content if part is not None))


def markup(content: str) -> Html:
    """Markup as it is, text escaped, with every invisible character spelled out."""
    return content if isinstance(content, Html) else Html(html.text_of(content))


def _attribute(value: str | int) -> str:
    return html.text_of(str(value))


def link(address: str, *content: Content, **attributes: str | int | bool | None) -> Html:
    return tag("a", *content, href=address, **attributes)


def address(*path: str, **query: str | None) -> str:
    """`/runs/ID?format=json` from its parts, each quoted; what is None is left out."""
    asked = urlencode({key: value for key, value in query.items() if value is not None})
    return "/" + "/".join(quote(part, safe="") for part in path) + (f"?{asked}" if asked else "")


def definitions(*pairs: tuple[str, Content]) -> Html:
    """Names and values, as a list of facts."""
    rows = (
        tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs if value is not None
    )
    return tag("dl", *rows, class_="facts")


def table(
    label: str,
    header: Iterable[str],
    rows: Iterable[Iterable[Content]],
    *,
    prose: Collection[str] = (),
) -> Html:
    """A table that scrolls by itself when it is wider than the page.

    As in `render.report.Table`, a column whose header ends in `>` is set flush right. The
    first cell of a row is its header; only the columns named in `prose` break their lines.
    """
    names = list(header)
    kinds = ["n" if n.endswith(">") else "prose" if n in prose else None for n in names]
    head = (
        tag("th", name.removesuffix(">"), scope="col", class_=kind) if name else tag("td")
        for name, kind in zip(names, kinds, strict=True)
    )
    body = (_row(row, kinds) for row in rows)
    inner = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="rows")
    return tag("div", inner, class_="wide", tabindex=0, role="group", aria_label=label)


def _row(cells: Iterable[Content], kinds: Sequence[str | None]) -> Html:
    first, *others = zip(cells, kinds, strict=True)
    return tag(
        "tr",
        tag("th", first[0], scope="row", class_=first[1]),
        *(tag("td", cell, class_=kind) for cell, kind in others),
    )


def none_yet(words: str, command: str) -> Html:
    """In the place of a list that would be empty: so it is, and what to type for its first row."""
    return tag("p", words, tag("code", command), class_="none")


def moment(date: str) -> Html:
    """A date to the minute, its whole text for machines."""
    return tag("time", date[:16].replace("T", " "), datetime=date)


def chip(word: str) -> Html:
    """A state: the word says it, the colour only repeats it."""
    kinds = {
        "clean": "good", "ok": "good", "drifted": "bad", "broken": "bad", "conflict": "bad",
        "missing": "bad", "modified": "warn", "merged": "info", "untracked": "warn",
    }  # fmt: skip
    return tag("span", word, class_=f"chip {kinds.get(word, 'plain')}")


def commit(oid: str) -> Html:
    return tag("code", oid[:7], title=oid, class_="oid")
