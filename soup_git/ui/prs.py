"""`/prs` and `/prs/SLUG`: stored pull-request pages, each in a frame that nothing leaves."""

from __future__ import annotations

from collections.abc import Sequence

from soup_git.commands.prarchive import PageVersion, PrRow, PrsReport
from soup_git.core.pullrequest import LOOK, NOTHING, READY, STOP
from soup_git.ui.markup import (
    Content,
    Html,
    address,
    commit,
    definitions,
    link,
    moment,
    none_yet,
    table,
    tag,
    together,
)


def prs(found: PrsReport) -> Html:
    if not found.prs:
        return none_yet("No pull-request page is stored here yet: ", "git soup pr TITLE")
    header = ("page", "title", "verdict", "updated", "by", "head")
    return table("Pull requests", header, map(_pr_row, found.prs), prose=("title", "verdict"))


def _pr_row(row: PrRow) -> list[Content]:
    newest = row.newest
    return [
        link(address("prs", row.slug), row.slug),
        newest.title,
        _verdict(newest.verdict) or "–",
        moment(newest.date),
        newest.author,
        commit(newest.head) if newest.head else "–",
    ]


_COLOURS = {READY: "good", STOP: "bad", LOOK: "warn", NOTHING: "plain"}


def _verdict(line: str) -> Html | None:
    """The verdict's word apart from its reasons, where it is one that we know."""
    word, colon, reasons = line.partition(": ")
    if word not in _COLOURS:
        return together([line]) if line else None
    return together(
        [tag("span", word, class_=f"chip {_COLOURS[word]}"), f" {reasons}" if colon else None]
    )


def pr(slug: str, versions: Sequence[PageVersion], shown: PageVersion) -> Html:
    """The page as it was stored, and the versions that it had."""
    place = address("prs", slug, "page", at=shown.commit)
    facts = definitions(
        ("Verdict", _verdict(shown.verdict)),
        ("Head", commit(shown.head) if shown.head else None),
        ("Updated", moment(shown.date)),
        ("By", shown.author),
    )
    frame = tag("iframe", src=place, title=f"The stored page of {slug}", sandbox=True)
    alone = link(place, "Open the page by itself", target="_blank", rel="noopener")
    parts = [facts, tag("p", alone, class_="more"), frame]
    if len(versions) > 1:
        parts += [tag("h2", "Versions"), _versions(slug, versions, shown)]
    return together(parts)


def _versions(slug: str, versions: Sequence[PageVersion], shown: PageVersion) -> Html:
    def place(version: PageVersion) -> Html:
        here = tag("span", "shown", class_="chip here") if version == shown else None
        where = address("prs", slug, at=version.commit)
        return together([link(where, version.date[:16].replace("T", " ")), here])

    rows = (
        [place(v), _verdict(v.verdict) or "–", v.title, v.author, commit(v.commit)]
        for v in versions
    )
    header = ("updated", "verdict", "title", "by", "commit")
    return table("Versions", header, rows, prose=("title", "verdict"))
