"""Pages of pull requests as refs: `refs/soup/prs/SLUG`, a commit for each version of a page.

The first parent is the head that the page is about, so that head and all it names stay safe
from `git gc` and travel with a push; the second is the page before, if there was one.
"""

from __future__ import annotations

from collections.abc import Mapping

from soup_git.core.pullrequest import PRS
from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.storage.gitformats import RefUpdate
from soup_git.storage.gitrepo import GitRepo

PAGE, DATA, HTML, PICTURE = "pr.md", "pr.json", "pr.html", "heatmap.svg"


def store_page(
    git: GitRepo, slug: str, head: str, files: Mapping[str, bytes], title: str, verdict: str
) -> tuple[str, bool]:
    """(the commit that holds the page, whether it is new); an unchanged page stays as it is."""
    ref = PRS + slug
    tip = git.refs(ref).get(ref)
    before = _page_before(git, slug, tip)
    tree = git.write_tree(None, {name: git.write_blob(data) for name, data in files.items()})
    if before is not None and _parents(git, before)[:1] == [head] and _tree(git, before) == tree:
        if before != tip:
            git.update_refs([RefUpdate(ref, before, tip)], "git soup pr: take over the same page")
        return before, False
    parents = [head, *([before] if before is not None else [])]
    message = f"{_line(title)}\n\n{_line(verdict)}\n\nSoup-Page: {slug}\n"
    commit = git.write_record(tree, parents, message)
    git.update_refs([RefUpdate(ref, commit, tip)], f"git soup pr: {slug}")
    return commit, True


def _page_before(git: GitRepo, slug: str, tip: str | None) -> str | None:
    """The newest page of this name that is known here: ours, or one that a remote has."""
    copies = [
        oid for ref, oid in git.refs(f"refs/soup-remotes/*/prs/{slug}").items()
        if ref.endswith(f"/prs/{slug}") and git.resolve(oid) is not None
    ]  # fmt: skip
    for copy in copies:
        if tip is None or (tip != copy and git.is_ancestor(tip, copy)):
            tip = copy
    return tip


def _parents(git: GitRepo, commit: str) -> list[str]:
    return git.text("log", "-1", "--format=%P", commit).split()


def _tree(git: GitRepo, commit: str) -> str | None:
    return git.resolve(commit, "tree")


def _line(text: str) -> str:
    return printable(" ".join(text.split())) or "Page"


def page_file(git: GitRepo, slug: str, name: str) -> bytes:
    """One file of a stored page. Raises FatalError where there is none."""
    data = git.blob(f"{PRS}{slug}:{name}")
    if data is None:
        raise FatalError(
            f"there is no page {slug} here", hint="git for-each-ref refs/soup/prs lists them"
        )
    return data
