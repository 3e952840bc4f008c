"""What every page has around it: the head, the way to the other pages, the way past them."""

from __future__ import annotations

from dataclasses import dataclass

import soup_git
from soup_git.render.report import Report
from soup_git.ui.markup import Content, Html, link, tag, together

PAGES = (
    ("/", "Overview"),
    ("/graph", "Graph"),
    ("/runs", "Runs"),
    ("/evals", "Evals"),
    ("/diff", "Diff"),
    ("/prs", "Pull requests"),
)

# A bowl; as data, because a page asks for its icon before anything else.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Cpath d='M3 14h26a13 13 0 0 1-26 0z' fill='%23d7301f'/%3E"
    "%3Cpath d='M11 10c-2-3 2-4 0-7M18 10c-2-3 2-4 0-7' fill='none' stroke='%23d7301f'"
    " stroke-width='2.5' stroke-linecap='round'/%3E%3C/svg%3E"
)
_BOWL = Html(
    '<svg class="bowl" viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">'
    '<path class="full" d="M3 14h26a13 13 0 0 1-26 0z"/>'
    '<path d="M11 10c-2-3 2-4 0-7M18 10c-2-3 2-4 0-7"/></svg>'
)


@dataclass(frozen=True)
class Page:
    """A report and how it looks."""

    title: str
    here: str
    """The entry of `PAGES` that it belongs to."""
    body: Html
    report: Report | None = None
    """What `?format=json` gives; None where there is nothing to give yet."""
    json_address: str | None = None
    heading: Content = None
    """Instead of the title."""


def framed(page: Page, workspace: str) -> Html:
    """The whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{page.title} · {workspace}"),
        tag("link", rel="icon", href=_ICON),
        tag("link", rel="stylesheet", href="/style.css"),
    )
    body = tag(
        "body",
        link("#main", "Skip to the content", class_="skip"),
        _header(page.here, workspace),
        tag(
            "main",
            tag("h1", page.title if page.heading is None else page.heading),
            page.body,
            id="main",
            tabindex=-1,
        ),
        _footer(page),
    )
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")


def _header(here: str, workspace: str) -> Html:
    items = (
        tag("li", link(place, name, aria_current="page" if place == here else None))
        for place, name in PAGES
    )
    brand = link("/", _BOWL, tag("span", "git soup"), tag("b", workspace), class_="brand")
    return tag("header", brand, tag("nav", tag("ul", *items), aria_label="Pages"))


def _footer(page: Page) -> Html:
    data = link(page.json_address, "this page as JSON") if page.json_address else None
    parts = [f"git-soup {soup_git.__version__}", "read-only, on this machine alone", data]
    return tag("footer", *(tag("span", part) for part in parts if part is not None))


def refusal(message: str, hint: str) -> Html:
    """Why there is no report, as the command line says it."""
    return tag(
        "div",
        tag("p", tag("strong", "fatal: "), message),
        tag("p", tag("strong", "hint: "), hint) if hint else None,
        class_="refusal",
        role="alert",
    )


def bare(title: str, *content: Content, refresh: str | None = None) -> Html:
    """A document for whoever has no key yet: no style, no word about the workspace."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="refresh", content=f"0;url={refresh}") if refresh else None,
        tag("title", title),
        tag("link", rel="icon", href=_ICON),
    )
    body = tag("body", tag("main", tag("h1", title), together(content)))
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")
