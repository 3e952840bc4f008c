"""The door to HTTP: a request that may carry a secret, and an answer by a moment in time."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urljoin, urlsplit

_MOST_REDIRECTS = 5
_HEADERS_FOR_ANYBODY = ("Accept", "User-agent")
"""As `urllib.request.Request` spells them; any other header may hold a secret."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn a POST into a GET, and carry a key or a token to another host."""

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> None:
        """Leave it an error: urllib's own reads the target first, and fails at a malformed one."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


_OPENER = urllib.request.build_opener(_NoRedirect)


def open_url(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """Send a request; a redirect is an `HTTPError` like any other.

    Raises what urllib raises. `timeout` (seconds) is for each single wait; `whole_body` ends
    an answer that drips.
    """
    opened: http.client.HTTPResponse = _OPENER.open(request, timeout=timeout)
    return opened


def open_moved_url(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """Send a GET as `open_url` does, and follow redirects: to another server without secrets.

    A server is a scheme, a host and a port. A redirect out of TLS, to what is no HTTP, or after
    the fifth, is not followed: it is an `HTTPError`.
    """
    if request.get_method() != "GET":
        raise ValueError(f"a {request.get_method()} is never sent again elsewhere")
    for _ in range(_MOST_REDIRECTS):
        try:
            return open_url(request, timeout)
        except urllib.error.HTTPError as error:
            target = (
                error.headers.get("Location") if error.code in {301, 302, 303, 307, 308} else None
            )
            following = _moved(request, target) if target else None
            if following is None:
                raise
            error.close()
            request = following
    return open_url(request, timeout)


def _moved(request: urllib.request.Request, target: str) -> urllib.request.Request | None:
    """The same question at a redirect's target; None where that is no place to ask."""
    try:
        url = urljoin(request.full_url, target)
    except ValueError:
        return None
    before, after = _server(request.full_url), _server(url)
    if after is None or before is None or (before[0] == "https" and after[0] != "https"):
        return None
    kept = dict(request.header_items())
    if before != after:
        kept = {name: value for name, value in kept.items() if name in _HEADERS_FOR_ANYBODY}
    return urllib.request.Request(url, headers=kept)  # noqa: S310 - _server lets HTTP alone pass


def _server(url: str) -> tuple[str, str, int] | None:
    """(scheme, host, port) of an address; None of what is no plain HTTP address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        return None
    has_login = parts.username is not None or parts.password is not None
    return None if has_login or not parts.hostname else (parts.scheme, parts.hostname, port)


def whole_body(answer: http.client.HTTPResponse, deadline: float, largest: int) -> bytes:
    """The body, by a moment of the monotonic clock: a socket's timeout starts anew with each byte.

    At most about `largest` bytes. Raises `TimeoutError`, and `IncompleteRead` for an answer
    that was cut off.
    """
    parts: list[bytes] = []
    size = 0
    while size < largest and (part := answer.read1(1 << 16)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    if size < largest and answer.length:
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)
