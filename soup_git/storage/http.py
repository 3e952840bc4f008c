"""The door to HTTP: a request that may carry a secret, and an answer by a moment in time."""

from __future__ import annotations

import http.client
import time
import urllib.request
from typing import Any


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn a POST into a GET, and carry a key or a token to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def open_url(request: urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """Send a request; a redirect is an `HTTPError` like any other.

    Raises what urllib raises. `timeout` (seconds) is for each single wait; `whole_body` ends
    an answer that drips.
    """
    opened: http.client.HTTPResponse = _OPENER.open(request, timeout=timeout)
    return opened


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
