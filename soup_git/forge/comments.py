"""The one comment that holds a page: written once, then updated, whoever else tries meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from soup_git.core.names import check_name
from soup_git.core.text import counted
from soup_git.errors import FatalError
from soup_git.forge.client import Client, UnsureError

LONGEST_COMMENT = 65_536
"""Characters, by GitHub's own rule."""
_TRIES = 4


@dataclass(frozen=True)
class Comment:
    id: int
    url: str
    body: str


@dataclass(frozen=True)
class Posted:
    url: str
    state: Literal["created", "updated", "unchanged"]


def marker(slug: str) -> str:
    """The first line of our comment, which GitHub does not show. `slug` is a name."""
    return f"<!-- git-soup:{check_name(slug, 'slug')} -->"


def post(client: Client, number: int, slug: str, page: str) -> Posted:
    """Leave exactly one comment of ours with `page` on a pull request.

    A comment is ours when its first line is the marker and its author is who we are: a marker
    that somebody else wrote would put the page into a comment which they can edit.
    """
    posted = _leave(client, number, slug, page, create=True)
    assert posted is not None  # noqa: S101 - it was told to create one
    return posted


def refresh(client: Client, number: int, slug: str, page: str) -> Posted | None:
    """As `post`, but only where there is a comment of ours already; else None."""
    return _leave(client, number, slug, page, create=False)


def _leave(client: Client, number: int, slug: str, page: str, *, create: bool) -> Posted | None:
    first = marker(slug)
    body = f"{first}\n{page}"
    if len(body) > LONGEST_COMMENT:
        raise FatalError(
            f"the page has {counted(len(body), 'character')}, and a comment holds {LONGEST_COMMENT}",
            hint="git soup pr -o PR.md, then cut it, or attach it",
        )
    who = _our_login(client)
    made: Comment | None = None
    why = "comments of ours come and go"
    for _ in range(_TRIES):
        ours = {comment.id: comment for comment in _ours(client, number, first, who)}
        # A list can lag behind what was just written.
        ours |= {made.id: made} if made is not None else {}
        if ours:
            posted = _settle(client, [ours[key] for key in sorted(ours)], body, made)
            if posted is not None:
                return posted
            made = None
            continue
        if not create:
            return None
        try:
            path = f"/repos/{client.repository}/issues/{number}/comments"
            made = _comment(client, client.create(path, {"body": body}))
        except UnsureError as error:
            why = str(error)
    raise client.too_slow(why)


def _our_login(client: Client) -> str | None:
    """Who the token speaks for; None for an app, as in Actions, which cannot ask."""
    item = client.get("/user", optional=(403, 404))
    return None if item is None else str(client.field(item, str, "login"))


def _ours(client: Client, number: int, first: str, who: str | None) -> list[Comment]:
    found = []
    for item in client.pages(f"/repos/{client.repository}/issues/{number}/comments?"):
        author = item.get("user") or {}
        is_ours = author.get("login") == who if who is not None else author.get("type") == "Bot"
        if is_ours and str(item.get("body")).partition("\n")[0].rstrip("\r") == first:
            found.append(_comment(client, item))
    return found


def _settle(client: Client, ours: list[Comment], body: str, made: Comment | None) -> Posted | None:
    """Keep the oldest, which every other run keeps too; None when it is gone."""
    kept, *others = ours
    base = f"/repos/{client.repository}/issues/comments"
    state: Literal["created", "updated", "unchanged"] = "unchanged"
    if made is not None and made.id == kept.id:
        state = "created"
    elif kept.body.replace("\r\n", "\n") != body:
        answer = client.change("PATCH", f"{base}/{kept.id}", {"body": body}, optional=(404, 410))
        if answer is None:
            return None
        state = "updated"
    for other in others:
        client.delete(f"{base}/{other.id}")
    return Posted(kept.url, state)


def _comment(client: Client, item: object) -> Comment:
    return Comment(
        id=client.field(item, int, "id"),
        url=client.field(item, str, "html_url"),
        body=client.field(item, str, "body"),
    )
