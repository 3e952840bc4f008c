from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forge.fake_github import FakeGitHub, serving


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    """A server that speaks as GitHub's API does, with the repository acme/adapters."""
    with serving() as state:
        yield state
