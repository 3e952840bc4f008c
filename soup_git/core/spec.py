"""Adapter specs: how every command names an adapter.

Parsing lists what a text *can* mean; `storage.resolver` looks which of these exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RUN = re.compile(r"run/(?P<run>[A-Za-z0-9][A-Za-z0-9._\-]{0,127})(?:@(?P<step>\d{1,12}))?")


@dataclass(frozen=True)
class FolderSpec:
    """An existing folder; `./x` allows no other reading."""

    path: str

    def forced(self) -> str:
        return self.path if self.path.startswith((".", "/")) else f"./{self.path}"


@dataclass(frozen=True)
class RevisionSpec:
    """A revision, with the adapter's folder in it when one is named."""

    revision: str
    path: str | None = None

    def forced(self) -> str:
        return f"{self.revision}:{self.path or 'PATH'}"


@dataclass(frozen=True)
class RunSpec:
    """A checkpoint of a training run; `step` None is its last."""

    run: str
    step: int | None = None

    @property
    def ref(self) -> str:
        return f"refs/soup/runs/{self.run}"

    def forced(self) -> str:
        return f"soup/runs/{self.run}:PATH"


Reading = FolderSpec | RevisionSpec | RunSpec


def readings(text: str) -> list[Reading]:
    """Everything `text` can mean, most specific first. Never empty."""
    if text.startswith(("./", "../", "/")) or text in {".", ".."}:
        return [FolderSpec(text)]
    found: list[Reading] = [FolderSpec(text)]
    run = _RUN.fullmatch(text)
    if run:
        found.append(RunSpec(run["run"], int(run["step"]) if run["step"] else None))
    if not text.startswith("-"):
        revision, colon, path = text.partition(":")
        if colon and revision:
            found.append(RevisionSpec(revision, path.strip("/") or None))
        elif not colon:
            found.append(RevisionSpec(text))
    return found
