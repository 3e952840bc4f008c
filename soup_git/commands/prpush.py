"""`git soup pr --push`: what `git soup push` sends, then the page as one comment on its pull request.

Whether there is a server to post to, and who we are there, is known before anything is sent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from soup_git.commands.push import push
from soup_git.core.pullrequest import PullRequest
from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.forge import comments, pulls
from soup_git.forge.address import Repository, parse_remote, repository_named
from soup_git.forge.api import Sender, api_for
from soup_git.forge.client import Client
from soup_git.forge.gh import GhProgram
from soup_git.render.markdown import code
from soup_git.render.prmarkdown import as_markdown_page
from soup_git.render.report import Table, say
from soup_git.storage.exchange import remote_named
from soup_git.storage.gitrepo import GitRepo
from soup_git.storage.pullrequests import PICTURE
from soup_git.storage.workspace import Workspace


@dataclass(frozen=True)
class PostedReport:
    schema: ClassVar[str] = "soup.pr-posted/1"
    verdict: str
    repository: str
    number: int
    pull_request: str
    pull_request_state: str
    """opened or found."""
    comment: str
    comment_state: str
    """created, updated or unchanged."""
    page: str
    """The commit that holds the page, pushed."""

    def tables(self) -> Sequence[Table | str]:
        rows = [
            ("pull request", self.pull_request_state, self.pull_request),
            ("comment", self.comment_state, self.comment),
        ]
        return [Table(("", "", ""), rows, before=self.verdict)]


@dataclass(frozen=True)
class Destination:
    """Where a page goes: known to be there before anything is pushed."""

    remote: str
    repository: Repository
    sender: Sender
    branch: str


def destination(workspace: Workspace, head: str, remote: str | None) -> Destination:
    """Raises FatalError for a head that is no branch, no server's remote, and no login."""
    git = workspace.git
    branch = git.head_branch() if head == "HEAD" else head.removeprefix("refs/heads/")
    if branch is None or f"refs/heads/{branch}" not in git.refs(f"refs/heads/{branch}"):
        raise FatalError(
            f"{printable(head)} is no branch here, and a pull request is made of one",
            hint="git switch -c NAME, then git soup pr --push",
        )
    name = remote_named(git, remote, push=True)
    repository = _repository(git, name)
    sender = GhProgram.logged_in(repository.host) if not _is_told_where() else None
    chosen = sender or api_for(repository)
    if chosen is None:
        raise FatalError(
            f"nobody is logged in at {repository.host}: gh has no login for it, and no variable a token",
            hint=f"gh auth login --hostname {repository.host}, or export GH_TOKEN=…"
            " (GH_ENTERPRISE_TOKEN for a server of your own)",
        )
    return Destination(name, repository, chosen, branch)


def _is_told_where() -> bool:
    """Whether GITHUB_API_URL says where the API is, which gh does not read."""
    return bool(os.environ.get("GITHUB_API_URL"))


def _repository(git: GitRepo, remote: str) -> Repository:
    """What the remote's URL names: as git rewrites it, else as it is configured."""
    urls = [git.text("remote", "get-url", "--push", remote)]
    urls += [
        *git.config_values(f"remote.{remote}.pushurl"),
        *git.config_values(f"remote.{remote}.url"),
    ]
    found = next((found for url in urls if (found := parse_remote(url)) is not None), None)
    if found is None:
        raise FatalError(
            f"{printable(remote)} is no repository on a GitHub server",
            hint="git remote -v; git soup pr --push --remote NAME takes another remote",
        )
    return found


def publish(
    workspace: Workspace, pr: PullRequest, page: str, to: Destination, *, base: str | None
) -> PostedReport:
    """Push the branch with all it names and the page `page`, then post it.

    `base` is the revision that was asked for, if one was.
    """
    client, found = _found(to, _base_branch(workspace.git, base, to.remote))
    _push(workspace, pr, page, to)
    state = "found"
    if found is None:
        into = _base_branch(workspace.git, base or pr.base.name, to.remote)
        into = into or pulls.default_branch(client)
        body = f"{code(pr.verdict.line)}\n\nThe page is in a comment below, by `git soup pr`.\n"
        found, is_new = pulls.open_one(
            client,
            title=_title(pr),
            body=body,
            owner=to.repository.owner,
            branch=to.branch,
            base=into,
        )
        state = "opened" if is_new else "found"
        say(f"{state} #{found.number} of {client.repository}")
    text = as_markdown_page(pr, image=_picture(workspace.git, page, to.repository))
    posted = comments.post(client, found.number, pr.slug, text)
    return PostedReport(
        pr.verdict.line, str(client.repository), found.number, found.url, state,
        posted.url, posted.state, page,
    )  # fmt: skip


def _push(workspace: Workspace, pr: PullRequest, page: str, to: Destination) -> None:
    heads = {f"refs/heads/{to.branch}": pr.head.commit}
    report, _ = push(workspace, to.remote, every_branch=False, recheck=False, heads=heads)
    left = {ref.ref: ref.state for ref in report.refs if ref.state not in {"new", "moved"}}
    if pr.ref in left and left[pr.ref] != "up to date":
        raise FatalError(
            f"{to.remote} has another page in {pr.ref} ({left[pr.ref]}), so {page[:10]} was not pushed",
            hint=f"git soup pull {to.remote}, then the same again; --slug NAME keeps both pages",
        )
    for ref in report.refs:
        if ref.state in {"new", "moved"}:
            say(f"pushed {ref.ref}")


def _found(to: Destination, base: str | None) -> tuple[Client, pulls.PullRequest | None]:
    """The branch's pull request, in the repository or, of a fork, in what it is a fork of."""
    owner, client = to.repository.owner, Client(to.sender, to.repository)
    found = pulls.chosen(pulls.of_branch(client, owner, to.branch), base)
    parent = pulls.parent_of(client) if found is None else None
    if parent is None:
        return client, found
    above = repository_named(parent, f"https://{to.repository.host}")
    client = Client(to.sender, above)
    return client, pulls.chosen(pulls.of_branch(client, owner, to.branch), base)


def _base_branch(git: GitRepo, revision: str | None, remote: str) -> str | None:
    """The branch on the server that `revision` names here; None where it is no branch's name."""
    if revision is None:
        return None
    name = revision.removeprefix("refs/remotes/").removeprefix(f"{remote}/")
    name = name.removeprefix("refs/heads/")
    known = git.refs(f"refs/heads/{name}", f"refs/remotes/{remote}/{name}")
    is_branch = f"refs/heads/{name}" in known or f"refs/remotes/{remote}/{name}" in known
    return name if is_branch and name != "HEAD" else None


def _title(pr: PullRequest) -> str:
    return printable(" ".join(pr.title.split()))[: pulls.LONGEST_TITLE]


def _picture(git: GitRepo, page: str, repository: Repository) -> str | None:
    """Where the server shows the picture of a pushed page; None where the page has none."""
    there = any(entry.path == PICTURE for entry in git.tree(page, PICTURE))
    return f"{repository.url}/raw/{page}/{PICTURE}" if there else None
