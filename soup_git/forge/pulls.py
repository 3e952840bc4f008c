"""Pull requests: the one of a branch, found or opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from soup_git.errors import FatalError
from soup_git.forge.client import Client, UnsureError

LONGEST_TITLE = 256
_TRIES = 3


@dataclass(frozen=True)
class PullRequest:
    number: int
    url: str
    head_sha: str
    head_branch: str
    head_repository: str | None
    """OWNER/NAME in lower case; None where it was deleted."""
    base_branch: str


def of_branch(client: Client, owner: str, branch: str) -> list[PullRequest]:
    """The open pull requests whose head is `branch` of a repository of `owner`."""
    repository = client.repository
    head = quote(f"{owner}:{branch}", safe="")
    path = f"/repos/{repository}/pulls?state=open&head={head}"
    found = []
    for item in client.pages(path):
        # A filter that the server does not understand is one that it leaves out.
        who = item.get("head", {}).get("user") or {}
        if str(who.get("login")).lower() == owner.lower() and item["head"].get("ref") == branch:
            found.append(_pull_request(client, item))
    return found


def numbered(client: Client, number: int) -> PullRequest:
    return _pull_request(client, client.get(f"/repos/{client.repository}/pulls/{number}"))


def parent_of(client: Client) -> str | None:
    """`OWNER/NAME` of what the repository is a fork of."""
    item = client.get(f"/repos/{client.repository}")
    if not client.field(item, bool, "fork"):
        return None
    return str(client.field(item, str, "parent", "full_name"))


def default_branch(client: Client) -> str:
    item = client.get(f"/repos/{client.repository}")
    return str(client.field(item, str, "default_branch"))


def chosen(found: Sequence[PullRequest], base: str | None) -> PullRequest | None:
    """The one into `base`, or the only one; raises where that is not clear."""
    into = [pull for pull in found if pull.base_branch == base] if base else []
    if len(into or found) > 1:
        listed = ", ".join(f"#{pull.number} into {pull.base_branch}" for pull in found)
        raise FatalError(
            f"{found[0].head_branch} has several open pull requests: {listed}",
            hint=f"git soup pr --push --base {found[0].base_branch}",
        )
    return next(iter(into or found), None)


def open_one(
    client: Client, *, title: str, body: str, owner: str, branch: str, base: str
) -> tuple[PullRequest, bool]:
    """Open a pull request; (it, whether it is new). One that somebody opened meanwhile is taken."""
    is_own = owner.lower() == client.repository.owner.lower()
    wanted = {
        "title": title[:LONGEST_TITLE],
        "body": body,
        "head": branch if is_own else f"{owner}:{branch}",
        "base": base,
    }
    why = ""
    for _ in range(_TRIES):
        try:
            made = client.create(f"/repos/{client.repository}/pulls", wanted)
        except UnsureError as error:
            why = str(error)
        except FatalError:
            # "A pull request already exists" has no code of its own.
            there = chosen(of_branch(client, owner, branch), base)
            if there is None:
                raise
            return there, False
        else:
            return _pull_request(client, made), True
        there = chosen(of_branch(client, owner, branch), base)
        if there is not None:
            return there, True
    raise client.too_slow(why)


def _pull_request(client: Client, item: Any) -> PullRequest:
    repository = (item.get("head") or {}).get("repo") if isinstance(item, dict) else None
    return PullRequest(
        number=client.field(item, int, "number"),
        url=client.field(item, str, "html_url"),
        head_sha=client.field(item, str, "head", "sha"),
        head_branch=client.field(item, str, "head", "ref"),
        head_repository=client.field(repository, str, "full_name").lower() if repository else None,
        base_branch=client.field(item, str, "base", "ref"),
    )
