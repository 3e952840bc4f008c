"""What a step knows: its inputs, the event that started the job, and what steps before it found."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from soup_git.core.text import printable
from soup_git.errors import FatalError
from soup_git.forge.address import Repository, repository_named
from soup_git.storage.files import write_atomically

SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
COMMENT = "comment.md"
POSTING = "posting.json"


@dataclass(frozen=True)
class Change:
    """The pull request that the event is about."""

    number: int
    title: str
    base: str
    base_branch: str
    head: str
    head_branch: str
    is_fork: bool


@dataclass
class Found:
    """What the steps found, one after the other; kept in a file between them."""

    merge_base: str = ""
    drift: list[str] | None = None
    """Lines; None before the lock was checked."""
    gate: str = "none"
    """passed, warning, failed, unknown, or none where nothing was asked."""
    verdict: str = ""
    verdict_line: str = ""
    has_adapters: bool = False
    comment_url: str = ""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(what went wrong, what to do) in steps that the review goes on without."""


@dataclass(frozen=True)
class Job:
    environment: Mapping[str, str]

    def input(self, name: str) -> str:
        """An input of the action, by its name; empty where it was not given."""
        return self.environment.get(f"SOUP_{name.upper().replace('-', '_')}", "").strip()

    def is_on(self, name: str) -> bool:
        value = self.input(name).lower()
        if value not in {"true", "false", ""}:
            raise FatalError(
                f"the input {name} is {printable(value)!r}", hint=f"{name}: true, or {name}: false"
            )
        return value == "true"

    @property
    def token(self) -> str:
        return self.environment.get("GITHUB_TOKEN", "")

    @property
    def event_name(self) -> str:
        return self.environment.get("GITHUB_EVENT_NAME", "")

    @cached_property
    def event(self) -> dict[str, Any]:
        path = Path(self._given("GITHUB_EVENT_PATH"))
        data = json.loads(path.read_text("utf-8"))
        return data if isinstance(data, dict) else {}

    @cached_property
    def folder(self) -> Path:
        """Ours alone, outside of the checkout; the artifact is what lies in `page` below it."""
        return Path(self._given("RUNNER_TEMP"), "git-soup")

    @property
    def page(self) -> Path:
        return self.folder / "page"

    @property
    def repository(self) -> Repository:
        server = self.environment.get("GITHUB_SERVER_URL") or "https://github.com"
        return repository_named(self._given("GITHUB_REPOSITORY"), server)

    def run_url(self, run: str) -> str:
        return f"{self.repository.url}/actions/runs/{run}"

    def _given(self, name: str) -> str:
        value = self.environment.get(name, "")
        if not value:
            raise FatalError(
                f"{name} is not set: this is a step of a GitHub Action",
                hint="git soup pr shows the page here",
            )
        return value

    # -- the event ------------------------------------------------------------------------------

    @cached_property
    def change(self) -> Change:
        """The pull request. Raises for an event that is about none, unless inputs name two ends."""
        if self.event_name == "pull_request_target":
            raise FatalError(
                "pull_request_target gives a token that can write to the code of a fork",
                hint="on: pull_request, and for forks the second workflow of docs/howto/github.md",
            )
        pull = self.event.get("pull_request")
        if not isinstance(pull, dict):
            return self._named_by_inputs()
        ours, theirs = (_at(pull, side, "repo", "full_name") for side in ("base", "head"))
        return Change(
            number=int(pull["number"]),
            title=str(pull.get("title") or ""),
            base=_commit(self.input("base") or _at(pull, "base", "sha")),
            base_branch=str(_at(pull, "base", "ref")),
            head=_commit(self.input("head") or _at(pull, "head", "sha")),
            head_branch=str(_at(pull, "head", "ref")),
            # The repository of a fork that was deleted is null.
            is_fork=ours is None or ours != theirs,
        )

    def _named_by_inputs(self) -> Change:
        base, head = self.input("base"), self.input("head")
        if not (base and head):
            raise FatalError(
                f"the event {printable(self.event_name)!r} is about no pull request",
                hint="on: pull_request, or the inputs base and head, two commits",
            )
        title = self.input("title")
        return Change(0, title, _commit(base), base, _commit(head), head, is_fork=False)

    # -- between steps ----------------------------------------------------------------------------

    def found(self) -> Found:
        path = self.folder / "found.json"
        if not path.is_file():
            return Found()
        data = json.loads(path.read_text("utf-8"))
        return Found(**{**data, "failures": [(what, how) for what, how in data["failures"]]})

    def keep(self, found: Found) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "found.json", json.dumps(asdict(found)).encode())


def _at(item: Any, *names: str) -> Any:
    for name in names:
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _commit(value: Any) -> str:
    if not isinstance(value, str) or not SHA.fullmatch(value):
        raise FatalError(
            f"{printable(str(value))!r} is no commit's id",
            hint="base: ${{ github.event.pull_request.base.sha }}, or nothing",
        )
    return value


def job_here() -> Job:
    return Job(os.environ)
