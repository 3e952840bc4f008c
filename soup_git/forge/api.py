"""One request to a server's API and its answer, by urllib with a token from the environment."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from soup_git import __version__
from soup_git.errors import FatalError
from soup_git.forge.address import GITHUB, Repository, api_address
from soup_git.storage.http import open_url, whole_body

API_VERSION = "2022-11-28"
LARGEST_ANSWER = 32 << 20
"""A page of a hundred comments of the largest size fits."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        """The parsed body; None where it is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class UnansweredError(Exception):
    """No answer: whether the server did what it was asked is not known."""


class Sender(Protocol):
    """How requests reach the server."""

    credentials: str
    """What it speaks with, for messages: `the token in GH_TOKEN`."""

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float
    ) -> Answer:
        """One request; `path` starts with `/`. Raises UnansweredError."""

    def without_secrets(self, text: str) -> str:
        """`text` with the token taken out, should a server have said it back."""


class Api:
    """Speaks HTTP itself."""

    def __init__(self, address: str, token: str, variable: str) -> None:
        """`address` is the API's, without a slash at its end. Raises for what is no token."""
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise FatalError(
                f"${variable} has a line break, or another character that no token has",
                hint=f"export {variable}=$(tr -d '[:space:]' < FILE)",
            )
        self.credentials = f"the token in {variable}"
        self._address = address
        self._token = token

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float
    ) -> Answer:
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {self._token}",
            "User-Agent": f"git-soup/{__version__}",
            "X-GitHub-Api-Version": API_VERSION,
        }
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(  # noqa: S310 - api_address lets https and loopback pass
            self._address + path, data=data, headers=headers, method=method
        )
        until = time.monotonic() + timeout
        try:
            try:
                with open_url(request, timeout) as answer:
                    return _read(answer.status, answer, until)
            except urllib.error.HTTPError as error:
                with error:
                    return _read(error.code, cast(http.client.HTTPResponse, error.fp), until)
        except urllib.error.URLError as error:
            slow = isinstance(error.reason, TimeoutError)
            raise UnansweredError(_slow(timeout) if slow else f"{error.reason}") from None
        except TimeoutError:
            raise UnansweredError(_slow(timeout)) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnansweredError(f"the answer was cut off ({type(error).__name__})") from None

    def without_secrets(self, text: str) -> str:
        return text.replace(self._token, "***")


def _slow(timeout: float) -> str:
    return f"no answer within {timeout:.3g} seconds"


def _read(status: int, answer: http.client.HTTPResponse, until: float) -> Answer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(status, headers, whole_body(answer, until, LARGEST_ANSWER))


def token_for(
    repository: Repository, environment: Mapping[str, str] = os.environ
) -> tuple[str, str]:
    """(variable, token); both empty where there is none.

    GH_TOKEN and GITHUB_TOKEN are tokens of github.com (and of GitHub's own *.ghe.com); another
    server gets them only where GITHUB_API_URL names it, as in its Actions.
    """
    names = ["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"]
    is_githubs = repository.host == GITHUB or repository.host.endswith(".ghe.com")
    if is_githubs or environment.get("GITHUB_API_URL"):
        names = ["GH_TOKEN", "GITHUB_TOKEN"]
    return next(((name, environment[name]) for name in names if environment.get(name)), ("", ""))


def api_for(repository: Repository, environment: Mapping[str, str] = os.environ) -> Api | None:
    """The API of a repository's server with the environment's token; None where it has none."""
    variable, token = token_for(repository, environment)
    return Api(api_address(repository, environment), token, variable) if token else None
