"""Who may ask, and how an answer leaves: loopback, a key, one host name, reading only.

Any page in the user's browser can send requests to a port of this machine. So: the Host
header has to be ours (a name that was rebound to 127.0.0.1 is not), and every answer wants
a cookie that no other site's request carries. The key comes in the address once; what
answers it sets the cookie and goes on to the same address without the key. It does so by a
page that refreshes, not by a redirect: a browser that was sent here by another site, as by
a terminal in a web page, would not send a strict cookie along a redirect.
"""

from __future__ import annotations

import secrets
import socketserver
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from soup_git.errors import FatalError
from soup_git.ui.frame import bare
from soup_git.ui.markup import Html, link, tag
from soup_git.ui.site import Answer, Site

ADDRESS = "127.0.0.1"
_SLOW_SECONDS = 30
_MOST_FIELDS = 20

_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; frame-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
# What somebody pushed: an origin of its own, no script, no form, no request.
_SANDBOX = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'self'"
)
_ALWAYS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Keys:
    """What opens the pages: a key to show, one that works once, and what the browser keeps."""

    def __init__(self) -> None:
        self.shown = secrets.token_urlsafe(32)
        self._once = {secrets.token_urlsafe(32)}
        self.kept = secrets.token_urlsafe(32)
        self._lock = threading.Lock()

    @property
    def once(self) -> str:
        """For a browser's command line, which every user of this machine can read."""
        return next(iter(self._once))

    def opens(self, key: str) -> bool:
        if _equal(key, self.shown):
            return True
        with self._lock:
            if any(_equal(key, one) for one in self._once):
                self._once.clear()
                return True
        return False

    def is_kept(self, cookie: str) -> bool:
        return _equal(cookie, self.kept)


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode("utf-8", "replace"), other.encode())


class Server(ThreadingHTTPServer):
    """A thread for each request: a diff that takes long holds up nobody else."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.keys = Keys()
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise FatalError(
                f"port {port} of {ADDRESS} cannot be used: {error.strerror}",
                hint="git soup ui, without --port, takes one that is free",
            ) from None

    def server_bind(self) -> None:
        # Of the class above: http.server's own asks DNS for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away is no news; anything else was answered with its reason."""

    @property
    def hosts(self) -> set[str]:
        return {f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"}

    def address(self, key: str) -> str:
        return f"http://{ADDRESS}:{self.server_port}/?{urlencode({'token': key})}"

    @property
    def cookie(self) -> str:
        # Cookies do not know ports: two servers must not overwrite each other's.
        return f"soup-{self.server_port}"


@dataclass(frozen=True)
class Request:
    path: str
    query: Mapping[str, str]


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = _SLOW_SECONDS

    def version_string(self) -> str:
        return "git-soup"

    def do_GET(self) -> None:
        try:
            self._get()
        except ConnectionError:
            self.close_connection = True
        except Exception:  # noqa: BLE001 - the edge: whatever arrives here is our bug
            traceback.print_exc()
            self._say(
                HTTPStatus.INTERNAL_SERVER_ERROR, "a bug in git-soup, told where git soup ui runs"
            )

    def do_HEAD(self) -> None:
        self.do_GET()

    def _get(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "this address is not that of git soup ui")
            return
        request = _request(self.path)
        if request is None:
            self._say(HTTPStatus.BAD_REQUEST, "this is no address that could name a page")
        elif "token" in request.query:
            self._unlock(request)
        elif not self._has_cookie():
            self._say(
                HTTPStatus.FORBIDDEN,
                "open the address that git soup ui printed: the key is in it",
                tag("p", link("/", "I did that before in this browser"), "."),
            )
        else:
            self._send(self.server.site.answer(request.path, request.query))

    def _unlock(self, request: Request) -> None:
        """Take the key, leave the cookie, go on to the same address without the key."""
        if not (self._has_cookie() or self.server.keys.opens(request.query["token"])):
            self._say(
                HTTPStatus.FORBIDDEN,
                "this key opens nothing, or no more: open the address that git soup ui printed",
            )
            return
        left = urlencode({k: v for k, v in request.query.items() if k != "token"})
        target = "/" + quote(request.path.lstrip("/")) + (f"?{left}" if left else "")
        page = bare("git soup", tag("p", link(target, "Go on")), refresh=target)
        flags = "Path=/; HttpOnly; SameSite=Strict"
        cookie = f"{self.server.cookie}={self.server.keys.kept}; {flags}"
        self._send(_page(HTTPStatus.OK, page), {"Set-Cookie": cookie})

    def _has_cookie(self) -> bool:
        for part in self.headers.get("Cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.server.cookie and self.server.keys.is_kept(value):
                return True
        return False

    # -- what is not answered -------------------------------------------------------------

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: a request that is none, and every other method."""
        self.close_connection = True
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "git soup ui is read-only"
        words = " ".join(part for part in (message, explain) if part)
        self._send(_told(status, words or status.description), {"Allow": "GET, HEAD"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' word
        """Say nothing: a line for each request would hide what matters, and hold the key."""

    # -- sending --------------------------------------------------------------------------

    def _say(self, status: HTTPStatus, words: str, *more: Html) -> None:
        self._send(_told(status, words, *more))

    def _send(self, answer: Answer, more: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(answer.status)
        frames = "SAMEORIGIN" if answer.untrusted else "DENY"
        policy = _SANDBOX if answer.untrusted else _POLICY
        headers = {
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": policy,
            "X-Frame-Options": frames,
            **_ALWAYS,
            **more,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _told(status: HTTPStatus, words: str, *more: Html) -> Answer:
    return _page(status, bare(status.phrase, tag("p", words), *more))


def _page(status: HTTPStatus, page: Html) -> Answer:
    return Answer(status, "text/html; charset=utf-8", page.encode("utf-8", "backslashreplace"))


def _request(target: str) -> Request | None:
    """A path and its query; None for what is neither, as `..`, NUL or bytes that are no UTF-8."""
    if not target.startswith("/"):
        return None
    try:
        parts = urlsplit(f"http://{ADDRESS}{target}")
        path = unquote(parts.path, errors="strict")
        query = parse_qsl(
            parts.query, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict"
        )
    except ValueError:
        return None
    if ".." in path.split("/") or not path.isprintable():
        return None
    return Request(path, dict(query))
