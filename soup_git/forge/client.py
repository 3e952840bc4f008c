"""Questions to GitHub's REST API: asked again where that can help, answered or a clear end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.forge.address import Repository
from soup_git.forge.api import Answer, Sender, UnansweredError
from soup_git.render.report import say

_PAGE = 100
_PAGES = 100
"""Ten thousand comments: a pull request with more is none that a person reviews."""
_LONGEST_WORDS = 300


@dataclass(frozen=True)
class Patience:
    """Seconds, and how often."""

    request: float = 30.0
    """For one answer."""
    attempts: int = 5
    first_wait: float = 0.5
    """Doubled with each attempt, where the server names no time."""
    longest_wait: float = 60.0
    """A server that asks for more is not waited for."""
    altogether: float = 150.0


class UnsureError(Exception):
    """The server may have done what it was asked, once; look before asking again."""


class Client:
    """Asks about one repository."""

    def __init__(
        self, sender: Sender, repository: Repository, patience: Patience | None = None
    ) -> None:
        self._sender = sender
        self.repository = repository
        self._patience = patience or Patience()
        self._until = time.monotonic() + self._patience.altogether

    def get(self, path: str, *, optional: tuple[int, ...] = ()) -> Any:
        """The JSON at `path`; None for a status that is `optional`."""
        return self._ask("GET", path, None, optional=optional)

    def change(
        self, method: str, path: str, body: Mapping[str, Any], *, optional: tuple[int, ...] = ()
    ) -> Any:
        """PATCH, which may be asked twice."""
        return self._ask(method, path, body, optional=optional)

    def create(self, path: str, body: Mapping[str, Any], *, optional: tuple[int, ...] = ()) -> Any:
        """POST, never twice where the first may have worked: that raises UnsureError."""
        return self._ask("POST", path, body, optional=optional)

    def delete(self, path: str) -> None:
        """DELETE; what is gone already is gone."""
        self._ask("DELETE", path, None, optional=(404, 410))

    def pages(self, path: str) -> Iterator[dict[str, Any]]:
        """Every object of a list, page by page; `path` has its `?` already."""
        for page in range(1, _PAGES + 1):
            items = self.get(f"{path}&per_page={_PAGE}&page={page}")
            if not isinstance(items, list):
                raise self._nonsense(path)
            yield from (item for item in items if isinstance(item, dict))
            if len(items) < _PAGE:
                return

    # -- asking ---------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, optional: tuple[int, ...]
    ) -> Any:
        wait = self._patience.first_wait
        why = ""
        for attempt in range(self._patience.attempts):
            is_limit = False
            try:
                answer = self._sender.send(method, path, body, self._patience.request)
            except UnansweredError as error:
                why, pause = str(error), wait
            else:
                if answer.status < 300 or answer.status in optional:
                    return self._said(answer, path)
                is_limit = answer.status in {403, 429}
                is_last = attempt + 1 == self._patience.attempts
                pause = self._pause(answer, wait, is_last=is_last)
                why = f"it answers {answer.status}"
            if time.monotonic() + pause > self._until:
                break
            if pause >= 1:
                say(f"{self.repository.host}: {printable(why)}; again in {pause:.0f} seconds")
            time.sleep(pause)
            # Of a request that a limit turned away, nothing was done.
            if method == "POST" and not is_limit:
                raise UnsureError(why)
            wait *= 2
        raise self.too_slow(why)

    def _said(self, answer: Answer, path: str) -> Any:
        if answer.status >= 300 or answer.status == 204:
            return None
        data = answer.json()
        if data is None:
            raise self._nonsense(path)
        return data

    def _pause(self, answer: Answer, wait: float, *, is_last: bool) -> float:
        """Seconds until the same may be answered otherwise; raises where it will not."""
        if not _may_pass(answer):
            raise self._refused(answer)
        pause = _asked_to_wait(answer) or wait
        if answer.status in {403, 429} and (is_last or pause > self._patience.longest_wait):
            raise self._limited(answer, pause)
        return min(pause, self._patience.longest_wait)

    def _limited(self, answer: Answer, pause: float) -> FatalError:
        return FatalError(
            f"{self.repository.host} takes no more requests for now: {self._words(answer)}",
            hint=f"in {pause:.0f} seconds, the same again",
        )

    def too_slow(self, why: str) -> FatalError:
        return FatalError(
            f"{self.repository.host} did not answer: {printable(self._sender.without_secrets(why))}",
            hint="https://www.githubstatus.com tells whether it is GitHub; then the same again",
        )

    def _words(self, answer: Answer) -> str:
        """What the server said, made safe and short."""
        data = answer.json()
        said = data.get("message") if isinstance(data, dict) else None
        words = [said] if isinstance(said, str) else []
        errors = data.get("errors") if isinstance(data, dict) else None
        for error in errors if isinstance(errors, list) else []:
            text = error.get("message") if isinstance(error, dict) else error
            words += [text] if isinstance(text, str) else []
        text = self._sender.without_secrets("; ".join(words) or "it says no more")
        return printable(text[:_LONGEST_WORDS])

    def _refused(self, answer: Answer) -> FatalError:
        repository, words = self.repository, self._words(answer)
        known = self._sender.credentials
        if answer.status == 401:
            return FatalError(
                f"{repository.host} does not accept {known}: {words}",
                hint="gh auth login, or export GH_TOKEN with a token that is valid",
            )
        if answer.status == 403:
            return FatalError(
                f"{repository.host} does not allow this to {known}: {words}",
                hint="a token needs `pull requests: write` on the repository; in an Action,"
                " `permissions: pull-requests: write`, and a fork's pull request needs the split"
                " of docs/howto/github.md",
            )
        if answer.status in {404, 410}:
            return FatalError(
                f"{repository} at {repository.host} is not there for {known}: {words}",
                hint=f"git remote -v, and {repository.url} in a browser; a token sees only the"
                " repositories that it was made for",
            )
        if 300 <= answer.status < 400:
            return FatalError(
                f"{repository} has moved: {repository.host} answers {answer.status}",
                hint="git remote set-url REMOTE URL, with its new address",
            )
        return FatalError(
            f"{repository.host} does not take it ({answer.status}): {words}",
            hint=f"{repository.url}/pulls shows what is there",
        )

    def _nonsense(self, path: str) -> FatalError:
        return FatalError(
            f"{self.repository.host} answers {printable(path.partition('?')[0])} with what is no"
            " answer of GitHub's API",
            hint="GITHUB_API_URL names another server's API, where it is not api.github.com",
        )

    def field(self, item: Any, kind: type, *names: str) -> Any:
        """`item[name][name]…`, of a type; raises where the server says something else."""
        value = item
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise self._nonsense("/".join(names))
        return value


def _may_pass(answer: Answer) -> bool:
    """Whether the same request may be answered otherwise in a while."""
    if answer.status >= 500 or answer.status in {408, 429}:
        return True
    if answer.status != 403:
        return False
    limited = answer.headers.get("x-ratelimit-remaining") == "0"
    return limited or "retry-after" in answer.headers or b"rate limit" in answer.body[:4096].lower()


def _asked_to_wait(answer: Answer) -> float | None:
    """The seconds that a server asks for; of a limit that names none, GitHub says a minute."""
    after = answer.headers.get("retry-after", "")
    if after.isdecimal() and len(after) < 9:
        return float(after)
    reset = answer.headers.get("x-ratelimit-reset", "")
    if answer.headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal() and len(reset) < 13:
        return max(1.0, float(reset) - time.time())
    return 60.0 if answer.status in {403, 429} else None
