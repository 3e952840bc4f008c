"""What a step says to GitHub's runner: masks, annotations, outputs, the job's summary.

The runner obeys lines of a step's output that look like its commands. Everything that we or
git print goes out while it is told not to look.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from soup_git.core.text import printable


@contextmanager
def unheard() -> Iterator[None]:
    """Within it, no line of the output is a command; stderr joins stdout, so that order holds."""
    word = secrets.token_hex(16)
    sys.stderr.flush()
    _say(f"::stop-commands::{word}")
    os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
    try:
        yield
    finally:
        sys.stderr.flush()
        _say(f"::{word}::")


def mask(secret: str) -> None:
    """Have the runner print `***` wherever this would be printed."""
    if secret:
        _say(f"::add-mask::{_data(secret)}")


def annotate(kind: str, title: str, text: str) -> None:
    """An error, a warning or a notice on the run's page."""
    name = _data(printable(title)).replace(":", "%3A").replace(",", "%2C")
    _say(f"::{kind} title={name}::{_data(printable(text, keep_newlines=True))}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def set_outputs(values: Mapping[str, str]) -> None:
    """Outputs of the step, whatever is in the values."""
    text = ""
    for name, value in values.items():
        end = secrets.token_hex(16)
        text += f"{name}<<{end}\n{value}\n{end}\n"
    _append("GITHUB_OUTPUT", text)


def add_to_summary(markdown: str) -> None:
    _append("GITHUB_STEP_SUMMARY", f"{markdown}\n")


def _append(variable: str, text: str) -> None:
    path = os.environ.get(variable)
    if path:
        with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
