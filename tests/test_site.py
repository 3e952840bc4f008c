"""The documentation site: it builds without a warning, and no link in it is dead.

Links of pages, of their navigation and of README and CHANGELOG are followed to the file and
to the anchor; addresses on other hosts are only read, as the tests have no network. Nothing
that a browser loads by itself may come from another host.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="the docs extra is not installed")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; the same flags as `make site`."""
    folder = tmp_path_factory.mktemp("site")
    flags = ["--builder", "html", "--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    assert " ".join(flags) in (ROOT / "Makefile").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, "--doctree-dir", folder / "trees", DOCS, folder / "html"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


# -- links of a site --------------------------------------------------------------------------


@dataclass
class Page(HTMLParser):
    """What a page can be reached by, what it links to, and what it makes a browser load."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if "href" in values:
            (self.loads if tag == "link" else self.links).append(values["href"])
        if "src" in values:
            self.loads.append(values["src"])
        self.loads += addresses(values.get("style", ""))


def addresses(css: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", css)


def complaints(folder: Path) -> Iterator[str]:
    """Each dead link, dead anchor, malformed address and foreign load of the site in `folder`."""
    pages = {path: read(path) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        found = [wrong_link(link, path, pages) for link in page.links]
        found += [foreign(link) or wrong_link(link, path, pages) for link in page.loads]
        yield from (f"{path.relative_to(folder)}: {what}" for what in found if what)
    for path in sorted(folder.rglob("*.css")):
        found = [foreign(link) for link in addresses(path.read_text())]
        yield from (f"{path.relative_to(folder)}: {what}" for what in found if what)


def foreign(link: str) -> str:
    parts = urlsplit(link)
    return f"loads {link}" if parts.netloc or parts.scheme not in {"", "data"} else ""


def wrong_link(link: str, path: Path, pages: dict[Path, Page]) -> str:
    """What is wrong with a link on the page at `path`; nothing is "". Never asks another host."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme == "data" or is_address(link) else f"{link} is no address"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return f"{link} leads nowhere"
    if parts.fragment and unquote(parts.fragment) not in anchors(target, pages):
        return f"{link} has no such anchor"
    return ""


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


def anchors(target: Path, pages: dict[Path, Page]) -> set[str]:
    return pages[target].anchors | {"", "top"} if target in pages else set()


def is_address(link: str) -> bool:
    parts = urlsplit(link)
    if parts.scheme == "mailto":
        return "@" in parts.path
    is_host = re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.hostname or "") is not None
    return parts.scheme == "https" and is_host and not re.search(r"[\s<>]", link)


def test_no_link_of_the_site_is_dead_and_nothing_comes_from_elsewhere(site: Path) -> None:
    assert list(complaints(site)) == []
    assert len(list(site.rglob("*.html"))) >= len(list(DOCS.rglob("*.md")))


def test_a_dead_link_would_be_noticed(tmp_path: Path) -> None:
    """The control of the test above: each kind of mistake once, beside a link that is right."""
    (tmp_path / "other.html").write_text('<h1 id="here">Other</h1>')
    (tmp_path / "style.css").write_text("@font-face { src: url(https://fonts.example.com/a.woff) }")
    (tmp_path / "index.html").write_text(
        '<a href="other.html#here">right</a> <a href="https://example.com/a">right</a>'
        '<a href="gone.html">x</a> <a href="other.html#gone">x</a> <a href="#gone">x</a>'
        '<a href="https://nohost/">x</a> <img src="gone.png">'
        '<script src="https://cdn.example.com/a.js"></script>'
    )
    assert list(complaints(tmp_path)) == [
        "index.html: gone.html leads nowhere",
        "index.html: other.html#gone has no such anchor",
        "index.html: #gone has no such anchor",
        "index.html: https://nohost/ is no address",
        "index.html: gone.png leads nowhere",
        "index.html: loads https://cdn.example.com/a.js",
        "style.css: loads https://fonts.example.com/a.woff",
    ]


# -- links of the files beside docs/ ----------------------------------------------------------


def markdown_links(text: str) -> list[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def dead_in_markdown(name: str, text: str, site: Path) -> Iterator[str]:
    """Dead links of a Markdown file at the top of the repository; anchors are the site's."""
    for link in markdown_links(text):
        parts = urlsplit(link)
        if parts.scheme:
            if not is_address(link):
                yield f"{name}: {link} is no address"
        elif not (ROOT / parts.path).exists():
            yield f"{name}: {link} leads nowhere"
        elif parts.fragment:
            built = site / Path(parts.path).relative_to("docs").with_suffix(".html")
            if parts.fragment not in read(built).anchors:
                yield f"{name}: {link} has no such anchor"


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_no_link_of_the_files_at_the_top_is_dead(name: str, site: Path) -> None:
    assert list(dead_in_markdown(name, (ROOT / name).read_text(), site)) == []


def test_a_dead_link_in_markdown_would_be_noticed(site: Path) -> None:
    text = (
        "[a](docs/gone.md) [b](docs/reference/commands.md#git-soup-diff) `[c](gone)`"
        " [d](docs/reference/commands.md#git-soup-gone) [e](https://nohost/)"
    )
    assert list(dead_in_markdown("X.md", text, site)) == [
        "X.md: docs/gone.md leads nowhere",
        "X.md: docs/reference/commands.md#git-soup-gone has no such anchor",
        "X.md: https://nohost/ is no address",
    ]
