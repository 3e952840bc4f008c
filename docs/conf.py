"""How Sphinx builds docs/ into a site: `make site`, into build/site.

Pages are Markdown that also reads well on a code host: plain links between files, no
directives but the navigation's at the end of index.md. Nothing on a page is loaded from
another host.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
REPOSITORY = "https://github.com/git-soup/git-soup"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
author = "The git-soup developers"
version = release = PROJECT["version"]
language = "en"

extensions = ["myst_parser"]
myst_heading_anchors = 4  # the slugs that a code host gives headings
myst_links_external_new_tab = False
source_suffix = {".md": "markdown"}
nitpicky = True

html_theme = "furo"
html_title = "git-soup"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_use_index = False
html_show_copyright = False
html_theme_options = {
    "source_repository": f"{REPOSITORY}/",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["view"],
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


class LinksIntoTheRepository(SphinxTransform):
    """Turns a link to a file of the repository that is no page into its place on the host."""

    default_priority = 5  # the parser has made nodes of links, nobody has resolved them yet

    def apply(self, **kwargs: Any) -> None:
        del kwargs
        folder = (Path(self.app.srcdir) / self.env.docname).parent
        for kind in (addnodes.pending_xref, addnodes.download_reference):
            for node in list(self.document.findall(kind)):
                file = (folder / str(node.get("reftarget", ""))).resolve()
                written = file.with_name(f"{file.name}.md")  # of a page, the parser drops it
                file = file if file.exists() else written
                if DOCS in file.parents or ROOT not in file.parents or not file.exists():
                    continue
                place = f"{REPOSITORY}/blob/main/{file.relative_to(ROOT).as_posix()}"
                node.replace_self(nodes.reference("", "", *node.children, refuri=place))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_transform(LinksIntoTheRepository)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
