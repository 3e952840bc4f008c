"""Pull-request pages that are stored as refs: which there are, and the bytes of one.

A page comes from whoever could push it. Its title and verdict are text, its html is handed
on as bytes; whoever shows it, shows it where nothing in it can act.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from soup_git.core.names import NAME
from soup_git.core.pullrequest import PRS
from soup_git.errors import FatalError
from soup_git.render.report import Table
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.pullrequests import DATA, HTML
from soup_git.storage.workspace import Workspace

__all__ = ["DATA", "HTML", "PageVersion", "PrRow", "PrsReport", "history", "prs", "stored"]

_LONGEST = 200
_MOST_VERSIONS = 50


@dataclass(frozen=True)
class PageVersion:
    commit: str
    head: str | None
    """The commit that the page is about."""
    date: str
    author: str
    title: str
    verdict: str


@dataclass(frozen=True)
class PrRow:
    slug: str
    newest: PageVersion


@dataclass(frozen=True)
class PrsReport:
    schema: ClassVar[str] = "soup.prs/1"
    prs: list[PrRow]
    """The one that changed last first."""

    def tables(self) -> Sequence[Table | str]:
        if not self.prs:
            return ["no pull-request page is stored here yet; git soup pr TITLE makes one"]
        rows = [
            (row.slug, row.newest.date[:10], row.newest.verdict, row.newest.title)
            for row in self.prs
        ]
        return [Table(("page", "date", "verdict", "title"), rows)]


def prs(workspace: Workspace) -> PrsReport:
    """Every stored page."""
    git = workspace.git
    tips = {ref.removeprefix(PRS): commit for ref, commit in git.refs(PRS.rstrip("/")).items()}
    named = {slug: commit for slug, commit in tips.items() if NAME.fullmatch(slug)}
    versions = _read(git, list(named.values()))
    rows = [
        PrRow(slug, versions[commit][0]) for slug, commit in named.items() if commit in versions
    ]
    return PrsReport(sorted(rows, key=lambda r: (r.newest.date, r.slug), reverse=True))


def history(workspace: Workspace, slug: str) -> list[PageVersion]:
    """A page and those that it replaced, the newest first, never empty.

    Raises `FatalError` when there is no such page.
    """
    git = workspace.git
    commit = git.resolve(PRS + slug) if NAME.fullmatch(slug) else None
    if commit is None:
        raise FatalError(
            f"there is no pull-request page {slug!r} here",
            hint="git for-each-ref refs/soup/prs lists them, git soup pull gets those of a remote",
        )
    found: list[PageVersion] = []
    while commit is not None and len(found) < _MOST_VERSIONS:
        version, before = _read(git, [commit])[commit]
        if found and git.blob(f"{commit}:{DATA}") is None:
            break
        found.append(version)
        commit = before
    return found


def stored(workspace: Workspace, slug: str, name: str, commit: str | None = None) -> bytes:
    """A file of a page, as it was at `commit`, which has to be one of the page's versions."""
    known = [version.commit for version in history(workspace, slug)]
    wanted = commit or known[0]
    data = workspace.git.blob(f"{wanted}:{name}") if wanted in known else None
    if data is None:
        raise FatalError(f"{slug!r} has no {name} at {wanted}", hint=f"git show {PRS}{slug}")
    return data


def _read(git: GitRepo, commits: Sequence[str]) -> dict[str, tuple[PageVersion, str | None]]:
    """Commit -> the page that it stores, and the page that this one replaced.

    The first parent is the commit that the page is about.
    """
    if not commits:
        return {}
    fields = ["%H", "%P", "%cI", "%an", "%s"]
    done = git.run(
        "log", "--no-walk=unsorted", "--no-show-signature", "--stdin", "-z",
        "--format=" + "%x00".join(fields), input="".join(f"{c}\n" for c in commits).encode(),
    )  # fmt: skip
    parts = os.fsdecode(done.stdout).split("\0")
    found: dict[str, tuple[PageVersion, str | None]] = {}
    for at in range(0, len(parts) - 1, len(fields)):
        commit, parents, date, author, subject = parts[at : at + len(fields)]
        head, before, *_ = [*parents.split(), None, None]
        title, verdict = _told(git.blob(f"{commit}:{DATA}") or b"")
        version = PageVersion(commit, head, date, author, title or subject, verdict)
        found[commit] = (version, before)
    return found


def head_name(data: bytes) -> str | None:
    """What the page's data calls its head."""
    head = _body(data).get("head")
    return _words(head.get("name")) or None if isinstance(head, dict) else None


def _body(data: bytes) -> dict[str, Any]:
    try:
        body: Any = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _told(data: bytes) -> tuple[str, str]:
    """(title, verdict) as the page's data says them; empty where it does not."""
    body = _body(data)
    title, verdict = body.get("title"), body.get("verdict")
    line = verdict.get("line") if isinstance(verdict, dict) else None
    return _words(title), _words(line)


def _words(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""
