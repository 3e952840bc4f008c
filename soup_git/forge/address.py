"""Which repository on which server a remote's URL names, and where that server's API is."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from soup_git.core.text import printable
from soup_git.errors import FatalError

GITHUB = "github.com"
_HOST = r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)"
_PATH = r"(?P<owner>[A-Za-z0-9][A-Za-z0-9_-]{0,99})/(?P<name>(?!\.{0,2}(?:\.git)?/?$)[A-Za-z0-9._-]{1,100})"
_URLS = (
    re.compile(rf"https://(?:[^/@\s\\?#]*@)?{_HOST}(?P<port>:[0-9]{{1,5}})?/{_PATH}/?"),
    re.compile(rf"ssh://(?:[A-Za-z0-9_.-]+@)?{_HOST}(?::[0-9]{{1,5}})?/{_PATH}/?"),
    re.compile(rf"(?:[A-Za-z0-9_.-]+@)?{_HOST}:/?{_PATH}/?"),
)


@dataclass(frozen=True)
class Repository:
    """A repository on a server. Each part has passed the server's own rules for names."""

    host: str
    """With its port, where that is not 443."""
    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def url(self) -> str:
        return f"https://{self.host}/{self.owner}/{self.name}"


def parse_remote(url: str) -> Repository | None:
    """The repository that `https://…`, `ssh://…` or `git@host:…` names; None for anything else."""
    for pattern in _URLS:
        found = pattern.fullmatch(url)
        if found is not None and ".." not in found["host"]:
            host = found["host"].lower()
            host = GITHUB if host in {f"ssh.{GITHUB}", f"www.{GITHUB}"} else host
            port = found.groupdict().get("port") or ""
            name = found["name"].removesuffix(".git")
            return Repository(host + ("" if port == ":443" else port), found["owner"], name)
    return None


def repository_named(text: str, server: str) -> Repository:
    """`OWNER/NAME` at the server whose address is `server`, as Actions give them."""
    found = parse_remote(f"{server.rstrip('/')}/{text}")
    if found is None:
        raise FatalError(
            f"{printable(text)!r} at {printable(server)!r} is no repository's name",
            hint="OWNER/NAME in GITHUB_REPOSITORY, and https://HOST in GITHUB_SERVER_URL",
        )
    return found


def api_address(repository: Repository, environment: Mapping[str, str]) -> str:
    """Where the server's API is: GITHUB_API_URL, else what GitHub's own programs take.

    Raises for one that is another server's: a token must not go where the remote is not.
    """
    given = environment.get("GITHUB_API_URL", "").rstrip("/")
    if not given:
        if repository.host == GITHUB or repository.host.endswith(".ghe.com"):
            return f"https://api.{repository.host}"
        return f"https://{repository.host}/api/v3"
    parts = urlsplit(given)
    host = parts.hostname or ""
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise FatalError(
            f"GITHUB_API_URL is {printable(given)}, and a token goes only where https does",
            hint="export GITHUB_API_URL=https://…, or unset GITHUB_API_URL",
        )
    server = urlsplit(environment.get("GITHUB_SERVER_URL", "")).netloc.lower()
    own = repository.host.partition(":")[0]
    if host.lower() not in {own, f"api.{own}"} and server != repository.host:
        raise FatalError(
            f"GITHUB_API_URL is {printable(given)}, which is not the API of {repository.host}",
            hint="unset GITHUB_API_URL, or set GITHUB_SERVER_URL to the server that it belongs to",
        )
    return given


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
