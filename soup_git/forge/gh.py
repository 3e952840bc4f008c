"""GitHub's own program, `gh`: it knows its user, and no token of theirs comes here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

from soup_git.core.text import printable
from soup_git.forge.api import API_VERSION, Answer, UnansweredError

_QUIET = {"GH_PROMPT_DISABLED": "1", "GH_NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1", "GH_DEBUG": ""}
_LOGIN_SECONDS = 30.0


class GhProgram:
    """Sends requests through `gh api`."""

    def __init__(self, program: str, host: str) -> None:
        self.credentials = f"gh's login at {host}"
        self._program = program
        self._host = host

    @classmethod
    def logged_in(cls, host: str) -> GhProgram | None:
        """`gh`, where it is installed and has a login for `host`."""
        program = shutil.which("gh")
        if program is None:
            return None
        try:
            # Prints the token, which nobody reads: only whether there is one.
            known = subprocess.run(
                [program, "auth", "token", "--hostname", host],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                check=False, env={**os.environ, **_QUIET}, timeout=_LOGIN_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return cls(program, host) if known.returncode == 0 else None

    def send(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float
    ) -> Answer:
        words = ["api", "--hostname", self._host, "--method", method, "--include"]
        words += ["--header", f"X-GitHub-Api-Version: {API_VERSION}"]
        words += [] if body is None else ["--input", "-"]
        try:
            done = subprocess.run(
                [self._program, *words, path.removeprefix("/")],
                input=b"" if body is None else json.dumps(body).encode(),
                capture_output=True, check=False, env={**os.environ, **_QUIET}, timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise UnansweredError(f"no answer within {timeout:.3g} seconds") from None
        answer = _parsed(done.stdout)
        if answer is None:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise UnansweredError(f"gh: {printable(said[-1]) if said else 'it said nothing'}")
        return answer

    def without_secrets(self, text: str) -> str:
        return text


def _parsed(out: bytes) -> Answer | None:
    """What `gh api --include` prints: a status line, headers, an empty line, the body."""
    first, _, rest = out.partition(b"\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return None
    headers: dict[str, str] = {}
    while rest:
        line, _, rest = rest.partition(b"\n")
        if not line.strip():
            break
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers[name.strip().lower()] = value.strip()
    return Answer(int(words[1]), headers, rest)
