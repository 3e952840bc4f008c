"""`git soup ui` in a real browser: what a reader sees, reaches by keyboard, and is safe from."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ui.conftest import Served
from tests.ui.shop_window import HOSTILE_BRANCH, PAGE, RUN

pytest.importorskip("playwright", reason="needs playwright: pip install 'git-soup[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")

PAGES = (
    "/", "/status", "/graph", "/runs", f"/runs/{RUN}", "/evals", "/diff?a=main&b=politer", "/prs",
    f"/prs/{PAGE}",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # The sandbox needs rights that a container's root has not; nothing here leaves the machine.
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Window:
    """A browser's window with the cookie, and everything that happened in it."""

    def __init__(self, browser: Any, served: Served, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(30_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("requestfinished", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", self._failed)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.base = served.base
        self.page.goto(served.url)
        self.page.wait_for_url(f"{self.base}/")

    def _failed(self, request: Any) -> None:
        """What the browser itself held back did not leave it."""
        if request.failure != "csp":
            self.requests.append(request.url)

    def left(self) -> set[str]:
        """Requests to anybody but the server."""
        ours = ("data:", f"{self.base}/")
        return {url for url in self.requests if not url.startswith(ours)}

    def show(self, page: str) -> Any:
        self.page.goto(self.base + page)
        return self.page


@pytest.fixture(scope="module")
def window(browser, served: Served) -> Iterator[Window]:
    opened = Window(browser, served, color_scheme="light")
    yield opened
    opened.context.close()


def test_every_page_keeps_the_rules_of_accessibility(window: Window) -> None:
    """Contrast in light and dark, names, headings, landmarks and what else axe can measure."""
    from axe_playwright_python.sync_playwright import Axe

    axe, ours = Axe(), {"resultTypes": ["violations"], "iframes": False}
    colours = {**ours, "runOnly": {"type": "rule", "values": ["color-contrast"]}}
    window.requests.clear()
    window.complaints.clear()
    for place in PAGES:
        page = window.show(place)
        for scheme, rules in (("light", ours), ("dark", colours)):
            page.emulate_media(color_scheme=scheme)
            found = axe.run(page, options=rules)
            assert found.violations_count == 0, f"{place} {scheme}\n{found.generate_report()}"
        assert page.evaluate("document.querySelectorAll('script,[style],[onerror]').length") == 0
        assert page.evaluate("window.pwned") is None
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, place
        page.set_viewport_size({"width": 1280, "height": 900})
        if place == f"/prs/{PAGE}":  # there the browser tells what it kept a stored page from
            assert len(window.complaints) > 1
        else:
            assert window.complaints == [], place
    assert window.left() == set()


def test_axe_would_see_a_fault(window: Window) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = window.show("/runs")
    page.evaluate("document.querySelector('h1').style.color = '#ddd8d0'")
    page.emulate_media(color_scheme="light")
    rules = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
    assert Axe().run(page, options=rules).violations_count == 1


def test_names_from_outside_are_shown_letter_for_letter(window: Window) -> None:
    shown = window.show("/").inner_text("tbody tr:nth-child(3) th")
    assert shown == HOSTILE_BRANCH.replace("\u202e", "\\u202e")
    graph = window.show("/graph").inner_text("main")
    assert "\\x1b[31mred" in graph
    assert "<script>window.pwned=1</script>" in graph
    title = window.show(f"/prs/{PAGE}").inner_text("h1")
    assert title.startswith("Politer <script>")
    assert title.endswith("\\u202egnp.exe")


def test_a_stored_page_can_do_nothing_in_its_frame(browser, served: Served) -> None:
    window = Window(browser, served)
    page = window.show(f"/prs/{PAGE}")
    frame = page.frame_locator("iframe")
    assert frame.locator("h1").inner_text() == "Stored page"
    frame.locator("#send").click()
    frame.locator("#up").click()
    page.wait_for_timeout(300)
    assert page.url == f"{served.base}/prs/{PAGE}"
    assert page.title().startswith("Politer <script>")
    assert window.left() == set()
    # By itself it is no better off: the answer carries the sandbox, not only the frame.
    alone = window.show(f"/prs/{PAGE}/page")
    assert alone.evaluate("[window.pwned ?? null, window.origin]") == [None, "null"]
    window.context.close()


def test_the_keyboard_reaches_everything_and_is_seen(window: Window) -> None:
    page = window.show("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Status in full"
    page = window.show(f"/runs/{RUN}")
    met = []
    for _ in range(40):
        page.keyboard.press("Tab")
        tag, text, outline = page.evaluate(
            "(e => [e.tagName, e.textContent.slice(0, 40), getComputedStyle(e).outlineStyle])"
            "(document.activeElement)"
        )
        if tag == "BODY":
            break
        assert outline != "none", (tag, text)
        met.append((tag, text))
    there = page.evaluate("document.querySelectorAll('a,button,select,[tabindex=\"0\"]').length")
    assert len(met) == there
    assert [text for _, text in met[2:8]] == ["Overview", "Graph", "Runs", "Evals", "Diff", "Pull requests"]  # fmt: skip


def test_two_checkpoints_are_compared_without_a_script(browser, served: Served) -> None:
    window = Window(browser, served, java_script_enabled=False)
    page = window.show(f"/runs/{RUN}")
    page.select_option("#pick-b", label="100")
    page.click("button")
    page.wait_for_url("**/diff?**")
    assert page.inner_text("h1") == f"run/{RUN}@50 → run/{RUN}@100"
    page.fill("#spec-a", "main")
    page.keyboard.press("Enter")
    page.wait_for_url("**/diff?a=main**")
    assert page.locator(".map tbody tr").count() == 12
    assert page.locator("details").count() == 1
    window.context.close()


@pytest.fixture
def another_site(served: Served) -> Iterator[str]:
    """A page of another site (`localhost` is not `127.0.0.1`) that links to ours and frames it."""
    body = (
        f'<a id="key" href="{served.url}">key</a><a id="bare" href="{served.base}/">bare</a>'
        f'<iframe src="{served.base}/"></iframe><img src="{served.base}/style.css">'
    ).encode()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_another_site_can_bring_a_reader_and_nothing_more(
    browser, served: Served, another_site: str
) -> None:
    window = Window(browser, served)
    page = window.page
    with page.expect_response(f"{served.base}/") as framed:
        page.goto(another_site)
    assert framed.value.status == 403  # the cookie stayed at home
    page.click("#bare")
    assert page.inner_text("h1") == "Forbidden"
    page.click("text=I did that before")
    assert page.inner_text("h1") == "Overview"
    # As from a terminal in a web page: the key is enough, and is gone from the address.
    fresh = browser.new_context()
    page = fresh.new_page()
    page.goto(another_site)
    page.click("#key")
    page.wait_for_url(f"{served.base}/")
    assert page.inner_text("h1") == "Overview"
    fresh.close()
    window.context.close()
