"""The page of a pull request in its forms, kept as a ref and shown in a browser."""

from __future__ import annotations

from collections.abc import Callable

from soup_git.commands import prarchive
from soup_git.core.pullrequest import PullRequest
from soup_git.core.text import printable
from soup_git.render.browser import can_open, open_in_browser
from soup_git.render.drift import drift_map
from soup_git.render.heatsvg import picture
from soup_git.render.prhtml import as_html_page
from soup_git.render.prmarkdown import as_markdown_page
from soup_git.render.report import as_json, say
from soup_git.storage.files import write_atomically
from soup_git.storage.pullrequests import DATA, HTML, PAGE, PICTURE, store_page
from soup_git.storage.workspace import Workspace

FORMATS: dict[str, Callable[[PullRequest], str]] = {
    "markdown": as_markdown_page,
    "json": as_json,
    "html": as_html_page,
}


def store(workspace: Workspace, pr: PullRequest) -> str:
    """Keep the page in its ref; returns the commit, which is the old one for an equal page."""
    other = _another(workspace, pr)
    commit, is_new = store_page(
        workspace.git, pr.slug, pr.head.commit, page_files(pr), pr.title, pr.verdict.line
    )
    if is_new:
        say(f"kept as {pr.ref} ({commit[:10]})")
        if other is not None:
            say(
                f"there was the page of {printable(other)}, now in its history; --slug NAME keeps both"
            )
    return commit


def _another(workspace: Workspace, pr: PullRequest) -> str | None:
    """The head of another pull request whose page has this name; two titles may give the same."""
    git = workspace.git
    before = git.resolve(f"{pr.ref}^1")
    name = prarchive.head_name(git.blob(f"{pr.ref}:{DATA}") or b"")
    if before is None or name in {None, pr.head.name} or git.is_ancestor(before, pr.head.commit):
        return None
    return name


def page_files(pr: PullRequest) -> dict[str, bytes]:
    """What a stored page consists of: file name -> bytes. The picture only where there is drift."""
    maps = [
        (adapter.path, drift_map(adapter.layers))
        for adapter in pr.adapters
        if adapter.layers and adapter.drift is not None and not adapter.drift.equal
    ]
    page = as_markdown_page(pr, image=PICTURE if maps else None)
    files = {PAGE: page, DATA: as_json(pr), HTML: as_html_page(pr)}
    if maps:
        files[PICTURE] = picture(maps)
    return {name: text.encode("utf-8", "backslashreplace") for name, text in files.items()}


def show_in_browser(workspace: Workspace, pr: PullRequest) -> None:
    """Open the page as html from a file under git's own folder."""
    path = workspace.git.common_dir / "soup" / "pages" / f"{pr.slug}.html"
    write_atomically(path, as_html_page(pr).encode("utf-8", "backslashreplace"))
    if not can_open() or not open_in_browser(path.as_uri()):
        say(f"no browser could be started; the page is {path}")
