from __future__ import annotations

import pytest

from soup_git.errors import FatalError
from soup_git.forge.address import Repository, api_address, parse_remote
from soup_git.forge.api import Api, token_for


@pytest.mark.parametrize(
    ("url", "host", "name"),
    [
        ("https://github.com/acme/adapters", "github.com", "adapters"),
        ("https://github.com/acme/adapters.git/", "github.com", "adapters"),
        ("https://x:token@GitHub.com:443/acme/adapters.git", "github.com", "adapters"),
        ("git@github.com:acme/adapters.git", "github.com", "adapters"),
        ("github.com:acme/adapters", "github.com", "adapters"),
        ("ssh://git@ssh.github.com:443/acme/adapters.git", "github.com", "adapters"),
        ("https://git.acme.example:8443/acme/a.b_c-d.git", "git.acme.example:8443", "a.b_c-d"),
    ],
)
def test_what_a_remote_names(url: str, host: str, name: str) -> None:
    assert parse_remote(url) == Repository(host, "acme", name)


@pytest.mark.parametrize(
    "url",
    [
        "/srv/adapters.git", "../adapters", "file:///srv/adapters.git", "http://github.com/a/b",
        "git://github.com/a/b", "https://github.com/a", "https://github.com/a/b/c",
        "https://github.com/a/..", "https://github.com/a/.git", "https://github.com/-a/b",
        "https://github.com/a/b?x=1", "https://github.com/a/b#x", "https://github.com/a b/c",
        "https://github.com\\@evil.example/a/b", "https://github.com/a/b\n", "https://gi..com/a/b",
        "ext::sh -c evil", "https://github.com/a/%2e%2e", "https://evil.example/@github.com/a/b",
    ],
)  # fmt: skip
def test_what_is_no_repository_on_a_server(url: str) -> None:
    assert parse_remote(url) is None


HUB = Repository("github.com", "acme", "adapters")
OWN = Repository("git.acme.example", "acme", "adapters")


@pytest.mark.parametrize(
    ("repository", "environment", "address"),
    [
        (HUB, {}, "https://api.github.com"),
        (Repository("acme.ghe.com", "a", "b"), {}, "https://api.acme.ghe.com"),
        (OWN, {}, "https://git.acme.example/api/v3"),
        (OWN, {"GITHUB_API_URL": "https://git.acme.example/api/v3/"}, "https://git.acme.example/api/v3"),
        (HUB, {"GITHUB_API_URL": "https://api.github.com"}, "https://api.github.com"),
        (OWN, {"GITHUB_API_URL": "http://127.0.0.1:8", "GITHUB_SERVER_URL": "https://git.acme.example"},
         "http://127.0.0.1:8"),
    ],
)  # fmt: skip
def test_where_the_api_is(
    repository: Repository, environment: dict[str, str], address: str
) -> None:
    assert api_address(repository, environment) == address


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"GITHUB_API_URL": "http://api.github.com"}, "https"),
        ({"GITHUB_API_URL": "ftp://127.0.0.1"}, "https"),
        ({"GITHUB_API_URL": "https://evil.example"}, "not the API of github.com"),
        ({"GITHUB_API_URL": "https://api.github.com.evil.example"}, "not the API of github.com"),
        ({"GITHUB_API_URL": "https://github.com@evil.example"}, "not the API of github.com"),
    ],
)
def test_a_token_goes_nowhere_else(environment: dict[str, str], word: str) -> None:
    with pytest.raises(FatalError, match=word):
        api_address(HUB, environment)


def test_whose_token_is_whose() -> None:
    both = {"GH_TOKEN": "a", "GITHUB_TOKEN": "b", "GITHUB_ENTERPRISE_TOKEN": "c"}
    assert token_for(HUB, both) == ("GH_TOKEN", "a")
    assert token_for(HUB, {"GITHUB_TOKEN": "b"}) == ("GITHUB_TOKEN", "b")
    assert token_for(OWN, both) == ("GITHUB_ENTERPRISE_TOKEN", "c"), "not github.com's token"
    assert token_for(OWN, {"GH_TOKEN": "a"}) == ("", "")
    with pytest.raises(FatalError, match="GH_TOKEN has a line break"):
        Api("https://api.github.com", "a\nX-Other: b", "GH_TOKEN")
